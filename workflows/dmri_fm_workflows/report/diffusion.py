"""Figures of the diffusion measurement: sampling scheme and main directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable, Shell
from dmri_fm_workflows.report.charts import chart_style, write_chart
from dmri_fm_workflows.report.montage import (
    FULL_WIDTH,
    draw_convention,
    draw_legend,
    draw_rows,
)
from dmri_fm_workflows.report.slices import plan_rows, to_ras
from dmri_fm_workflows.report.svg import Drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: More shells than this (Cartesian sampling) share one sphere, coloured by b-value.
MOST_SPHERES = 5

#: Colours of shells, from low to high b-value.
SHELL_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d1f")

#: FA drawn at full brightness in the colour map: the corpus callosum is just below it.
BRIGHTEST_FA = 0.8


def _shell_colours(n: int) -> list[str]:
    """Return one colour per shell, from low to high b-value."""
    if n <= len(SHELL_COLOURS):
        return list(SHELL_COLOURS[:n])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](x)) for x in np.linspace(0, 0.9, n)]


def direction_colours(v1_ras: ArrayLike, weight: ArrayLike) -> NDArray[np.uint8]:
    """Colour directions: red left-right, green anterior-posterior, blue inferior-superior.

    Parameters
    ----------
    v1_ras
        Shape (..., 3), unit vectors in the RAS+ frame; the sign does not matter.
    weight
        Shape (...), FA: brightness, full at :data:`BRIGHTEST_FA`.

    Returns
    -------
    ndarray
        Shape (..., 3), 0 to 255.

    Examples
    --------
    >>> direction_colours([[-1.0, 0.0, 0.0]], [0.8]).tolist()
    [[255, 0, 0]]
    """
    axis = np.abs(np.nan_to_num(np.asarray(v1_ras, dtype=np.float32)))
    bright = np.clip(np.nan_to_num(np.asarray(weight, dtype=np.float32)) / BRIGHTEST_FA, 0, 1)
    return np.round(np.clip(axis * bright[..., None], 0, 1) * 255).astype(np.uint8)


def plot_sampling_scheme(gtab: GradientTable, out: str | Path) -> Path:
    """Draw the gradient directions on a sphere per shell, and the b-values in order.

    Parameters
    ----------
    gtab
        Gradient table, RAS+.
    out
        Path of the SVG to write.
    """
    from matplotlib.figure import Figure

    shells = gtab.shells
    colours = dict(zip(shells, _shell_colours(len(shells)), strict=True))
    panels = [shells] if len(shells) > MOST_SPHERES else [(shell,) for shell in shells]
    with chart_style():
        # Few spheres leave room for the b-values beside them.
        is_wide = len(panels) > 2
        size = (FULL_WIDTH / 100, 4.6 if is_wide else 3.4)
        figure = Figure(figsize=size, layout="constrained")
        if is_wide:
            spheres, rest = figure.subfigures(2, 1, height_ratios=(2.7, 1.2), squeeze=False).flat
        else:
            share = max(len(panels), 1) * 0.3
            widths = (share, 1 - share)
            spheres, rest = figure.subfigures(1, 2, width_ratios=widths, squeeze=False).flat
        axes = spheres.subplots(1, max(len(panels), 1), squeeze=False)[0]
        for ax in axes:
            ax.set_axis_off()
        for panel, ax in zip(panels, axes, strict=False):
            _draw_globe(ax)
            for shell in panel:
                _draw_directions(ax, gtab.bvecs_ras[list(shell.index)], colours[shell])
            ax.set_title(_panel_name(gtab, panel))
        if not panels:
            axes[0].text(0.5, 0.5, "b = 0 volumes only", ha="center", transform=axes[0].transAxes)
        _draw_bvals(rest.subplots(), gtab, colours)
        return write_chart(figure, out, title="Sampling scheme")


def _draw_bvals(ax: Axes, gtab: GradientTable, colours: Mapping[Shell, str]) -> None:
    """Draw the b-values in order of acquisition, coloured by shell."""
    from matplotlib.ticker import MaxNLocator

    order = np.arange(len(gtab))
    of_volume = np.full(len(gtab), "#777777", dtype=object)
    for shell, colour in colours.items():
        of_volume[list(shell.index)] = colour
    ax.vlines(order, 0, gtab.bvals, colors=list(of_volume), linewidth=1.5)
    ax.scatter(order, gtab.bvals, s=14, c=list(of_volume), zorder=3, clip_on=False)
    ax.set_xlabel("volume, in order of acquisition")
    ax.set_ylabel("b, s/mm²")
    ax.set_title(f"volumes: {int(gtab.is_b0.sum())} of b = 0 (grey), {len(gtab)} in all")
    ax.set_xlim(-1, len(gtab))
    ax.set_ylim(bottom=0, top=max(float(gtab.bvals.max()) * 1.15, 1.0))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _panel_name(gtab: GradientTable, panel: Sequence[Shell]) -> str:
    index = [i for shell in panel for i in shell.index]
    axes = gtab.select(index).count_directions()
    if len(panel) > 1:
        return f"{len(panel)} b-values\n{len(index)} volumes, {axes} axes"
    return f"b = {panel[0].bval:.0f} s/mm²\n{len(index)} volumes, {axes} axes"


def _camera() -> NDArray[np.float64]:
    """Return the axes of the view: right, up and towards the viewer, as rows of a matrix.

    The viewer stands in front of the subject, to the left and above. The subject's left is at the
    right of the picture only because the viewer faces the subject; the axes are labelled.
    """
    towards = np.array([0.45, 0.75, 0.5])
    towards /= np.linalg.norm(towards)
    right = np.cross([0.0, 0.0, 1.0], towards)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards, right), towards])


def _draw_globe(ax: Axes) -> None:
    camera = _camera()
    turn = np.linspace(0, 2 * np.pi, 181)
    ax.fill(np.cos(turn), np.sin(turn), color="#f4f6f8", zorder=0)
    ax.plot(np.cos(turn), np.sin(turn), color="#9aa5ad", linewidth=0.8, zorder=1)
    circle = np.stack([np.cos(turn), np.sin(turn), 0 * turn])
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        x, y, depth = camera @ circle[list(order)]
        near = np.where(depth >= 0, y, np.nan)
        far = np.where(depth < 0, y, np.nan)
        ax.plot(x, near, color="#9aa5ad", linewidth=0.7, zorder=1)
        ax.plot(x, far, color="#d5dade", linewidth=0.7, linestyle=":", zorder=1)
    for vector, letter in zip(np.eye(3), "RAS", strict=True):
        x, y, _ = camera @ vector
        ax.plot([0, x], [0, y], color="#9aa5ad", linewidth=0.8, zorder=1)
        length = np.hypot(x, y)
        ax.text(
            1.17 * x + 0.06 * x / length,
            1.17 * y + 0.06 * y / length,
            letter,
            ha="center",
            va="center",
            fontweight="bold",
            color="#444444",
            fontsize=10,
            zorder=5,
        )
    ax.set_xlim(-1.25, 1.25)
    ax.set_ylim(-1.25, 1.25)
    ax.set_aspect("equal")


def _draw_directions(ax: Axes, bvecs_ras: NDArray[np.float64], colour: str) -> None:
    """Draw measured directions filled and their opposites hollow; the far side is faint."""
    camera = _camera()
    size = float(np.clip(900 / max(len(bvecs_ras), 1), 8, 34))
    for vectors, is_measured in ((bvecs_ras, True), (-bvecs_ras, False)):
        x, y, depth = camera @ vectors.T
        for near in (False, True):
            chosen = (depth >= 0) == near
            ax.scatter(
                x[chosen],
                y[chosen],
                s=size if is_measured else 0.55 * size,
                facecolors=colour if is_measured else "none",
                edgecolors=colour,
                linewidths=0.8,
                alpha=1.0 if near else 0.22,
                zorder=4 if near else 2,
            )


def plot_colour_fa(
    fa: ArrayLike,
    v1_ras: ArrayLike,
    affine: ArrayLike,
    out: str | Path,
    *,
    mask: ArrayLike,
) -> Path:
    """Draw the main diffusion direction as colour, FA as brightness.

    Parameters
    ----------
    fa
        Shape (X, Y, Z), 0 to 1.
    v1_ras
        Shape (X, Y, Z, 3), RAS+ frame, whatever the storage order of the image.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    out
        Path of the SVG to write.
    mask
        Shape (X, Y, Z): slices are chosen inside it, nothing is drawn outside.

    Raises
    ------
    ImageError
        If shapes differ.
    """
    weight = np.asarray(fa)
    vectors = np.asarray(v1_ras)
    if vectors.shape != (*weight.shape, 3):
        raise ImageError(
            f"directions of shape {vectors.shape} beside FA of shape {weight.shape}",
            expected=f"shape {(*weight.shape, 3)}",
        )
    inside = np.asarray(mask) > 0
    colours = direction_colours(vectors, weight) * inside[..., None].astype(np.uint8)
    picture, ras_affine = to_ras(colours, affine)
    region = to_ras(inside, affine)[0]
    drawing = Drawing(FULL_WIDTH)
    title = "Main direction"
    y = draw_legend(drawing, 0, (), words=title)
    _draw_colour_key(drawing, 8.2 * len(title) + 40)
    rows = plan_rows(region, ras_affine, margin_mm=5.0)
    y = draw_rows(drawing, rows, y, lambda strip: strip, picture)
    draw_convention(drawing, y)
    return drawing.write(
        out,
        title=title,
        description=(
            "Slices coloured by the main diffusion direction: red left-right, green "
            "anterior-posterior, blue inferior-superior."
        ),
    )


def _draw_colour_key(drawing: Drawing, x: float) -> None:
    """Draw the meaning of colours and brightness in the figure's first line."""
    for colour, words in (
        ("#e00000", "left-right"),
        ("#00b000", "anterior-posterior"),
        ("#2030ff", "inferior-superior"),
    ):
        drawing.rectangle(x, 5, 14, 14, fill=colour)
        drawing.text(x + 20, 16, words, size=13)
        x += 20 + 7.2 * len(words) + 22
    drawing.text(x, 16, f"brightness: FA, full at {BRIGHTEST_FA:g}", size=12, fill="#555")
