"""Lines of tiles on a drawing, with sides, positions, contours and legends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm_workflows.report.slices import (
    CONVENTION,
    VIEW_SIDES,
    Row,
    contour_lines,
    cut_strip,
    cut_tiles,
    foreground,
    rescale,
    to_ras,
)
from dmri_fm_workflows.report.svg import Drawing

#: Width of a figure, CSS pixels.
FULL_WIDTH = 1100.0

# Colours that people with any colour vision can tell apart, doi:10.1038/nmeth.1618.
ORANGE = "#e69f00"
SKY = "#56b4e9"
YELLOW = "#f0e442"

#: Line colours, in the order of the contours.
LINE_COLOURS = (ORANGE, SKY, YELLOW, "#cc79a7")

MARK = "#fff"
CAPTION_SIZE = 13.0

#: Tiles are not drawn larger than this where there are few of them, user units per mm.
LARGEST_SCALE = 2.0

#: Width of a colour bar.
BAR_WIDTH = 160.0

#: Height of the band below a line of tiles that holds the slices' positions.
POSITION_BAND = 15.0


@dataclass(frozen=True, eq=False)
class Contour:
    """A region whose outline, the 0.5 line, is drawn, and its label in the legend."""

    label: str
    volume: NDArray[Any]  # mask or probability, shape (X, Y, Z), RAS order
    colour: str


class FigureGrid:
    """The grid of a figure's first image; brings volumes on it to RAS storage order."""

    def __init__(self, image: NDArray[Any], affine: ArrayLike) -> None:
        self._shape = image.shape
        self._affine = affine
        self.ras_affine = to_ras(image, affine)[1]

    def bring(self, volume: ArrayLike, name: str) -> NDArray[Any]:
        """Return a volume in RAS order; `name` stands in the error of another grid."""
        array = np.asarray(volume)
        if array.shape[:3] != self._shape:
            raise ImageError(
                f"{name} of shape {array.shape} beside an image of shape {self._shape}",
                expected="one grid",
                advice="resample one onto the other before drawing",
            )
        return to_ras(array, self._affine)[0]

    def bring_mask(self, mask: ArrayLike | None, image: NDArray[Any]) -> NDArray[np.bool_]:
        """Return a mask in RAS order, or the bright part of an image that is."""
        return foreground(image) if mask is None else self.bring(mask, "mask") > 0

    def bring_contours(self, contours: Mapping[str, ArrayLike]) -> list[Contour]:
        """Return contours in RAS order, each with a colour of its own."""
        return [
            Contour(
                label,
                self.bring(volume, f"contour {label!r}").astype(np.float32),
                LINE_COLOURS[i % len(LINE_COLOURS)],
            )
            for i, (label, volume) in enumerate(contours.items())
        ]


