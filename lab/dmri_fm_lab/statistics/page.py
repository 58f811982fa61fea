"""The statistics page: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import ChoiceLoader, PackageLoader, Template
from markupsafe import Markup

from dmri_fm import __version__
from dmri_fm_lab.scan_tables import count_reasons, listed
from dmri_fm_lab.statistics.analysis import Analysis
from dmri_fm_lab.statistics.charts import (
    count_significant,
    draw_design,
    draw_forest,
    draw_map,
    draw_p,
    draw_spread,
)
from dmri_fm_lab.statistics.methods import USE, is_by_site, write_methods
from dmri_fm_workflows.outputs.tsv import format_cell
from dmri_fm_workflows.report.content import Entry
from dmri_fm_workflows.report.page import count_levels, methods_html, page_environment

#: Rows of the table of an effect, those of the smallest p; the file has all.
TABLE_ROWS = 100

#: Meaning of each column of the results.
DESCRIPTIONS = {
    "outcome": "Column of the tables",
    "effect": "Column of the design, or contrast",
    "n": "Scans used",
    "n_missing": "Scans left out because this outcome has no value",
    "estimate": "Change of the outcome by one unit of the effect",
    "standard_error": "Standard error of the estimate",
    "df": "Degrees of freedom of t",
    "t": "Estimate over its standard error",
    "p": "Two-sided p, not corrected",
    "ci_low": "Lower end of the 95% interval",
    "ci_high": "Upper end of the 95% interval",
    "partial_r": "Partial correlation, and its 95% interval (low, high)",
    "cohens_d": "Difference in residual standard deviations, for contrasts of groups, and its "
    "95% interval (low, high)",
    "p_fdr": "Benjamini-Hochberg false discovery rate over the outcomes of the effect",
    "p_fwe": "Family-wise p over the outcomes of the effect, by permutation",
    "problem": "Why numbers are missing, or what to know about the fit",
}

_SHOWN = ("outcome", "n", "estimate", "95% interval", "t", "p", "p_fdr", "p_fwe", "effect size")


def render_page(analysis: Analysis, *, files: Sequence[tuple[str, str]]) -> str:
    """Render the page of an analysis.

    Parameters
    ----------
    analysis
        Results.
    files
        Name and title of the files beside the page.
    """
    methods, cited = methods_html(write_methods(analysis))
    alpha, exclusions = analysis.request.alpha, analysis.exclusions
    reasons = count_reasons(analysis.sample.cohort.left_out)
    return _template().render(
        title="Group statistics: diffusion MRI",
        use=USE,
        formula=analysis.request.formula,
        version=__version__,
        warnings=analysis.warnings,
        counts=count_levels(analysis.warnings),
        summary=_summary(analysis),
        reasons=list(reasons.items()),
        exclusions={"columns": list(exclusions), "rows": exclusions.to_numpy().tolist()},
        design_chart=Markup(draw_design(analysis.design)),
        design_width=min(230 + 62 * len(analysis.design.names), 1050),
        effects=[_effect(analysis, name) for name in analysis.contrasts if len(analysis.results)],
        hints=DESCRIPTIONS,
        spread_chart=Markup(draw_spread(analysis.spread)) if analysis.spread else "",
        maps=[
            {
                "title": f"{scores.param.upper()}, {scores.effect}",
                "text": f"{count_significant(scores, alpha)} of {int(scores.mask.sum())} voxels "
                f"with a family-wise p below {alpha:g}: {scores.method}.",
                "uri": draw_map(scores, alpha=alpha),
            }
            for scores in analysis.maps
        ],
        alpha=f"{alpha:g}",
        methods=methods,
        cited=cited,
        files=files,
    )


def _template() -> Template:
    loaders = [
        PackageLoader("dmri_fm_lab.statistics"),
        PackageLoader("dmri_fm_workflows.report"),
    ]
    environment = page_environment().overlay(loader=ChoiceLoader(loaders))
    return environment.get_template("statistics.html.j2")


def _summary(analysis: Analysis) -> tuple[Entry, ...]:
    request, sample = analysis.request, analysis.sample
    tables = listed([path.name for path in request.tables])
    entries = [
        Entry("Scans", str(len(sample.cohort))),
        Entry("Participants", str(sample.n_participants)),
        Entry("Left out", str(len(sample.cohort.left_out))),
        Entry("Tables", tables or "none"),
        Entry("Outcomes", str(analysis.results["outcome"].nunique())),
        Entry("Formula", request.formula),
        Entry("Effects", listed(list(analysis.contrasts))),
        Entry("Errors", _errors(analysis)),
        Entry("Harmonisation", "ComBat" if request.harmonise == "combat" else "none"),
        Entry("Level", f"{request.alpha:g}"),
    ]
    return tuple(entries)


def _errors(analysis: Analysis) -> str:
    request, people = analysis.request, analysis.sample.cohort.people
    if request.random:
        return "mixed model, a random intercept for each participant"
    if not request.tables and not any(scores.is_robust for scores in analysis.maps):
        return "one residual variance"
    words = "robust"
    if request.families:
        words += f", {people[request.families].nunique()} blocks of one {request.families}"
    return words + (
        ", own variance of each site" if request.tables and is_by_site(request) else ""
    )


def _effect(analysis: Analysis, name: str) -> dict[str, Any]:
    results = analysis.results[analysis.results["effect"] == name]
    tested = results.dropna(subset=["p"])
    first = tested.nsmallest(TABLE_ROWS, "p")
    return {
        "name": name,
        "verdict": _verdict(tested, analysis.request.alpha),
        "forest": Markup(draw_forest(results, alpha=analysis.request.alpha))
        if len(tested)
        else "",
        "p_chart": Markup(draw_p(results)),
        "columns": list(_SHOWN),
        "rows": [_cells(row) for row in first.to_dict("records")],
        "shown": f"{len(first)} of {len(results)} outcomes, smallest p first",
    }


def _verdict(tested: pd.DataFrame, alpha: float) -> str:
    n = len(tested)
    words = [
        f"{(tested['p'] < alpha).sum()} of {n} outcomes have p below {alpha:g} before correction "
        f"({alpha * n:.3g} are expected without any effect)",
        f"{(tested['p_fdr'] < alpha).sum()} a false discovery rate below it",
    ]
    if tested["p_fwe"].notna().any():
        words.append(f"{(tested['p_fwe'] < alpha).sum()} a family-wise p below it")
    return ", ".join(words) + "."


def _cells(row: dict[Any, Any]) -> list[str]:
    size = ("cohens_d", "d") if np.isfinite(row["cohens_d"]) else ("partial_r", "r")
    value, low, high = (row[f"{size[0]}{end}"] for end in ("", "_low", "_high"))
    number = {k: format_cell(v, digits=3) for k, v in row.items()}
    return [
        number["outcome"],
        number["n"],
        number["estimate"],
        f"{number['ci_low']} to {number['ci_high']}",
        f"{row['t']:.2f}",
        number["p"],
        number["p_fdr"],
        number["p_fwe"],
        f"{size[1]} = {value:.2f} ({low:.2f} to {high:.2f})",
    ]
