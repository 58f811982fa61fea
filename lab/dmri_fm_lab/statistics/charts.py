"""Figures of the statistics page, as SVG or PNG to stand inside it."""

from __future__ import annotations

import base64
import warnings
from io import BytesIO
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm_lab.statistics.design_matrix import DesignMatrix
from dmri_fm_lab.statistics.harmonised import SiteSpread
from dmri_fm_lab.statistics.maps import MapScores
from dmri_fm_workflows.group.charts import COLOURS, OUTLIER_COLOUR, break_name
from dmri_fm_workflows.report.charts import chart_style, chart_svg

#: Outcomes of a forest plot, those of the smallest p.
FOREST_ROWS = 25

#: Fewest outcomes of a plot of their p.
FEWEST_P = 10

#: Axial slices of a map, mm.
SLICES_MM = (-30, -16, -2, 12, 26, 40, 54)

_GREY = "#9aa5b1"


def _inline(figure: Any) -> str:
    svg = chart_svg(figure)
    return svg[svg.index("<svg") :]


def draw_design(design: DesignMatrix) -> str:
    """Draw the design matrix, each column scaled to -1 to 1, scans sorted by their columns."""
    from matplotlib.figure import Figure

    matrix = design.matrix / np.abs(design.matrix).max(axis=0)
    matrix = matrix[np.lexsort(matrix.T[::-1])]
    with chart_style():
        figure = Figure(figsize=(min(2.2 + 0.62 * len(design.names), 11), 4), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(
            matrix, aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest"
        )
        axes.set_xticks(range(len(design.names)), design.names, rotation=40, ha="right")
        axes.set_ylabel("scan")
        figure.colorbar(image, ax=axes, label="value / largest", shrink=0.8)
        return _inline(figure)


def draw_forest(results: pd.DataFrame, *, alpha: float) -> str:
    """Draw effect sizes of one contrast with 95% intervals, outcomes of the smallest p first.

    Parameters
    ----------
    results
        Rows of one contrast.
    alpha
        Level of the marks.
    """
    from matplotlib.figure import Figure

    rows = results.dropna(subset=["p"]).nsmallest(FOREST_ROWS, "p")[::-1]
    size = "cohens_d" if rows["cohens_d"].notna().any() else "partial_r"
    title = "Cohen's d" if size == "cohens_d" else "partial correlation"
    is_fwe, is_fdr = rows["p_fwe"] < alpha, rows["p_fdr"] < alpha
    marks = {
        f"family-wise p < {alpha:g}": (is_fwe, OUTLIER_COLOUR, "D"),
        f"FDR < {alpha:g}": (is_fdr & ~is_fwe, COLOURS[0], "o"),
        "neither": (~is_fdr & ~is_fwe, _GREY, "o"),
    }
    places = np.arange(len(rows))
    with chart_style():
        figure = Figure(figsize=(9, 1.1 + 0.24 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for label, (which, colour, marker) in marks.items():
            if not which.any():
                continue
            some, at = rows[which], places[which.to_numpy()]
            axes.hlines(at, some[f"{size}_low"], some[f"{size}_high"], color=colour, lw=1.6)
            axes.plot(some[size], at, marker, color=colour, ms=5, label=label)
        axes.axvline(0, color="#222", lw=0.8)
        axes.set_yticks(places, rows["outcome"])
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlabel(f"{title}, 95% interval")
        axes.grid(axis="x", color="#e4e9ee", lw=0.6)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
        return _inline(figure)


def draw_p(results: pd.DataFrame) -> str:
    """Draw the observed p of one contrast against those of no effect; empty for few outcomes."""
    from matplotlib.figure import Figure
    from scipy.stats import beta

    p = np.sort(results["p"].dropna().to_numpy(dtype=np.float64))
    n = len(p)
    if n < FEWEST_P:
        return ""
    ranks = np.arange(1, n + 1)
    expected = -np.log10(ranks / (n + 1))
    low, high = (-np.log10(beta.ppf(q, ranks, n + 1 - ranks)) for q in (0.975, 0.025))
    with chart_style():
        figure = Figure(figsize=(4.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        axes.fill_between(expected, low, high, color="#e4e9ee", label="no effect, 95%")
        axes.plot(expected, expected, color="#555", lw=0.8)
        axes.plot(expected, -np.log10(np.maximum(p, 1e-300)), ".", color=COLOURS[0], ms=5)
        axes.set_xlabel("expected -log10 p")
        axes.set_ylabel("observed -log10 p")
        axes.legend(loc="upper left")
        return _inline(figure)


def draw_spread(spread: SiteSpread) -> str:
    """Draw means and standard deviations of sites over outcomes, before and after ComBat."""
    from matplotlib.figure import Figure

    titles = ("mean of the site", "standard deviation of the site")
    sides = (("before", spread.before, _GREY, -0.18), ("after", spread.after, COLOURS[0], 0.18))
    places = np.arange(len(spread.sites))
    with chart_style():
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        for k, title in enumerate(titles):
            axes = figure.add_subplot(1, 2, k + 1)
            for label, moments, colour, shift in sides:
                boxes = axes.boxplot(
                    list(moments[k]),
                    positions=places + shift,
                    widths=0.3,
                    patch_artist=True,
                    flierprops={"ms": 2, "markeredgecolor": colour},
                    medianprops={"color": "#222"},
                )
                for box in boxes["boxes"]:
                    box.set(facecolor=colour, alpha=0.6)
                boxes["boxes"][0].set_label(label)
            axes.axhline(k, color="#222", lw=0.8)
            axes.set_xticks(places, [break_name(site) for site in spread.sites])
            axes.set_title(title, loc="left")
            axes.set_ylabel("residual standard deviations")
            axes.legend()
        return _inline(figure)


def draw_map(scores: MapScores, *, alpha: float) -> str:
    """Draw t on slices of the template, outlined where p is below a level; return a data URI."""
    from matplotlib.figure import Figure
    from nilearn.plotting import plot_stat_map

    largest = float(np.abs(scores.t).max())
    buffer = BytesIO()
    with chart_style(), warnings.catch_warnings():
        # nilearn warns of its own defaults, of an empty contour and of non-finite images.
        warnings.simplefilter("ignore")
        figure = Figure(figsize=(11, 2.3))
        display = plot_stat_map(
            nib.Nifti1Image(scores.t, scores.affine),
            figure=figure,
            display_mode="z",
            cut_coords=list(SLICES_MM),
            threshold=min(2.0, 0.5 * largest),
            vmax=largest,
            cmap="RdBu_r",
            black_bg=False,
        )
        significant = _significant(scores, alpha)
        if significant.any():
            display.add_contours(
                nib.Nifti1Image(significant.astype(np.float32), scores.affine),
                levels=[0.5],
                colors="#009e73",
                linewidths=1.2,
            )
        figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _significant(scores: MapScores, alpha: float) -> NDArray[np.bool_]:
    return np.asarray(scores.mask & (scores.log_p > -np.log10(alpha)))


def count_significant(scores: MapScores, alpha: float) -> int:
    """Return the number of voxels whose family-wise p is below a level."""
    return int(_significant(scores, alpha).sum())
