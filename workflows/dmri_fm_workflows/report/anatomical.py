"""Figures of masks, registrations, distortion corrections and noise removal.

Images of a figure have shape (X, Y, Z) and lie on one grid, whose `affine`, of shape (4, 4), takes
voxels to RAS+ mm. Slices and grey levels are chosen inside `mask`, by default inside the bright
part of the image. A contour is the 0.5 line of a mask or probability. Each function writes the
SVG `out` and returns its path; images on different grids raise
:class:`~dmri_fm.errors.ImageError`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm_workflows.report.montage import (
    FULL_WIDTH,
    Contour,
    FigureGrid,
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
)
from dmri_fm_workflows.report.svg import Drawing

PAIR_HINT = "Slider or arrow keys: wipe. Point: the images alternate. Click: hold."

#: Height of the band that names the two images of a figure.
BANNER = 22.0

_NO_CONTOURS: Mapping[str, ArrayLike] = MappingProxyType({})


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
    """Draw two states of an image, one over the other, with a slider between them.

    They alternate while the pointer is over the figure.

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
    grid = FigureGrid(np.asarray(after), affine)
    lower = grid.bring(after, "image")
    upper = grid.bring(before, f"image {labels[0]!r}")
    region = grid.bring_mask(mask, lower)
    window = intensity_window(lower, region)
    layers = {labels[1]: rescale(lower, window), labels[0]: rescale(upper, window)}
    return _draw_images(
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
    grid = FigureGrid(fixed, fixed_affine)
    target = grid.bring(fixed, "image")
    moving = grid.bring(moving_in_fixed, f"image {labels[0]!r}")
    region = foreground(fixed) if mask is None else np.asarray(mask) > 0
    inside = grid.bring(region, "mask")
    boundary = {f"brightest tissue of the {labels[1]}": tissue_boundary(fixed, region)}
    layers = {
        name: rescale(image, intensity_window(image, inside))
        for name, image in ((labels[1], target), (labels[0], moving))
    }
    return _draw_images(
        layers, inside, grid.ras_affine, out, contours=grid.bring_contours(boundary), title=title
    )


def _draw_pair(
    drawing: Drawing, names: tuple[str, str], y: float, draw: Callable[[str, float], float]
) -> float:
    """Draw two images under a slider and a band with their names; return the bottom edge.

    Parameters
    ----------
    drawing
        The figure.
    names
        The image at rest, which is on the right of the slider, and the other.
    y
        Top edge.
    draw
        Draws the image of a name from a top edge, and returns its bottom edge.
    """
    at_rest, other = names
    top = drawing.slider(y, label=f"How much of the left is {other}, not {at_rest}")
    bottom = top
    for name, colour, x, anchor in (
        (at_rest, "#004c6d", drawing.width - 10, "end"),
        (other, "#7a3e00", 10, "start"),
    ):
        with drawing.layer(is_upper=name == other):
            drawing.rectangle(0, top, drawing.width, BANNER, fill=colour)
            drawing.text(
                x, top + 16, name.upper(), size=14, fill="#fff", anchor=anchor, weight="bold"
            )
            bottom = draw(name, top + BANNER)
    return bottom


def _draw_images(
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
    tops: list[float] = []

    def draw(name: str, top: float) -> float:
        tops.append(top)
        return draw_rows(drawing, rows, top, lambda strip: strip, layers[name])

    at_rest, pointed_at = layers
    y = draw_legend(drawing, 0, contours, words=title)
    bottom = _draw_pair(drawing, (at_rest, pointed_at), y, draw)
    # The outlines belong to both layers and are drawn once, above them.
    scale = tile_scale(drawing, rows)
    for contour in contours:
        y = tops[0]
        for row in rows:
            y = draw_outlines(drawing, row, y, contour, scale=scale)
    draw_convention(drawing, bottom, hint=PAIR_HINT)
    return drawing.write(
        out,
        title=title,
        description=f"Two images with a slider: {pointed_at} and {at_rest}. At rest: {at_rest}.",
    )


def plot_denoising(
    volumes: Mapping[str, tuple[ArrayLike, ArrayLike]],
    affine: ArrayLike,
    out: str | Path,
    *,
    mask: ArrayLike | None = None,
) -> Path:
    """Draw volumes before and after noise removal, with a slider, and below each what was removed.

    Parameters
    ----------
    volumes
        A volume before and after, by its name ("volume 12, b = 1000").
    affine, out, mask
        As for every figure of this module.
    """
    first = np.asarray(next(iter(volumes.values()))[1])
    grid = FigureGrid(first, affine)
    region = grid.bring_mask(mask, grid.bring(first, "image"))
    row = plan_rows(region, grid.ras_affine, views=("axial",), n_widest=6)[0]
    drawing = Drawing(FULL_WIDTH)
    scale = tile_scale(drawing, [row])
    strips: dict[str, list[NDArray[np.uint8]]] = {"after": [], "before": []}
    removed: list[tuple[str, NDArray[np.uint8]]] = []
    for name, pair in volumes.items():
        before, after = (grid.bring(v, name).astype(np.float32) for v in pair)
        window = intensity_window(before, region)
        for state, volume in (("after", after), ("before", before)):
            strips[state].append(rescale(cut_strip(volume, row), window))
        residual = before - after
        spread = float(np.percentile(np.abs(residual[region]), 99)) if region.any() else 0.0
        limits = (-(spread or 1.0), spread or 1.0)
        words = f"removed from {name}, ± {limits[1]:.3g}"
        removed.append((words, rescale(cut_strip(residual, row), limits)))
    tops: list[float] = []

    def draw(state: str, top: float) -> float:
        for name, strip in zip(volumes, strips[state], strict=True):
            bottom = draw_strips(drawing, row, top, strip, scale=scale, name=name)
            tops.append(bottom + 2)
            top = 2 * bottom - top + 6  # the residual's place is below
        return top

    y = draw_legend(drawing, 0, (), words="Denoising")
    bottom = _draw_pair(drawing, ("after", "before"), y, draw)
    for (words, strip), top in zip(removed, tops[: len(removed)], strict=True):
        draw_strips(drawing, row, top, strip, scale=scale, name=words)
    draw_convention(drawing, bottom, hint=PAIR_HINT)
    return drawing.write(
        out,
        title="Denoising",
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
    draw_colour_bar(drawing, 200, 2, colours, limits=("0", f"{limit:.3g}"), name="intensity")
    scale = tile_scale(drawing, [row])
    for name, volume in volumes.items():
        strip = paint_strip(volume, region, row, table=colours, window=(0.0, limit))
        y = draw_strips(drawing, row, y, strip, scale=scale, name=name) + 2
    draw_convention(drawing, y)
    return drawing.write(
        out, title=title, description=f"Axial slices in colour: {', '.join(maps)}."
    )
