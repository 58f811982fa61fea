"""Charts of the group page, as SVG to stand inside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

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

#: Colour of sites beyond the most frequent ones.
OTHER_COLOUR = "#8a8a8a"

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
    sites
        Site of each scan, shown by its colour; all empty: columns have colours.
    outliers
        Positions that stand out.
    names
        Name of each scan.
    """

    title: str
    unit: str
    values: NDArray[np.float64]
    groups: Sequence[str]
    sites: Sequence[str]
    outliers: frozenset[int]
    names: Sequence[str]


class Chart(NamedTuple):
    """A drawing, and where its points are.

    Attributes
    ----------
    svg
        An `<svg>` element; empty without a panel.
    panels
        For each panel `label`, `unit`, and `points`: x and y in units of the drawing's viewBox,
        position of the scan, and its value or group.
    names
        Name of each scan.
    """

    svg: str
    panels: list[dict[str, Any]]
    names: Sequence[str]


def _inline(figure: Figure) -> str:
    svg = chart_svg(figure)
    return svg[svg.index("<svg") :]


def _spread(n: int) -> NDArray[np.float64]:
    """Return sideways shifts in -0.25 to 0.25 that do not depend on chance."""
    return np.asarray((np.arange(n) * _GOLDEN % 1 - 0.5) * 0.5, dtype=np.float64)


def choose_colours(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each label; of too many, one colour for all but the most frequent.

    Examples
    --------
    >>> choose_colours(["b", "a", "b"])
    {'a': '#0072b2', 'b': '#009e73'}
    """
    names = _sorted_labels(labels)
    if len(names) > len(COLOURS):
        most = [name for name, _ in Counter(labels).most_common(len(COLOURS) - 1)]
        names = [name for name in names if name in most]
    named = dict(zip(names, COLOURS, strict=False))
    return {label: named.get(label, OTHER_COLOUR) for label in _sorted_labels(labels)}


def _locate(figure: Figure, axes: Axes, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where points lie in the drawing, in units of its viewBox."""
    width, height = 72 * figure.get_size_inches()
    fractions = figure.transFigure.inverted().transform(axes.transData.transform(xy))
    return np.asarray(np.round(fractions * [width, -height] + [0, height], 1))


def _points(
    figure: Figure, axes: Axes, xy: NDArray[np.float64], values: Sequence[float | str]
) -> list[list[Any]]:
    places = _locate(figure, axes, xy).tolist()
    return [[*place, i, values[i]] for i, place in enumerate(places) if np.isfinite(place).all()]


def draw_panels(panels: Sequence[Panel]) -> Chart:
    """Draw one small chart per measure: a point per scan, a line at the median.

    All panels have the same scans.
    """
    if not panels:
        return Chart("", [], [])
    from matplotlib.figure import Figure

    n_rows = -(-len(panels) // COLUMNS)
    with chart_style():
        figure = Figure(figsize=(11, 2.5 * n_rows + 0.3), layout="constrained", dpi=72)
        axes = [figure.add_subplot(n_rows, COLUMNS, i + 1) for i in range(len(panels))]
        drawn = [_draw_panel(a, panel) for a, panel in zip(axes, panels, strict=True)]
        _draw_legend(figure, panels[0].sites)
        figure.draw_without_rendering()
        found = [
            {
                "label": panel.title,
                "unit": panel.unit,
                "points": _points(figure, a, xy, [float(f"{v:.4g}") for v in panel.values]),
            }
            for a, panel, xy in zip(axes, panels, drawn, strict=True)
        ]
        return Chart(_inline(figure), found, panels[0].names)


def _draw_legend(figure: Figure, sites: Sequence[str]) -> None:
    """Name the colours of sites above the panels."""
    from matplotlib.lines import Line2D

    colours = choose_colours(sites)
    if set(colours) == {""}:
        return
    shown = {label: c for label, c in colours.items() if c != OTHER_COLOUR}
    if n_others := len(colours) - len(shown):
        shown[f"{n_others} other sites"] = OTHER_COLOUR
    marks = [Line2D([], [], ls="", marker="o", color=c, label=s) for s, c in shown.items()]
    figure.legend(handles=marks, loc="outside upper left", ncols=len(marks))


def _draw_panel(axes: Axes, panel: Panel) -> NDArray[np.float64]:
    """Draw a panel; return x and y of every scan, NaN where it has no value."""
    labels = _sorted_labels(panel.groups)
    xy = np.stack([np.full(len(panel.values), np.nan), panel.values], axis=1)
    of_sites = any(panel.sites)
    palette = choose_colours(panel.sites if of_sites else panel.groups)
    colours = np.array([palette[label] for label in (panel.sites if of_sites else panel.groups)])
    for column, label in enumerate(labels):
        rows = [i for i, group in enumerate(panel.groups) if group == label]
        values = panel.values[rows]
        if not np.isfinite(values).any():
            continue
        x = column + _spread(len(rows))
        xy[rows, 0] = x
        is_out = np.array([i in panel.outliers for i in rows])
        axes.scatter(
            x[~is_out],
            values[~is_out],
            s=14,
            c=colours[rows][~is_out],
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
    return xy


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
    features: ArrayLike, *, groups: Mapping[str, Sequence[str]], names: Sequence[str]
) -> Chart:
    """Draw scans along the two main axes of their features.

    Parameters
    ----------
    features
        Shape (N, D).
    groups
        Label of each scan by title of the legend: a panel each, with colours by label.
    names
        Name of each scan, written for up to 30 scans.
    """
    from matplotlib.figure import Figure

    scores, explained = main_axes(features)
    with chart_style():
        width = 8 if len(groups) == 1 else 11
        figure = Figure(figsize=(width, 4.6), layout="constrained", dpi=72)
        panels = list(np.atleast_1d(figure.subplots(1, len(groups))))
        for axes, (title, labels) in zip(panels, groups.items(), strict=True):
            _draw_scores(axes, scores, labels, title=title)
            if len(names) <= 30:
                for name, place in zip(names, scores, strict=True):
                    axes.annotate(
                        name, place, xytext=(5, 3), textcoords="offset points", fontsize=7
                    )
            axes.set_xlabel(f"first axis, {100 * explained[0]:.0f}% of the variance")
            axes.set_ylabel(f"second axis, {100 * explained[1]:.0f}% of the variance")
        figure.draw_without_rendering()
        found = [
            {"label": title, "unit": "", "points": _points(figure, axes, scores, list(labels))}
            for axes, (title, labels) in zip(panels, groups.items(), strict=True)
        ]
        return Chart(_inline(figure), found, names)


def _draw_scores(
    axes: Axes, scores: NDArray[np.float64], labels: Sequence[str], *, title: str
) -> None:
    for label, colour in choose_colours(labels).items():
        rows = [i for i, g in enumerate(labels) if g == label]
        axes.scatter(
            scores[rows, 0],
            scores[rows, 1],
            s=24,
            color=colour,
            alpha=0.75,
            linewidths=0,
            label=label,
            rasterized=len(rows) > MANY_POINTS,
        )
    axes.margins(x=0.18)
    axes.legend(title=title, loc="best")
    axes.grid(color="#e4e9ee", lw=0.6)
    axes.set_axisbelow(True)
