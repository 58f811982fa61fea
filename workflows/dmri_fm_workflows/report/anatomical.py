"""Figures of masks, registrations, distortion corrections and noise removal.

Images of a figure have shape (X, Y, Z) and lie on one grid, whose `affine`, of shape (4, 4), takes
voxels to RAS+ mm. Slices and grey levels are chosen inside `mask`, by default inside the bright
part of the image. A contour is the 0.5 line of a mask or probability. Each function writes the
SVG `out` and returns its path; images on different grids raise
:class:`~dmri_fm.errors.ImageError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm_workflows.report.montage import (
    FULL_WIDTH,
    ORANGE,
    SKY,
    YELLOW,
    Contour,
    colour_table,
    draw_colour_bar,
    draw_convention,
    draw_legend,
    draw_outlines,
    draw_rows,
    draw_strips,
    paint_strip,
    tile_scale,
)
from dmri_fm_workflows.report.slices import (
    cut_strip,
    foreground,
    intensity_window,
    plan_rows,
    rescale,
    tissue_boundary,
    to_ras,
)
from dmri_fm_workflows.report.svg import Drawing

FLICKER_HINT = "Point at the figure: the two images alternate. Click: hold."

#: Line colours, in the order of the contours.
LINE_COLOURS = (ORANGE, SKY, YELLOW, "#cc79a7")

#: Height of the band that names the image of a flickering figure.
BANNER = 22.0

_NO_CONTOURS: Mapping[str, ArrayLike] = MappingProxyType({})


class _Grid:
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


def plot_contours(
    image: ArrayLike,
    contours: Mapping[str, ArrayLike],
    affine: ArrayLike,
    out: str | Path,
    *,
    window: tuple[float, float] | None = None,
    title: str = "Contours",
) -> Path:
    """Draw an image with the outlines of regions.

    Parameters
    ----------
    image
        The image.
    contours
        Regions by label; slices and grey levels are chosen inside the first one.
    affine, out
        As for every figure of this module.
    window
        Intensities drawn black and white.
    title
        Name of the figure.
    """
    grid = _Grid(np.asarray(image), affine)
    picture = grid.bring(image, "image")
    regions = grid.bring_contours(contours)
    inside = regions[0].volume > 0.5 if regions else foreground(picture)
    if not inside.any():
        inside = foreground(picture)
    window = window or intensity_window(picture, inside)
    drawing = Drawing(FULL_WIDTH)
    y = draw_legend(drawing, 0, regions, words=title)
    rows = plan_rows(inside, grid.ras_affine)
    y = draw_rows(drawing, rows, y, partial(rescale, window=window), picture, contours=regions)
    draw_convention(drawing, y)
    named = ", ".join(contours) or "none"
    return drawing.write(
        out, title=title, description=f"Slices of an image with outlines: {named}."
    )


def plot_mask(
    image: ArrayLike,
    mask: ArrayLike,
    affine: ArrayLike,
    out: str | Path,
    *,
    title: str = "Brain mask",
) -> Path:
    """Draw the outline of a brain mask on its image."""
    return plot_contours(image, {"brain mask": np.asarray(mask) > 0}, affine, out, title=title)


def plot_before_after(
    before: ArrayLike,
    after: ArrayLike,
    affine: ArrayLike,
    out: str | Path,
    *,
    contours: Mapping[str, ArrayLike] = _NO_CONTOURS,
    mask: ArrayLike | None = None,
    labels: tuple[str, str] = ("before", "after"),
    title: str = "Before and after",
) -> Path:
    """Draw two states of an image that alternate while the pointer is over the figure.

    Parameters
    ----------
    before, after
        The images, drawn with the grey levels of `after`. `after` shows at rest and in print.
    affine, out, mask
        As for every figure of this module.
    contours
        Outlines drawn on both, by label.
    labels
        Names of the two images.
    title
        Name of the figure.
    """
    grid = _Grid(np.asarray(after), affine)
    lower = grid.bring(after, "image")
    upper = grid.bring(before, f"image {labels[0]!r}")
    region = grid.bring_mask(mask, lower)
    window = intensity_window(lower, region)
    layers = {labels[1]: rescale(lower, window), labels[0]: rescale(upper, window)}
    return _draw_flicker(
        layers, region, grid.ras_affine, out, contours=grid.bring_contours(contours), title=title
    )


def plot_registration(
    moving_in_fixed: ArrayLike,
    fixed: ArrayLike,
    fixed_affine: ArrayLike,
    out: str | Path,
    *,
    mask: ArrayLike | None = None,
    labels: tuple[str, str] = ("moving", "fixed"),
    title: str = "Registration",
) -> Path:
    """Draw a registered image and its target, alternating, with one outline on both.

    The outline is the border of the brightest of three tissue classes of the target inside the
    mask: the white-matter surface where the target is T1-weighted.

    Parameters
    ----------
    moving_in_fixed
        The registered image, resampled onto the target's grid.
    fixed
        The target. It shows at rest.
    fixed_affine, out, mask
        As for every figure of this module.
    labels
        Names of the two images.
    title
        Name of the figure.
    """
    fixed = np.asarray(fixed)
    grid = _Grid(fixed, fixed_affine)
    target = grid.bring(fixed, "image")
    moving = grid.bring(moving_in_fixed, f"image {labels[0]!r}")
    region = foreground(fixed) if mask is None else np.asarray(mask) > 0
    inside = grid.bring(region, "mask")
    boundary = {f"brightest tissue of the {labels[1]}": tissue_boundary(fixed, region)}
    layers = {
        name: rescale(image, intensity_window(image, inside))
        for name, image in ((labels[1], target), (labels[0], moving))
    }
    return _draw_flicker(
        layers, inside, grid.ras_affine, out, contours=grid.bring_contours(boundary), title=title
    )


def _draw_flicker(
    layers: Mapping[str, NDArray[np.uint8]],
    region: NDArray[np.bool_],
    affine: NDArray[np.float64],
    out: str | Path,
    *,
    contours: list[Contour],
    title: str,
) -> Path:
    """Draw two images that alternate, the one at rest first; all volumes are in RAS order."""
    rows = plan_rows(region, affine, margin_mm=12.0)
    drawing = Drawing(FULL_WIDTH)
    legend_bottom = draw_legend(drawing, 0, contours, words=title)
    top = legend_bottom + BANNER
    scale = tile_scale(drawing, rows)
    for (name, grey), colour, is_upper in zip(
        layers.items(), ("#004c6d", "#7a3e00"), (False, True), strict=True
    ):
        with drawing.layer(is_upper=is_upper):
            drawing.rectangle(0, legend_bottom, drawing.width, BANNER, fill=colour)
            drawing.text(10, legend_bottom + 16, name.upper(), size=14, fill="#fff", weight="bold")
            bottom = draw_rows(drawing, rows, top, lambda strip: strip, grey)
    # The outlines belong to both layers and are drawn once, above them.
    for contour in contours:
        y = top
        for row in rows:
            y = draw_outlines(drawing, row, y, contour, scale=scale)
    draw_convention(drawing, bottom, hint=FLICKER_HINT)
    at_rest, pointed_at = layers
    return drawing.write(
        out,
        title=title,
        description=f"Two images alternate: {pointed_at} and {at_rest}. At rest: {at_rest}.",
    )


def plot_denoising(
    before: ArrayLike,
    after: ArrayLike,
    affine: ArrayLike,
    out: str | Path,
    *,
    mask: ArrayLike | None = None,
    volume_name: str = "",
) -> Path:
    """Draw one volume before and after noise removal, and the difference.

    Parameters
    ----------
    before, after
        The same diffusion-weighted volume.
    affine, out, mask
        As for every figure of this module.
    volume_name
        Name of the volume ("volume 12, b = 1000").
    """
    after = np.asarray(after, dtype=np.float32)
    grid = _Grid(after, affine)
    first = grid.bring(before, "image before").astype(np.float32)
    second = grid.bring(after, "image after")
    region = grid.bring_mask(mask, second)
    residual = first - second
    window = intensity_window(first, region)
    spread = float(np.percentile(np.abs(residual[region]), 99)) if region.any() else 0.0
    spread = spread or 1.0
    row = plan_rows(region, grid.ras_affine, views=("axial",), n_widest=6)[0]
    drawing = Drawing(FULL_WIDTH)
    title = "Denoising"
    y = draw_legend(drawing, 0, (), words=f"{title}: {volume_name}" if volume_name else title)
    scale = tile_scale(drawing, [row])
    for name, volume, limits in (
        ("before", first, window),
        ("after", second, window),
        (f"removed, ± {spread:.3g}", residual, (-spread, spread)),
    ):
        strip = rescale(cut_strip(volume, row), limits)
        y = draw_strips(drawing, row, y, strip, scale=scale, name=name) + 2
    draw_convention(drawing, y)
    return drawing.write(
        out,
        title=title,
        description="Axial slices before and after noise removal, and what was removed.",
    )


def plot_field(
    image: ArrayLike, hz: ArrayLike, affine: ArrayLike, out: str | Path, *, mask: ArrayLike
) -> Path:
    """Draw an image and, below each line of its slices, the distortion field inside the brain.

    Parameters
    ----------
    image
        b=0 reference, corrected.
    hz
        Distortion field, Hz, on the same grid.
    affine, out, mask
        As for every figure of this module. The colours end at the field's 99th percentile in the
        mask, alike on both sides of zero.
    """
    grid = _Grid(np.asarray(image), affine)
    picture, field = grid.bring(image, "image"), grid.bring(hz, "field")
    region = grid.bring_mask(mask, picture)
    limit = float(np.percentile(np.abs(field[region]), 99)) if region.any() else 1.0
    limit = limit or 1.0
    colours = colour_table("RdBu_r")
    rows = plan_rows(region, grid.ras_affine)
    window = intensity_window(picture, region)
    drawing = Drawing(FULL_WIDTH)
    y = draw_legend(drawing, 0, (), words="Distortion field")
    ends = (f"{-limit:.0f}", f"{limit:.0f}")
    draw_colour_bar(drawing, 200, 2, colours, limits=ends, name="field, Hz")
    scale = tile_scale(drawing, rows)
    for row in rows:
        y = draw_strips(drawing, row, y, rescale(cut_strip(picture, row), window), scale=scale)
        strip = paint_strip(field, region, row, table=colours, window=(-limit, limit))
        y = draw_strips(drawing, row, y, strip, scale=scale) + 2
    draw_convention(drawing, y)
    return drawing.write(
        out,
        title="Distortion field",
        description="Slices of the b=0 reference above the distortion field in colour.",
    )
