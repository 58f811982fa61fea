"""Figures of masks, distortion fields and noise maps.

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

import numpy as np
from numpy.typing import ArrayLike

from dmri_fm_workflows.report.montage import (
    FULL_WIDTH,
    FigureGrid,
    colour_table,
    draw_colour_bar,
    draw_convention,
    draw_legend,
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
)
from dmri_fm_workflows.report.svg import Drawing


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
    grid = FigureGrid(np.asarray(image), affine)
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
    grid = FigureGrid(np.asarray(image), affine)
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


def plot_maps(
    maps: Mapping[str, ArrayLike],
    affine: ArrayLike,
    out: str | Path,
    *,
    mask: ArrayLike,
    title: str,
    quantity: str = "intensity",
) -> Path:
    """Draw maps, each as a line of axial slices in colours of one scale.

    Parameters
    ----------
    maps
        Volumes that are not negative, by the quantity that they show.
    affine, out, mask
        As for every figure of this module. The colours end at the largest 99th percentile of a map
        in the mask.
    title
        Name of the figure.
    quantity
        What the colours stand for.
    """
    grid = FigureGrid(np.asarray(next(iter(maps.values()))), affine)
    volumes = {name: grid.bring(values, name).astype(np.float32) for name, values in maps.items()}
    region = grid.bring(mask, "mask") > 0
    tops = [float(np.percentile(v[region], 99)) for v in volumes.values() if region.any()]
    limit = max(tops, default=0.0) or 1.0
    colours = colour_table("viridis")
    row = plan_rows(region, grid.ras_affine, views=("axial",), n_widest=6)[0]
    drawing = Drawing(FULL_WIDTH)
    y = draw_legend(drawing, 0, (), words=title)
    draw_colour_bar(drawing, 240, 2, colours, limits=("0", f"{limit:.3g}"), name=quantity)
    scale = tile_scale(drawing, [row])
    for name, volume in volumes.items():
        strip = paint_strip(volume, region, row, table=colours, window=(0.0, limit))
        y = draw_strips(drawing, row, y, strip, scale=scale, name=name) + 2
    draw_convention(drawing, y)
    return drawing.write(
        out, title=title, description=f"Axial slices in colour: {', '.join(maps)}."
    )
