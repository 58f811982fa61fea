"""Files of an analysis: page, tables, JSON, maps."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from dmri_fm.series import save_image
from dmri_fm_lab.scan_tables import count_reasons
from dmri_fm_lab.statistics.analysis import Analysis
from dmri_fm_lab.statistics.methods import USE, versions, write_methods
from dmri_fm_lab.statistics.page import DESCRIPTIONS, render_page
from dmri_fm_workflows.outputs.publish import publish_json, publish_text
from dmri_fm_workflows.outputs.tsv import SCAN_ID, format_table


def write_analysis(analysis: Analysis, folder: Path) -> Path:
    """Write all files of an analysis; return the page.

    Beside each file of numbers stands a JSON file that tells its use.

    Raises
    ------
    OutputError
        If the folder cannot be written.
    """
    files = [("statistics.json", "all numbers, the request, versions")]
    if len(analysis.results):
        files.append(("statistics.tsv", "a row per outcome and effect"))
        publish_text(_tsv(analysis.results), folder / "statistics.tsv")
    files += [
        ("left_out.tsv", "scans and participants that were left out, with the reason"),
        ("design_matrix.tsv", "the design, a row per scan"),
    ]
    left_out = pd.DataFrame(analysis.sample.cohort.left_out, columns=["name", "reason"])
    about: dict[str, Any] = {
        "name": {"Description": "Scan or participant"},
        "reason": {"Description": "Why it is not used"},
    }
    publish_text(_tsv(left_out), folder / "left_out.tsv")
    publish_json({"Use": USE, **about}, folder / "left_out.json")
    design = pd.DataFrame(analysis.design.matrix, columns=list(analysis.design.names))
    design.insert(0, SCAN_ID, analysis.sample.cohort.people.index)
    publish_text(_tsv(design), folder / "design_matrix.tsv")
    publish_json(
        {
            "Use": USE,
            "Formula": analysis.request.formula,
            SCAN_ID: {"Description": "Key of the scan"},
        },
        folder / "design_matrix.json",
    )
    for scores in analysis.maps:
        stem = f"space-{_SPACE}_param-{scores.param}_effect-{_label(scores.effect)}"
        for stat, data, title in (
            ("t", scores.t, "t"),
            ("logpfwe", scores.log_p, "-log10 of the family-wise p"),
        ):
            name = f"{stem}_stat-{stat}_statmap"
            what = f"{title} of {scores.effect} in {scores.param.upper()}"
            save_image(data, scores.affine, folder / f"{name}.nii.gz")
            sidecar = {"Use": USE, "Space": _SPACE, "Description": what, "Method": scores.method}
            publish_json(sidecar, folder / f"{name}.json")
            files.append((f"{name}.nii.gz", what))
    publish_json(_record(analysis), folder / "statistics.json")
    page = folder / "statistics.html"
    publish_text(render_page(analysis, files=files), page)
    return page


_SPACE = "MNI152NLin2009aSym"


def _tsv(table: pd.DataFrame) -> str:
    return format_table(table.to_dict("records"), list(table), digits=9)  # type: ignore[arg-type]


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "", text) or "effect"


def _record(analysis: Analysis) -> dict[str, Any]:
    request, sample = analysis.request, analysis.sample
    return {
        "Use": USE,
        "Request": asdict(request),
        "Versions": versions(),
        "Scans": len(sample.cohort),
        "Participants": sample.n_participants,
        "LeftOut": count_reasons(sample.cohort.left_out),
        "ExclusionsByGroup": analysis.exclusions.to_dict("records"),
        "Design": list(analysis.design.names),
        "Contrasts": {name: c.tolist() for name, c in analysis.contrasts.items()},
        "Warnings": [w.text for w in analysis.warnings],
        "Methods": write_methods(analysis),
        "Columns": DESCRIPTIONS,
        "Results": analysis.results.to_dict("records"),
    }
