"""The figure that compares two maps of one quantity."""

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
    draw_colour_bar,
    draw_convention,
    draw_legend,
    draw_strips,
    grey_to_rgb,
    tile_scale,
)
from dmri_fm_workflows.report.slices import cut_strip, foreground, plan_rows, rescale, to_ras
from dmri_fm_workflows.report.svg import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_scalar_comparison"]


def _colours(name: str) -> NDArray[np.uint8]:
    from matplotlib import colormaps

    table = colormaps[name](np.linspace(0, 1, 256))[:, :3]
    return np.round(table * 255).astype(np.uint8)


def plot_scalar_comparison(
    a: ArrayLike,
    b: ArrayLike,
    mask: ArrayLike,
    affine: ArrayLike,
    out: str | Path,
    *,
    labels: tuple[str, str] = ("tensor fit", "network"),
    quantity: str = "FA",
    unit: str = "",
    limits: tuple[float, float] = (0.0, 1.0),
    title: str = "Tensor fit against network",
    more: Mapping[str, tuple[ArrayLike, tuple[float, float]]] | None = None,
) -> Path:
    """Draw two maps of one quantity, their difference, joint histogram and Bland-Altman plot.

    Parameters
    ----------
    a, b
        Shape (X, Y, Z); `a` is the reference.
    mask
        Shape (X, Y, Z): where they are compared.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    out
        Path of the SVG to write.
    labels
        Names of the two maps.
    quantity, unit
        What they show.
    limits
        Values at the ends of the grey scale and of the axes.
    title
        Name of the figure.
    more
        Further maps on the same grid, such as the second one's uncertainty, by what they show:
        shape (X, Y, Z), and the values at the ends of their colour scale.

    Returns
    -------
    Path
        `out`.

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
    spread = spread or 0.1 * (limits[1] - limits[0])
    row = plan_rows(
        region if region.any() else foreground(pair[0]),
        ras_affine,
        views=("axial",),
        n_widest=7,
        margin_mm=4.0,
    )[0]
    drawing = Drawing(FULL_WIDTH)
    y = draw_legend(drawing, 0, (), words=title)
    scale = tile_scale(drawing, [row])
    for name, volume in zip(labels, pair, strict=True):
        strip = grey_to_rgb(rescale(cut_strip(volume, row), limits))
        y = draw_strips(drawing, row, y, strip, scale=scale, name=f"{quantity}: {name}") + 2
    diverging = _colours("RdBu_r")
    strip = diverging[rescale(cut_strip(difference, row), (-spread, spread))]
    strip[~cut_strip(region, row)] = 0
    y = draw_strips(
        drawing, row, y, strip, scale=scale, name=f"difference: {labels[1]} - {labels[0]}"
    )
    sequential = _colours("viridis")
    for name, (image, (low, high)) in (more or {}).items():
        volume, _ = to_ras(np.where(inside, np.asarray(image, dtype=np.float32), 0), affine)
        strip = sequential[rescale(cut_strip(volume, row), (low, high))]
        strip[~cut_strip(region, row)] = 0
        label = f"{name} (colours from {low:g} to {high:g})"
        y = draw_strips(drawing, row, y + 2, strip, scale=scale, name=label)
    of_unit = f", {unit}" if unit else ""
    end = draw_colour_bar(
        drawing,
        0,
        y + 6,
        grey_to_rgb(np.arange(256, dtype=np.uint8)[None])[0],
        limits=(f"{limits[0]:g}", f"{limits[1]:g}"),
        name=quantity + of_unit,
    )
    draw_colour_bar(
        drawing,
        end + 50,
        y + 6,
        diverging,
        limits=(f"-{spread:.2g}", f"+{spread:.2g}"),
        name="difference" + of_unit,
    )
    y = draw_convention(drawing, y + 24)
    chart = _comparison_chart(
        first[inside], second[inside], labels=labels, quantity=quantity, unit=unit, limits=limits
    )
    drawing.embed(chart, 0, y + 6, drawing.width)
    return drawing.write(
        out,
        title=title,
        description=(
            f"{quantity} from {labels[0]} and from {labels[1]}, the difference, their joint "
            "histogram and a Bland-Altman plot."
        ),
    )


def _comparison_chart(
    a: NDArray[Any],
    b: NDArray[Any],
    *,
    labels: tuple[str, str],
    quantity: str,
    unit: str,
    limits: tuple[float, float],
) -> str:
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    of_unit = f" ({unit})" if unit else ""
    difference = (b - a).astype(np.float64)
    with chart_style():
        figure = Figure(figsize=(FULL_WIDTH / 100, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.9))
        left.set_title("Joint histogram of voxels")
        left.set_xlabel(f"{quantity}, {labels[0]}{of_unit}")
        left.set_ylabel(f"{quantity}, {labels[1]}{of_unit}")
        right.set_title("Bland-Altman")
        right.set_xlabel(f"mean {quantity} of both{of_unit}")
        right.set_ylabel(f"{labels[1]} - {labels[0]}{of_unit}")
        if a.size < 2:
            left.text(0.5, 0.5, "no voxel to compare", ha="center", transform=left.transAxes)
            return chart_svg(figure)
        bias, sd = float(difference.mean()), float(difference.std(ddof=1))
        reach = max(float(np.percentile(np.abs(difference), 99.5)), abs(bias) + 2.2 * sd, 1e-9)
        colours = {"cmap": "viridis", "norm": LogNorm(vmin=1)}
        counts, *edges = np.histogram2d(a, b, bins=110, range=(limits, limits))
        _draw_counts(left, counts, edges, colours)
        left.plot(limits, limits, color="#d55e00", linewidth=1.2, label="equal")
        left.set_aspect("equal")
        varied = a.std() > 0 and b.std() > 0
        correlation = f"r = {np.corrcoef(a, b)[0, 1]:.3f}" if varied else "r undefined"
        left.legend(loc="upper left", title=f"{correlation}, {a.size} voxels")
        counts, *edges = np.histogram2d(
            (a + b) / 2, difference, bins=(110, 90), range=(limits, (-reach, reach))
        )
        mesh = _draw_counts(right, counts, edges, colours)
        low, high = bias - 1.96 * sd, bias + 1.96 * sd
        for value in (bias, low, high):
            style = "-" if value == bias else "--"
            right.axhline(value, color="#d55e00", linestyle=style, linewidth=1.1)
        right.set_title(f"Bland-Altman: bias {bias:+.3g}, 95% limits {low:+.3g} to {high:+.3g}")
        right.axhline(0, color="#555555", linewidth=0.7)
        figure.colorbar(mesh, ax=right, label="voxels per cell", shrink=0.9)
        return chart_svg(figure)


def _draw_counts(
    ax: Axes, counts: NDArray[Any], edges: list[NDArray[Any]], colours: dict[str, Any]
) -> Any:
    # A masked cell is empty; as an image, not as thousands of vector rectangles.
    (x, y) = edges
    return ax.imshow(
        np.ma.masked_equal(counts.T, 0),
        origin="lower",
        extent=(x[0], x[-1], y[0], y[-1]),
        aspect="auto",
        interpolation="none",
        **colours,
    )
