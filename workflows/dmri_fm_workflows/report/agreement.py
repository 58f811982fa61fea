"""The figure that compares two maps of FA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm_workflows.report.charts import chart_style, chart_svg
from dmri_fm_workflows.report.montage import (
    FULL_WIDTH,
    colour_table,
    draw_colour_bar,
    draw_convention,
    draw_legend,
    draw_strips,
    grey_to_rgb,
    paint_strip,
    tile_scale,
)
from dmri_fm_workflows.report.slices import cut_strip, foreground, plan_rows, rescale, to_ras
from dmri_fm_workflows.report.svg import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LogNorm
    from matplotlib.image import AxesImage

#: FA at the ends of the grey scale and of the axes.
LIMITS = (0.0, 1.0)


def plot_scalar_comparison(
    a: ArrayLike,
    b: ArrayLike,
    mask: ArrayLike,
    affine: ArrayLike,
    out: str | Path,
    *,
    labels: tuple[str, str] = ("tensor fit", "network"),
    title: str = "Tensor fit against network",
    more: Mapping[str, tuple[ArrayLike, tuple[float, float]]] | None = None,
) -> Path:
    """Draw two maps of FA, their difference, joint histogram and Bland-Altman plot.

    Parameters
    ----------
    a, b
        Shape (X, Y, Z), FA; `a` is the reference.
    mask
        Shape (X, Y, Z): where they are compared.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    out
        Path of the SVG to write.
    labels
        Names of the two maps.
    title
        Name of the figure.
    more
        Further maps on the same grid, such as the second one's uncertainty, by name: shape
        (X, Y, Z), and the values at the ends of their colour scale.

    Raises
    ------
    ImageError
        If shapes differ.

    References
    ----------
    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.
    """
    first, second = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    inside = np.asarray(mask) > 0
    if not first.shape == second.shape == inside.shape:
        raise ImageError(
            f"maps of shapes {first.shape} and {second.shape}, mask of shape {inside.shape}",
            expected="one grid",
        )
    inside = inside & np.isfinite(first) & np.isfinite(second)
    region, ras_affine = to_ras(inside, affine)
    pair = [to_ras(np.where(inside, m, 0), affine)[0] for m in (first, second)]
    difference = pair[1] - pair[0]
    spread = float(np.percentile(np.abs(difference[region]), 98)) if region.any() else 0.0
    spread = spread or 0.1 * (LIMITS[1] - LIMITS[0])
    shown = region if region.any() else foreground(pair[0])
    row = plan_rows(shown, ras_affine, views=("axial",), n_widest=7, margin_mm=4.0)[0]
    drawing = Drawing(FULL_WIDTH)
    scale = tile_scale(drawing, [row])
    diverging, sequential = colour_table("RdBu_r"), colour_table("viridis")
    strips = [
        (f"FA: {name}", grey_to_rgb(rescale(cut_strip(volume, row), LIMITS)))
        for name, volume in zip(labels, pair, strict=True)
    ]
    strip = paint_strip(difference, region, row, table=diverging, window=(-spread, spread))
    strips.append((f"difference: {labels[1]} - {labels[0]}", strip))
    for name, (image, window) in (more or {}).items():
        volume, _ = to_ras(np.where(inside, np.asarray(image, dtype=np.float32), 0), affine)
        strip = paint_strip(volume, region, row, table=sequential, window=window)
        strips.append((f"{name} (colours from {window[0]:g} to {window[1]:g})", strip))
    y = draw_legend(drawing, 0, (), words=title) - 2
    for name, strip in strips:
        y = draw_strips(drawing, row, y + 2, strip, scale=scale, name=name)
    grey = grey_to_rgb(np.arange(256, dtype=np.uint8)[None])[0]
    end = draw_colour_bar(drawing, 0, y + 6, grey, limits=("0", "1"), name="FA")
    ends = (f"-{spread:.2g}", f"+{spread:.2g}")
    draw_colour_bar(drawing, end + 50, y + 6, diverging, limits=ends, name="difference")
    y = draw_convention(drawing, y + 24)
    chart = _comparison_chart(first[inside], second[inside], labels=labels)
    drawing.embed(chart, 0, y + 6, drawing.width)
    return drawing.write(
        out,
        title=title,
        description=(
            f"FA from {labels[0]} and from {labels[1]}, the difference, their joint "
            "histogram and a Bland-Altman plot."
        ),
    )


def _comparison_chart(a: NDArray[Any], b: NDArray[Any], *, labels: tuple[str, str]) -> str:
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    norm = LogNorm(vmin=1)  # one for both: the colour bar holds for each
    with chart_style():
        figure = Figure(figsize=(FULL_WIDTH / 100, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.9))
        left.set_title("Joint histogram of voxels")
        left.set_xlabel(f"FA, {labels[0]}")
        left.set_ylabel(f"FA, {labels[1]}")
        right.set_title("Bland-Altman")
        right.set_xlabel("mean FA of both")
        right.set_ylabel(f"{labels[1]} - {labels[0]}")
        if a.size < 2:
            left.text(0.5, 0.5, "no voxel to compare", ha="center", transform=left.transAxes)
            return chart_svg(figure)
        _draw_counts(left, *np.histogram2d(a, b, bins=110, range=(LIMITS, LIMITS)), norm=norm)
        left.plot(LIMITS, LIMITS, color="#d55e00", linewidth=1.2, label="equal")
        left.set_aspect("equal")
        varied = a.std() > 0 and b.std() > 0
        correlation = f"r = {np.corrcoef(a, b)[0, 1]:.3f}" if varied else "r undefined"
        left.legend(loc="upper left", title=f"{correlation}, {a.size} voxels")
        mesh = _draw_bland_altman(right, (a + b) / 2, (b - a).astype(np.float64), norm=norm)
        figure.colorbar(mesh, ax=right, label="voxels per cell", shrink=0.9)
        return chart_svg(figure)


def _draw_bland_altman(
    ax: Axes, mean: NDArray[Any], difference: NDArray[np.float64], *, norm: LogNorm
) -> AxesImage:
    bias, sd = float(difference.mean()), float(difference.std(ddof=1))
    reach = max(float(np.percentile(np.abs(difference), 99.5)), abs(bias) + 2.2 * sd, 1e-9)
    box = (LIMITS, (-reach, reach))
    mesh = _draw_counts(
        ax, *np.histogram2d(mean, difference, bins=(110, 90), range=box), norm=norm
    )
    low, high = bias - 1.96 * sd, bias + 1.96 * sd
    for value in (bias, low, high):
        style = "-" if value == bias else "--"
        ax.axhline(value, color="#d55e00", linestyle=style, linewidth=1.1)
    ax.set_title(f"Bland-Altman: bias {bias:+.3g}, 95% limits {low:+.3g} to {high:+.3g}")
    ax.axhline(0, color="#555555", linewidth=0.7)
    return mesh


def _draw_counts(
    ax: Axes, counts: NDArray[Any], x: NDArray[Any], y: NDArray[Any], *, norm: LogNorm
) -> AxesImage:
    # A masked cell is empty; as an image, not as thousands of vector rectangles.
    return ax.imshow(
        np.ma.masked_equal(counts.T, 0),
        origin="lower",
        extent=(x[0], x[-1], y[0], y[-1]),
        aspect="auto",
        interpolation="none",
        cmap="viridis",
        norm=norm,
    )
