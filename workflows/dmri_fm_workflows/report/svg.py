"""SVG documents of pictures, lines and text, with two layers that a slider wipes."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pictures wider than this are reduced before they are embedded, pixels.
WIDEST_PICTURE = 1100

#: Pictures that take more than this, bytes, are stored with 64 instead of 256 levels: the noise
#: of a fine anatomical image does not compress, and two layers of it would fill megabytes.
LARGEST_PICTURE = 100_000

#: Outlines keep about this distance between their points, user units.
POINT_SPACING = 1.1

#: Thickness of outlines, user units.
LINE_WIDTH = 1.3

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

#: Colour of the line between the two layers.
EDGE_COLOUR = "#ffd54f"

#: Words on a picture carry a dark rim.
MARK_STYLE = ".mark{paint-order:stroke;stroke:#000;stroke-width:3px;stroke-linejoin:round}"

#: Height of the slider that wipes the upper layer over the lower one, user units.
SLIDER_HEIGHT = 26.0

#: The upper layer is transparent, and alternates with the lower one while the pointer is over the
#: figure. The slider shows its left part, and nothing alternates; a click or the Enter key shows
#: all of it or none. `figure.svg#before` shows all of it at once, for print.
PAIR_STYLE = """
.upper{opacity:0}
svg:hover .upper{animation:flicker 1.6s step-end infinite}
svg.held .upper,svg.held:hover .upper,svg:target .upper{opacity:1;animation:none}
.edge{display:none}svg.held .edge{display:inline}
input{width:100%;margin:0;accent-color:#7a3e00}
input:focus-visible{outline:3px solid #0072b2}
svg:target foreignObject,svg:target .hint{display:none}
@keyframes flicker{0%{opacity:1}50%{opacity:0}}
@media (prefers-reduced-motion:reduce){svg:hover .upper{animation:none;opacity:1}}
@media print{.hint,foreignObject{display:none}}
"""

PAIR_SCRIPT = """
(function(){var s=document.documentElement,slider=document.querySelector('input'),
wipe=document.querySelector('#wipe rect'),edge=document.querySelector('.edge'),
width=+wipe.getAttribute('width');
function show(){var part=slider.value/100;s.classList.toggle('held',part>0);
wipe.setAttribute('width',part>0?part*width:width);edge.setAttribute('x',part*width-1);}
function turn(){slider.value=slider.value>0?0:100;show();}
slider.addEventListener('input',show);
s.addEventListener('click',function(e){if(e.target!==slider){turn();}});
s.addEventListener('keydown',function(e){
if(e.key==='Enter'||e.key===' '){e.preventDefault();turn();}});})();
"""


def write_svg(text: str, out: str | Path) -> Path:
    """Write an SVG document; return its path.

    Raises
    ------
    ConfigError
        If the path does not end in `.svg`.
    OutputError
        If the file cannot be written.
    """
    out = Path(out)
    if out.suffix != ".svg":
        raise ConfigError(
            f"figure with the ending {out.suffix!r}", path=out, expected="a path ending in .svg"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"the figure cannot be written ({error.strerror})",
            path=out,
            expected="a writable folder with free space",
        ) from None
    return out


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _picture_uri(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    image = Image.fromarray(picture)
    if image.width > WIDEST_PICTURE:
        height = max(1, round(image.height * WIDEST_PICTURE / image.width))
        image = image.resize((WIDEST_PICTURE, height), Image.Resampling.BOX)
    content = _png(image)
    if len(content) > LARGEST_PICTURE:
        content = _png(Image.fromarray(np.asarray(image) & 0xFC))
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _png(image: Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=9)
    return buffer.getvalue()


class Drawing:
    """An SVG document under construction.

    Parameters
    ----------
    width
        Width of the drawing in user units, which are CSS pixels at full size.

    Notes
    -----
    The height grows with what is drawn. The same calls give the same bytes.
    """

    def __init__(self, width: float) -> None:
        self.width = width
        self.height = 0.0
        self._body: list[str] = []
        self._has_layers = False

    def _reach(self, bottom: float) -> None:
        self.height = max(self.height, bottom)

    def rectangle(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str,
        stroke: str = "none",
    ) -> None:
        """Draw a filled rectangle."""
        self._body.append(
            f'<rect x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" '
            f'height="{_number(height)}" fill="{fill}" stroke="{stroke}"/>'
        )
        self._reach(y + height)

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 13,
        fill: str = "#222",
        anchor: str = "start",
        weight: str = "normal",
        css_class: str | None = None,
    ) -> None:
        """Write words with their baseline at y."""
        named = f' class="{css_class}"' if css_class else ""
        self._body.append(
            f'<text{named} x="{_number(x)}" y="{_number(y)}" font-size="{_number(size)}" '
            f'fill="{fill}" text-anchor="{anchor}" font-weight="{weight}">'
            f"{escape(words)}</text>"
        )
        self._reach(y + 0.3 * size)

    def picture(
        self,
        picture: NDArray[np.uint8],
        x: float,
        y: float,
        width: float,
        height: float,
    ) -> None:
        """Place a picture of shape (rows, columns) grey or (rows, columns, 3) RGB, 0 to 255.

        It is stretched to its frame, which gives anisotropic voxels their true shape.
        """
        self._body.append(
            f'<image x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" '
            f'height="{_number(height)}" preserveAspectRatio="none" '
            f'href="{_picture_uri(np.ascontiguousarray(picture))}"/>'
        )
        self._reach(y + height)

    def lines(
        self,
        lines: Sequence[NDArray[np.float64]],
        *,
        origin: tuple[float, float],
        scale: tuple[float, float],
        stroke: str,
    ) -> None:
        """Draw polylines of shape (points, 2), x and y in pixels of a picture.

        `origin` is the picture's corner and `scale` the size of a pixel, both in user units.
        """
        parts = []
        for line in lines:
            # Tenths of a unit as relative integers: a third of the bytes of absolute decimals.
            every = max(int(POINT_SPACING / max(scale)), 1)
            kept = line if every == 1 else np.vstack([line[:-1:every], line[-1:]])
            points = np.round((kept * scale + origin) * 10).astype(int)
            steps = np.diff(points, axis=0)
            steps = steps[steps.any(axis=1)]
            if len(steps):
                moves = " ".join(f"{dx} {dy}" for dx, dy in steps.tolist())
                parts.append(f"M{points[0, 0]} {points[0, 1]}l{moves.replace(' -', '-')}")
        if parts:
            self._body.append(
                f'<path transform="scale(.1)" d="{"".join(parts)}" fill="none" '
                f'stroke="{stroke}" stroke-width="{_number(10 * LINE_WIDTH)}" '
                'stroke-linejoin="round"/>'
            )

    def embed(self, svg: str, x: float, y: float, width: float) -> float:
        """Place another SVG document, scaled to a width; return its height."""
        start = re.search(r'<svg[^>]*viewBox="([-\d. ]+)"[^>]*>', svg)
        assert start is not None
        box = [float(word) for word in start[1].split()]
        height = width * box[3] / box[2]
        inner = svg[start.end() : svg.rindex("</svg>")]
        self._body.append(
            f'<svg x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" '
            f'height="{_number(height)}" viewBox="{start[1]}">{inner}</svg>'
        )
        self._reach(y + height)
        return height

    @contextmanager
    def layer(self, *, is_upper: bool) -> Iterator[None]:
        """Collect drawings into the lower or the upper layer; there may be several of both."""
        self._has_layers = True
        self._body.append(
            '<g class="upper" clip-path="url(#wipe)">' if is_upper else '<g class="lower">'
        )
        yield
        self._body.append("</g>")

    def slider(self, y: float, *, label: str) -> float:
        """Place the slider of the upper layer; return its bottom edge."""
        self._body.append(
            f'<foreignObject x="0" y="{_number(y)}" width="{_number(self.width)}" '
            f'height="{_number(SLIDER_HEIGHT)}"><input xmlns="http://www.w3.org/1999/xhtml" '
            f'type="range" min="0" max="100" value="0" aria-label="{escape(label)}"/>'
            "</foreignObject>"
        )
        self._reach(y + SLIDER_HEIGHT)
        return y + SLIDER_HEIGHT

    def render(self, *, title: str, description: str) -> str:
        """Return the document; screen readers read its title and description aloud."""
        width, height = _number(self.width), _number(self.height + 4)
        style, clip, edge, script, role = MARK_STYLE, "", "", "", ' role="img"'
        if self._has_layers:
            style += PAIR_STYLE
            role = ' id="before"'
            area = f'width="{width}" height="{height}"'
            clip = f'<clipPath id="wipe"><rect {area}/></clipPath>\n'
            edge = f'<rect class="edge" width="2" height="{height}" fill="{EDGE_COLOUR}"/>\n'
            script = f"<script>//<![CDATA[{PAIR_SCRIPT}//]]></script>"
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink"{role} '
            f'viewBox="0 0 {width} {height}" width="100%" '
            f'aria-label="{escape(title)}" font-family="{FONT}">\n'
            f"<title>{escape(title)}</title><desc>{escape(description)}</desc>\n"
            f"<style>{style}</style>\n{clip}"
            f'<rect width="{width}" height="{height}" fill="#fff"/>\n'
            + "\n".join(self._body)
            + f"\n{edge}{script}</svg>\n"
        )

    def write(self, out: str | Path, *, title: str, description: str) -> Path:
        """Write the document; return its path. Errors are those of :func:`write_svg`."""
        return write_svg(self.render(title=title, description=description), out)