def grey_to_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat a grey picture of shape (rows, columns) in three channels."""
    return np.repeat(grey[..., None], 3, axis=-1)


def colour_table(name: str) -> NDArray[np.uint8]:
    """Return the 256 colours of a matplotlib colour map, shape (256, 3), 0 to 255."""
    from matplotlib import colormaps

    return np.round(colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)


def paint_strip(
    volume: NDArray[Any],
    region: NDArray[np.bool_],
    row: Row,
    *,
    table: NDArray[np.uint8],
    window: tuple[float, float],
) -> NDArray[np.uint8]:
    """Cut a line of tiles out of a volume and colour it, black outside a region.

    `volume` and `region` have shape (X, Y, Z), RAS order; `table` holds 256 colours and `window`
    the values at its ends.
    """
    strip = table[rescale(cut_strip(volume, row), window)]
    strip[~cut_strip(region, row)] = 0
    return strip


def tile_scale(drawing: Drawing, rows: Sequence[Row]) -> float:
    """Return user units per mm that let the widest line fill the drawing, within reason."""
    return min(drawing.width / max(row.width_mm for row in rows), LARGEST_SCALE)


def draw_rows(
    drawing: Drawing,
    rows: Sequence[Row],
    y: float,
    paint: Callable[[NDArray[Any]], NDArray[np.uint8]],
    volume: NDArray[Any],
    *,
    contours: Sequence[Contour] = (),
) -> float:
    """Draw lines of tiles, one below the other, from a top edge; return the bottom edge.

    `paint` turns a strip of `volume`, of shape (X, Y, Z) or (X, Y, Z, C) in RAS order, into grey
    or RGB, 0 to 255.
    """
    scale = tile_scale(drawing, rows)
    for row in rows:
        y = draw_strips(
            drawing, row, y, paint(cut_strip(volume, row)), scale=scale, contours=contours
        )
    return y


def draw_strips(
    drawing: Drawing,
    row: Row,
    y: float,
    strip: NDArray[np.uint8],
    *,
    scale: float,
    contours: Sequence[Contour] = (),
    name: str | None = None,
) -> float:
    """Draw one line of tiles and its marks from a top edge; return its bottom edge.

    `strip` holds the tiles joined, grey or RGB; `scale` is in user units per mm; `name` is written
    in the upper left corner.
    """
    width, height = row.width_mm * scale, row.tile_mm[1] * scale
    # Half a unit more than needed, so that no light seam shows between two lines.
    drawing.rectangle(0, y, drawing.width, height + POSITION_BAND + 0.5, fill="#000")
    drawing.picture(strip, 0, y, width, height)
    for contour in contours:
        draw_outlines(drawing, row, y, contour, scale=scale)
    _draw_marks(drawing, row, y, scale=scale)
    if name:
        drawing.text(6, y + 16, name, size=13, fill=MARK, weight="bold", css_class="mark")
    return y + height + POSITION_BAND


def _draw_marks(drawing: Drawing, row: Row, y: float, *, scale: float) -> None:
    """Write the position of each tile of a line, and the sides of the outer two."""
    tile_width, height = (mm * scale for mm in row.tile_mm)
    left, right = VIEW_SIDES[row.view]
    letter = "xyz"[row.axis]
    for number, position in enumerate(row.positions_mm):
        edge = number * tile_width
        drawing.text(
            edge + tile_width / 2,
            y + height + POSITION_BAND - 4,
            f"{letter} = {round(position):d}",
            size=10,
            fill="#cfd8dc",
            anchor="middle",
        )
        marks = [(edge + 4, left, "start")] if number == 0 else []
        if number in (0, len(row.positions_mm) - 1):
            marks.append((edge + tile_width - 4, right, "end"))
        for at, words, anchor in marks:
            drawing.text(
                at,
                y + height / 2,
                words,
                size=14,
                fill=MARK,
                anchor=anchor,
                weight="bold",
                css_class="mark",
            )


def draw_outlines(
    drawing: Drawing, row: Row, y: float, contour: Contour, *, scale: float
) -> float:
    """Draw a region's outline over a line of tiles; return the line's bottom edge."""
    width, height = row.tile_mm[0] * scale, row.tile_mm[1] * scale
    for number, tile in enumerate(cut_tiles(contour.volume, row)):
        drawing.lines(
            contour_lines(tile),
            origin=(number * width, y),
            scale=(width / tile.shape[1], height / tile.shape[0]),
            stroke=contour.colour,
        )
    return y + height + POSITION_BAND


def draw_legend(
    drawing: Drawing, y: float, contours: Sequence[Contour], *, words: str = ""
) -> float:
    """Draw a line with a title and the contours' labels; return its bottom edge."""
    x = 0.0
    baseline = y + 16
    if words:
        drawing.text(x, baseline, words, size=CAPTION_SIZE, weight="bold")
        x += 8.2 * len(words) + 26
    for contour in contours:
        drawing.rectangle(x, baseline - 8, 22, 7, fill=contour.colour, stroke="#444")
        drawing.text(x + 28, baseline, contour.label, size=CAPTION_SIZE)
        x += 28 + 7.2 * len(contour.label) + 26
    return y + 24


def draw_convention(drawing: Drawing, y: float, *, hint: str = "") -> float:
    """Write the convention, and a hint on using the figure, below the tiles."""
    drawing.text(0, y + 15, CONVENTION + " Positions in mm.", size=11, fill="#555")
    if hint:
        drawing.text(
            drawing.width,
            y + 15,
            hint,
            size=12,
            fill="#0b5394",
            anchor="end",
            weight="bold",
            css_class="hint",
        )
    return y + 20


def draw_colour_bar(
    drawing: Drawing,
    x: float,
    y: float,
    colours: NDArray[np.uint8],
    *,
    limits: tuple[str, str],
    name: str,
) -> float:
    """Draw a horizontal colour bar from its left and top edge; return its right edge.

    `colours` has shape (N, 3), from the lowest to the highest value; `limits` are the values at
    its ends, as written; `name` is the quantity with its unit.
    """
    drawing.text(x, y + 12, name, size=12, weight="bold")
    start = x + 7.4 * len(name) + 14
    low_width = 7.0 * len(limits[0])
    drawing.text(start + low_width, y + 12, limits[0], size=12, anchor="end")
    drawing.picture(colours[None], start + low_width + 6, y + 2, BAR_WIDTH, 12)
    end = start + low_width + 12 + BAR_WIDTH
    drawing.text(end, y + 12, limits[1], size=12)
    return end + 7.0 * len(limits[1])
