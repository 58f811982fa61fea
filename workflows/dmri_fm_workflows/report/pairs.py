"""Figures of an image before and after a correction, or of two registered images, under a slider.

Arguments are those of :mod:`dmri_fm_workflows.report.anatomical`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    Row,
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

#: Logarithm of a receive field at which colours end at least: less is no bias worth colours.
LEAST_FIELD = 0.01

_NO_CONTOURS: Mapping[str, ArrayLike] = MappingProxyType({})


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
    contours: Sequence[Contour],
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


@dataclass(frozen=True, eq=False)
class _Line:
    """A line of tiles before and after a correction, and one below it that stands still."""

    row: Row
    name: str | None
    states: Sequence[NDArray[np.uint8]]  # before and after
    below: NDArray[np.uint8]
    below_name: str | None


def _draw_lines(drawing: Drawing, y: float, lines: Sequence[_Line]) -> float:
    """Draw lines before and after under one slider, with what lies below; return the bottom."""
    scale = tile_scale(drawing, [line.row for line in lines])
    tops: list[float] = []

    def draw(state: str, top: float) -> float:
        tops.clear()
        for line in lines:
            strip = line.states[state == "after"]
            bottom = draw_strips(drawing, line.row, top, strip, scale=scale, name=line.name)
            tops.append(bottom + 2)
            top = 2 * bottom - top + 6  # the place of the line below, as high as this one
        return top

    bottom = _draw_pair(drawing, ("after", "before"), y, draw)
    for line, top in zip(lines, tops, strict=True):
        draw_strips(drawing, line.row, top, line.below, scale=scale, name=line.below_name)
    return bottom


def plot_removal(
    volumes: Mapping[str, tuple[ArrayLike, ArrayLike]],
    affine: ArrayLike,
    out: str | Path,
    *,
    mask: ArrayLike | None = None,
    title: str = "Denoising",
) -> Path:
    """Draw volumes before and after a correction, with a slider, and below each what it removed.

    Parameters
    ----------
    volumes
        A volume before and after, by its name ("volume 12, b = 1000").
    affine, out, mask
        As for every figure of this module.
    title
        Name of the figure.
    """
    first = np.asarray(next(iter(volumes.values()))[1])
    grid = FigureGrid(first, affine)
    region = grid.bring_mask(mask, grid.bring(first, "image"))
    row = plan_rows(region, grid.ras_affine, views=("axial",), n_widest=6)[0]
    lines = []
    for name, pair in volumes.items():
        before, after = (grid.bring(v, name).astype(np.float32) for v in pair)
        window = intensity_window(before, region)
        states = [rescale(cut_strip(volume, row), window) for volume in (before, after)]
        residual = before - after
        spread = float(np.percentile(np.abs(residual[region]), 99)) if region.any() else 0.0
        limit = spread or 1.0
        removed = rescale(cut_strip(residual, row), (-limit, limit))
        lines.append(_Line(row, name, states, removed, f"removed from {name}, ± {limit:.3g}"))
    drawing = Drawing(FULL_WIDTH)
    y = draw_legend(drawing, 0, (), words=title)
    draw_convention(drawing, _draw_lines(drawing, y, lines), hint=PAIR_HINT)
    return drawing.write(
        out,
        title=title,
        description="Axial slices before and after a correction, and what was removed.",
    )


def plot_bias(
    image: ArrayLike, bias: ArrayLike, affine: ArrayLike, out: str | Path, *, mask: ArrayLike
) -> Path:
    """Draw an image before and after its receive field is divided out, and the field below.

    Parameters
    ----------
    image
        b=0 reference, with the bias.
    bias
        Factor of the signal by the coils, above 0, on the same grid.
    affine, out, mask
        As for every figure of this module. The colours are those of the factor's logarithm and
        end at its 99th percentile in the mask, alike on both sides of 1.
    """
    grid = FigureGrid(np.asarray(image), affine)
    before = grid.bring(image, "image").astype(np.float32)
    field = grid.bring(bias, "field").astype(np.float32)
    region = grid.bring_mask(mask, before)
    after = before / field
    logarithm = np.log(field)
    spread = float(np.percentile(np.abs(logarithm[region]), 99)) if region.any() else 0.0
    limit = max(spread, LEAST_FIELD)
    colours = colour_table("RdBu_r")
    window = intensity_window(after, region)
    lines = []
    for row in plan_rows(region, grid.ras_affine):
        states = [rescale(cut_strip(volume, row), window) for volume in (before, after)]
        painted = paint_strip(logarithm, region, row, table=colours, window=(-limit, limit))
        lines.append(_Line(row, None, states, painted, None))
    drawing = Drawing(FULL_WIDTH)
    y = draw_legend(drawing, 0, (), words="Receive field")
    ends = (f"{np.exp(-limit):.2f}", f"{np.exp(limit):.2f}")
    draw_colour_bar(drawing, 200, 2, colours, limits=ends, name="factor of the signal")
    draw_convention(drawing, _draw_lines(drawing, y, lines), hint=PAIR_HINT)
    return drawing.write(
        out,
        title="Receive field",
        description="Slices of the b=0 reference before and after its bias is divided out, "
        "above the field in colour.",
    )
