"""Figures that show where things are: masks, registrations, corrections, noise removal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
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
    draw_convention,
    draw_legend,
    draw_outlines,
    draw_rows,
    draw_strips,
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

__all__ = [
    "plot_before_after",
    "plot_contours",
    "plot_denoising",
    "plot_mask",
    "plot_registration",
]

FLICKER_HINT = "Point at the figure: the two images alternate. Click: hold."

#: Line colours, in the order of the contours given.
LINE_COLOURS = (ORANGE, SKY, YELLOW, "#cc79a7")


def _same_grid(image: NDArray[Any], other: ArrayLike | None, what: str) -> NDArray[Any] | None:
    if other is None:
        return None
    array = np.asarray(other)
    if array.shape[:3] != image.shape[:3]:
        raise ImageError(
            f"{what} of shape {array.shape} beside an image of shape {image.shape}",
            expected="one grid",
            advice="resample one onto the other before drawing",
        )
    return array


def plot_contours(
    image: ArrayLike,
    contours: Mapping[str, ArrayLike],
    affine: ArrayLike,
    out: str | Path,
    *,
    mask: ArrayLike | None = None,
    window: tuple[float, float] | None = None,
    title: str = "Contours",
    views: Sequence[str] = ("axial", "coronal", "sagittal"),
) -> Path:
    """Draw an image with the outlines of regions.

    Parameters
    ----------
    image
        Shape (X, Y, Z).
    contours
        Label to mask or probability of shape (X, Y, Z); its 0.5 line is drawn.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    out
        Path of the SVG to write.
    mask
        Shape (X, Y, Z): slices and grey levels are chosen inside it. By default the first
        contour, or else the bright part of the image.
    window
        Intensities drawn black and white.
    title
        Name of the figure.
    views
        Lines of tiles, from top to bottom.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ImageError
        If shapes differ.
    """
    image = np.asarray(image)
    regions = [
        Contour(label, to_ras(_region(image, volume, label), affine)[0], colour)
        for (label, volume), colour in zip(contours.items(), _cycle(len(contours)), strict=True)
    ]
    inside = _same_grid(image, mask, "mask")
    picture, ras_affine = to_ras(image, affine)
    if inside is not None:
        inside = to_ras(inside > 0, affine)[0]
    elif regions and (regions[0].volume > 0.5).any():
        inside = regions[0].volume > 0.5
    else:
        inside = foreground(picture)
    window = window or intensity_window(picture, inside)
    drawing = Drawing(FULL_WIDTH)
    y = draw_legend(drawing, 0, regions, words=title)
    rows = plan_rows(inside, ras_affine, views=views)
    y = draw_rows(drawing, rows, y, partial(rescale, window=window), picture, contours=regions)
    draw_convention(drawing, y)
    named = ", ".join(contours) or "none"
    return drawing.write(
        out, title=title, description=f"Slices of an image with outlines: {named}."
    )


def _cycle(n: int) -> list[str]:
    return [LINE_COLOURS[i % len(LINE_COLOURS)] for i in range(n)]


def _region(image: NDArray[Any], volume: ArrayLike, label: str) -> NDArray[Any]:
    region = _same_grid(image, volume, f"contour {label!r}")
    assert region is not None
    return region.astype(np.float32)


def plot_mask(
    image: ArrayLike,
    mask: ArrayLike,
    affine: ArrayLike,
    out: str | Path,
    *,
    label: str = "brain mask",
    title: str = "Brain mask",
) -> Path:
    """Draw the outline of a mask on an image.

    Parameters
    ----------
    image, mask
        Shape (X, Y, Z).
    affine
        Shape (4, 4), voxel to RAS+ mm.
    out
        Path of the SVG to write.
    label, title
        Words in the legend.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ImageError
        If shapes differ.
    """
    return plot_contours(image, {label: np.asarray(mask) > 0}, affine, out, title=title)


def plot_before_after(
    before: ArrayLike,
    after: ArrayLike,
    affine: ArrayLike,
    out: str | Path,
    *,
    contour: ArrayLike | None = None,
    contour_label: str = "white matter of the T1w image",
    mask: ArrayLike | None = None,
    labels: tuple[str, str] = ("before", "after"),
    is_one_contrast: bool = True,
    title: str = "Before and after",
) -> Path:
    """Draw two images of one grid that alternate while the pointer is over the figure.

    Parameters
    ----------
    before, after
        Shape (X, Y, Z). `after` is what shows at rest and in print.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    out
        Path of the SVG to write.
    contour
        Shape (X, Y, Z), mask or probability whose outline is drawn on both.
    contour_label
        Its name in the legend.
    mask
        Shape (X, Y, Z): slices and grey levels are chosen inside it.
    labels
        Names of the two images.
    is_one_contrast
        Draw both with the grey levels of `after`; False gives each its own.
    title
        Name of the figure.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ImageError
        If shapes differ.
    """
    after = np.asarray(after)
    other = _same_grid(after, before, f"image {labels[0]!r}")
    assert other is not None
    line = _same_grid(after, contour, "contour")
    inside = _same_grid(after, mask, "mask")
    lower, ras_affine = to_ras(after, affine)
    upper = to_ras(other, affine)[0]
    region = foreground(lower) if inside is None else to_ras(inside > 0, affine)[0]
    contours = []
    if line is not None:
        volume = to_ras(line.astype(np.float32), affine)[0]
        contours.append(Contour(contour_label, volume, ORANGE))
    rows = plan_rows(region, ras_affine, margin_mm=12.0)
    lower_window = intensity_window(lower, region)
    upper_window = lower_window if is_one_contrast else intensity_window(upper, region)
    drawing = Drawing(FULL_WIDTH)
    legend_bottom = draw_legend(drawing, 0, contours, words=title)
    banner = 22.0
    y = legend_bottom + banner
    scale = tile_scale(drawing, rows)
    # The outlines belong to both layers and are drawn once, above them.
    for is_upper, image, window, words in (
        (False, lower, lower_window, labels[1]),
        (True, upper, upper_window, labels[0]),
    ):
        with drawing.layer(is_upper=is_upper):
            colour = "#7a3e00" if is_upper else "#004c6d"
            drawing.rectangle(0, legend_bottom, drawing.width, banner, fill=colour)
            drawing.text(
                10, legend_bottom + 16, words.upper(), size=14, fill="#fff", weight="bold"
            )
            bottom = y
            for row in rows:
                strip = rescale(cut_strip(image, row), window)
                bottom = draw_strips(drawing, row, bottom, strip, scale=scale)
    for contour_ in contours:
        top = y
        for row in rows:
            top = draw_outlines(drawing, row, top, contour_, scale=scale)
    draw_convention(drawing, bottom, hint=FLICKER_HINT)
    return drawing.write(
        out,
        title=title,
        description=f"Two images alternate: {labels[0]} and {labels[1]}. At rest: {labels[1]}.",
    )


def plot_registration(
    moving_in_fixed: ArrayLike,
    fixed: ArrayLike,
    fixed_affine: ArrayLike,
    out: str | Path,
    *,
    mask: ArrayLike | None = None,
    contour: ArrayLike | None = None,
    contour_label: str | None = None,
    labels: tuple[str, str] = ("moving", "fixed"),
    title: str = "Registration",
) -> Path:
    """Draw a registered image and its target, alternating, with the target's outlines on both.

    Parameters
    ----------
    moving_in_fixed
        Shape (X, Y, Z): the registered image, resampled onto the target's grid.
    fixed
        Shape (X, Y, Z): the target. It shows at rest.
    fixed_affine
        Shape (4, 4), voxel to RAS+ mm.
    out
        Path of the SVG to write.
    mask
        Shape (X, Y, Z): the brain in the target.
    contour
        Shape (X, Y, Z): mask or probability (white matter) in the target. Without it, the border
        of the brightest of three tissue classes of `fixed` inside the mask is drawn: the
        white-matter surface where the target is T1-weighted.
    contour_label
        Its name in the legend.
    labels
        Names of the two images.
    title
        Name of the figure.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ImageError
        If shapes differ.
    """
    fixed = np.asarray(fixed)
    inside = _same_grid(fixed, mask, "mask")
    region = foreground(fixed) if inside is None else inside > 0
    if contour is None:
        contour = tissue_boundary(fixed, region)
        contour_label = contour_label or f"brightest tissue of the {labels[1]}"
    return plot_before_after(
        moving_in_fixed,
        fixed,
        fixed_affine,
        out,
        contour=contour,
        contour_label=contour_label or f"outline from the {labels[1]}",
        mask=region,
        labels=labels,
        is_one_contrast=False,
        title=title,
    )


def plot_denoising(
    before: ArrayLike,
    after: ArrayLike,
    affine: ArrayLike,
    out: str | Path,
    *,
    mask: ArrayLike | None = None,
    sigma: ArrayLike | None = None,
    volume_name: str = "",
    title: str = "Denoising",
) -> Path:
    """Draw one volume before and after noise removal, and what was removed.

    Parameters
    ----------
    before, after
        Shape (X, Y, Z): the same diffusion-weighted volume.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    out
        Path of the SVG to write.
    mask
        Shape (X, Y, Z): slices and grey levels are chosen inside it.
    sigma
        Shape (X, Y, Z): estimated standard deviation of the noise.
    volume_name
        Which volume it is ("volume 12, b = 1000").
    title
        Name of the figure.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    ImageError
        If shapes differ.
    """
    after = np.asarray(after, dtype=np.float32)
    given = _same_grid(after, before, "image before")
    noise = _same_grid(after, sigma, "noise map")
    inside = _same_grid(after, mask, "mask")
    assert given is not None
    first, ras_affine = to_ras(given.astype(np.float32), affine)
    second = to_ras(after, affine)[0]
    region = foreground(second) if inside is None else to_ras(inside > 0, affine)[0]
    residual = first - second
    window = intensity_window(first, region)
    spread = float(np.percentile(np.abs(residual[region]), 99)) if region.any() else 0.0
    spread = spread or 1.0
    lines = [
        ("before", first, window),
        ("after", second, window),
        (f"removed, ± {spread:.3g}", residual, (-spread, spread)),
    ]
    if noise is not None:
        level = to_ras(noise.astype(np.float32), affine)[0]
        highest = intensity_window(level, region)
        lines.append((f"estimated noise, 0 to {highest[1]:.3g}", level, highest))
    row = plan_rows(region, ras_affine, views=("axial",), n_widest=6)[0]
    drawing = Drawing(FULL_WIDTH)
    y = draw_legend(drawing, 0, (), words=f"{title}: {volume_name}" if volume_name else title)
    scale = tile_scale(drawing, [row])
    for name, volume, limits in lines:
        strip = rescale(cut_strip(volume, row), limits)
        y = draw_strips(drawing, row, y, strip, scale=scale, name=name) + 2
    draw_convention(drawing, y)
    return drawing.write(
        out,
        title=title,
        description="Axial slices before and after noise removal, and what was removed.",
    )
