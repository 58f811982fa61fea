"""Tables and a figure of a comparison of encoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.errors import OutputError
from dmri_fm_lab.encoder_comparison.cohort import FACTOR_TITLES, PROTOCOLS
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.prediction.figures import new_figure, save_figure

#: Title of the file of tables.
_TITLE = "Encoders and classical measures on one cohort: results"

#: Digits of R^2 and shares.
_SPEC = ".2f"


def format_cohort_comparison(record: Mapping[str, Any]) -> str:
    """Return the comparison on the simulated cohort as markdown: tables, winners, absent rows."""
    request = record["request"]
    own = request["cohort"]
    first = ", ".join(f"{b:g}" for b in own["bvals"])
    second = ", ".join(f"{b:g}" for b in request["other_bvals"])
    about = (
        f"{own['n_participants']} simulated participants with {own['n_heads']} heads at "
        f"{request['n_sites']} sites; protocol A: b {first}, B: b {second} s/mm^2, "
        f"{own['n_directions']} directions a shell. {record['use']}"
    )
    parts = [
        "## Simulated cohort",
        about,
        markdown(_summary(record)),
        "R^2 of held-out heads, trained on protocol A: tested on A / on B.",
        markdown(_probes(record)),
        *_winners(record),
        *_absent(record),
    ]
    return "\n\n".join(parts)


def _summary(record: Mapping[str, Any]) -> list[list[str]]:
    lines = [
        [
            "method",
            "numbers",
            *(f"mean R^2, tested on {p}" for p in PROTOCOLS),
            f"site found (chance {record['site_chance']:{_SPEC}})",
            f"rank-1 between protocols (chance {record['retrieval_chance']:{_SPEC}})",
            "CPU seconds a scan",
            "peak MiB",
        ]
    ]
    for row, probes in record["probes"].items():
        cost = record["cost"][row]
        lines.append(
            [
                row,
                str(record["n_features"][row]),
                *(_mean(probes, p) for p in PROTOCOLS),
                _number(record["site"][row]),
                _number(record["retrieval"][row]),
                _number(cost["seconds"], ".1f"),
                _number(cost["mib"], ".0f"),
            ]
        )
    return lines


def _mean(probes: Mapping[str, Mapping[str, float]], protocol: str) -> str:
    return _number(float(np.mean([by[protocol] for by in probes.values()])))


def _number(value: float | None, spec: str = _SPEC) -> str:
    return "-" if value is None else format(value, spec)


def _probes(record: Mapping[str, Any]) -> list[list[str]]:
    factors = list(next(iter(record["probes"].values())))
    lines = [["method", *(FACTOR_TITLES[f] for f in factors)]]
    for row, probes in record["probes"].items():
        cells = (" / ".join(_number(probes[f][p]) for p in PROTOCOLS) for f in factors)
        lines.append([row, *cells])
    return lines


def _winners(record: Mapping[str, Any]) -> list[str]:
    lines = [["task", "best"]]
    lines += [[task, found["text"]] for task, found in record["winners"].items()]
    lines += [
        [f"least {title}", f"{row} ({record['cost'][row][key]:{spec}})"]
        for key, title, spec in (("seconds", "CPU seconds", ".1f"), ("mib", "peak MiB", ".0f"))
        if (row := _cheapest(record["cost"], key)) is not None
    ]
    note = (
        "A tie: the 95 % interval of the difference to the best holds zero (paired bootstrap "
        "over participants, not corrected for the number of rows)."
    )
    return [markdown(lines), note]


def _cheapest(costs: Mapping[str, Mapping[str, float | None]], key: str) -> str | None:
    known = {row: value for row, by in costs.items() if (value := by[key]) is not None}
    return min(known, key=lambda row: known[row], default=None)


def _absent(record: Mapping[str, Any]) -> list[str]:
    reasons = [f"- {title}: {reason}" for title, reason in record["absent"].items()]
    return ["Rows without numbers:\n\n" + "\n".join(reasons)] if reasons else []


def format_scan_comparison(record: Mapping[str, Any]) -> str:
    """Return the comparison on real scans as markdown."""
    has_runs = "runs" in record
    lines = [
        [
            "method",
            f"same participant, other directions (chance {record['directions_chance']:{_SPEC}})",
            *(
                [f"same participant, other run (chance {record['runs_chance']:{_SPEC}})"]
                if has_runs
                else []
            ),
            "CPU seconds a scan",
            "peak MiB",
        ]
    ]
    for row, share in record["directions"].items():
        cost = record["cost"][row]
        lines.append(
            [
                row,
                _number(share),
                *([_number(record["runs"][row])] if has_runs else []),
                _number(cost["seconds"], ".1f"),
                _number(cost["mib"], ".0f"),
            ]
        )
    seen = [f"- {text}" for text in record["seen"].values()]
    parts = [
        "## Real scans",
        f"{record['n_scans']} scans of {record['n_participants']} participants. {record['use']}",
        markdown(lines),
        *_winners(record),
        *(["Pretraining:\n\n" + "\n".join(seen)] if seen else []),
        *_absent(record),
    ]
    return "\n\n".join(parts)


def write_markdown(text: str, path: Path) -> Path:
    """Write tables as a markdown file, under a title.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {_TITLE}\n\n{text}\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error})", path=path, expected="a folder that you may write to"
        ) from None
    return path


def draw_comparison(record: Mapping[str, Any], path: Path) -> Path:
    """Draw mean R^2 by protocol, site leakage, retrieval and cost of the simulated cohort."""
    rows = list(record["probes"])
    place = np.arange(len(rows))[::-1]
    figure, axes = new_figure(12.0, 0.6 + 0.32 * len(rows), columns=4)
    means = {
        p: [np.mean([by[p] for by in record["probes"][row].values()]) for row in rows]
        for p in PROTOCOLS
    }
    for shift, (protocol, values) in zip((0.2, -0.2), means.items(), strict=True):
        # R^2 has no lower bound; a bar to -1 says enough.
        shown = np.clip(values, -1, 1)
        axes[0].barh(place + shift, shown, height=0.38, label=f"tested on {protocol}")
    axes[0].legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    panels = (
        ([record["site"][row] for row in rows], record["site_chance"]),
        ([record["retrieval"][row] for row in rows], record["retrieval_chance"]),
    )
    for axis, (values, chance) in zip(axes[1:3], panels, strict=True):
        axis.barh(place, values, height=0.7, color="0.5")
        axis.axvline(chance, color="black", linewidth=0.8, linestyle=":")
        axis.set_xlim(0, 1)
    axes[3].barh(place, [record["cost"][row]["seconds"] for row in rows], height=0.7, color="0.5")
    axes[3].set_xscale("log")
    titles = (
        "mean R^2 of factors",
        "site found",
        "rank-1 between protocols",
        "CPU seconds a scan",
    )
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9)
        axis.set_yticks(place, rows if axis is axes[0] else [], fontsize=8)
        axis.tick_params(axis="x", which="both", labelsize=7)
    return save_figure(figure, path)
