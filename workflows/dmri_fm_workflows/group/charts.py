"""Charts of the group page, as SVG to stand inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm_workflows.report.charts import chart_style, chart_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
OUTLIER_COLOUR = "#d55e00"

#: Panels beside each other.
COLUMNS = 4

#: More points than this are drawn as a picture, to keep the page small.
MANY_POINTS = 500

#: Names of outliers in a panel, at most.
MAX_NAMES = 3

#: Letters that fit above a panel.
TITLE_WIDTH = 27

_GOLDEN = 0.6180339887


@dataclass(frozen=True, eq=False)
class Panel:
    """Values of one measure.

    Attributes
    ----------
    title, unit
        Above the panel and along its axis.
    values
        Shape (N,), NaN where missing.
    groups
        Label of each scan's column in the panel.
    outliers
        Positions that stand out.
    names
        Name of each scan.
    """

    title: str
    unit: str
    values: NDArray[np.float64]
    groups: Sequence[str]
    outliers: frozenset[int]
    names: Sequence[str]


def _inline(figure: Figure) -> str:
    svg = chart_svg(figure)
    return svg[svg.index("<svg") :]


def _spread(n: int) -> NDArray[np.float64]:
    """Return sideways shifts in -0.25 to 0.25 that do not depend on chance."""
    return np.asarray((np.arange(n) * _GOLDEN % 1 - 0.5) * 0.5, dtype=np.float64)


def draw_panels(panels: Sequence[Panel]) -> str:
    """Draw one small chart per measure: a point per scan, a line at the median.

    Returns an `<svg>` element, or an empty text without a panel.
    """
    if not panels:
        return ""
    from matplotlib.figure import Figure

    n_rows = -(-len(panels) // COLUMNS)
    with chart_style():
        figure = Figure(figsize=(11, 2.5 * n_rows), layout="constrained")
        for position, panel in enumerate(panels):
            _draw_panel(figure.add_subplot(n_rows, COLUMNS, position + 1), panel)
        return _inline(figure)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    labels = _sorted_labels(panel.groups)
    for column, label in enumerate(labels):
        rows = [i for i, group in enumerate(panel.groups) if group == label]
        values = panel.values[rows]
        if not np.isfinite(values).any():
            continue
        x = column + _spread(len(rows))
        is_out = np.array([i in panel.outliers for i in rows])
        axes.scatter(
            x[~is_out],
            values[~is_out],
            s=14,
            color=COLOURS[column % len(COLOURS)],
            alpha=0.65,
            linewidths=0,
            rasterized=len(rows) > MANY_POINTS,
        )
        axes.scatter(x[is_out], values[is_out], s=26, marker="D", color=OUTLIER_COLOUR)
        median = float(np.nanmedian(values))
        axes.plot([column - 0.34, column + 0.34], [median, median], color="#222", lw=1.4)
        for i in np.flatnonzero(is_out)[:MAX_NAMES]:
            axes.annotate(
                panel.names[rows[i]],
                (x[i], values[i]),
                xytext=(5, 0),
                textcoords="offset points",
                fontsize=7,
                color=OUTLIER_COLOUR,
                va="center",
            )
    axes.set_title(break_name(panel.title), loc="left")
    axes.set_ylabel(panel.unit)
    axes.set_xlim(-0.6, max(len(labels) - 0.4, 0.9))
    is_grouped = labels not in ([""], [])
    axes.set_xticks(range(len(labels)) if is_grouped else [])
    if is_grouped:
        axes.set_xticklabels(labels)
    axes.grid(axis="y", color="#e4e9ee", lw=0.6)
    axes.set_axisbelow(True)


def _sorted_labels(groups: Sequence[str]) -> list[str]:
    """Return the labels of groups, shorter ones first: b=700 before b=1000."""
    return sorted(set(groups), key=lambda group: (len(group), group))


def break_name(name: str) -> str:
    """Break a name of many parts after one of them, to fit above a panel.

    Examples
    --------
    >>> break_name("tensorrefiner_negative_diffusivity_fraction")
    'tensorrefiner_negative_\\ndiffusivity_fraction'
    >>> break_name("MD, white, tensor fit")
    'MD, white, tensor fit'
    """
    end = max(name.rfind(mark, 0, TITLE_WIDTH) for mark in "_ ") + 1
    if len(name) <= TITLE_WIDTH or not end:
        return name
    return f"{name[:end].rstrip()}\n{name[end:]}"


def main_axes(features: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores of scans on the two main axes of their features.

    Parameters
    ----------
    features
        Shape (N, D), N at least 3.

    Returns
    -------
    scores
        Shape (N, 2). An axis has no sign: its largest loading is made positive.
    explained
        Shape (2,), share of the variance, 0 to 1.
    """
    data = np.asarray(features, dtype=np.float64)
    centred = data - data.mean(axis=0)
    u, s, vt = np.linalg.svd(centred, full_matrices=False)
    total = float((s**2).sum())
    signs = np.sign(vt[np.arange(2), np.abs(vt[:2]).argmax(axis=1)])
    explained = s[:2] ** 2 / total if total > 0 else np.zeros(2)
    return u[:, :2] * s[:2] * signs, explained


def draw_features(
    features: ArrayLike, *, groups: Sequence[str], names: Sequence[str], legend: str
) -> str:
    """Draw scans along the two main axes of their features, as an `<svg>` element.

    Parameters
    ----------
    features
        Shape (N, D).
    groups
        Label of each scan, shown by its colour.
    names
        Name of each scan, written for up to 30 scans.
    legend
        Title of the legend.
    """
    from matplotlib.figure import Figure

    scores, explained = main_axes(features)
    with chart_style():
        figure = Figure(figsize=(8, 4.6), layout="constrained")
        axes = figure.add_subplot()
        for number, label in enumerate(_sorted_labels(groups)):
            rows = [i for i, g in enumerate(groups) if g == label]
            axes.scatter(
                scores[rows, 0],
                scores[rows, 1],
                s=24,
                color=COLOURS[number % len(COLOURS)],
                alpha=0.75,
                linewidths=0,
                label=label,
                rasterized=len(rows) > MANY_POINTS,
            )
        if len(names) <= 30:
            for name, (x, y) in zip(names, scores, strict=True):
                axes.annotate(name, (x, y), xytext=(5, 3), textcoords="offset points", fontsize=7)
        axes.margins(x=0.18)
        axes.set_xlabel(f"first axis, {100 * explained[0]:.0f}% of the variance")
        axes.set_ylabel(f"second axis, {100 * explained[1]:.0f}% of the variance")
        axes.legend(title=legend, loc="best")
        axes.grid(color="#e4e9ee", lw=0.6)
        axes.set_axisbelow(True)
        return _inline(figure)
