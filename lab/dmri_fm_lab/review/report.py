"""Run experiments over seeds, and print what they say."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.errors import ConfigError
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.review.experiments import EXPERIMENTS, Outcome, Setting

#: Columns: title and format by measure.
COLUMNS = {
    "fa": ("FA error", ".4f"),
    "fa_bias": ("FA bias", ".4f"),
    "md": ("MD error (um^2/ms)", ".4f"),
    "md_bias": ("MD bias (um^2/ms)", ".4f"),
    "angle_deg": ("angle of V1 (degrees)", ".1f"),
    "spherical_variance": ("spherical variance of V1", ".3f"),
}

#: Measures that decide which method is named the winner; lower is better.
_DECIDING = ("fa", "md", "angle_deg", "spherical_variance")


def run_review(
    which: Sequence[int], folder: Path, *, seeds: Sequence[int], setting: Setting
) -> dict[str, Any]:
    """Run experiments with each seed.

    Returns
    -------
    dict
        By number: `question`, `seeds`, `scores` (by method, condition and measure: a number for
        each seed), `signatures` and `cpu_minutes`.

    Raises
    ------
    ConfigError
        If there is no such experiment, or no seed.
    """
    unknown = sorted(set(which) - set(EXPERIMENTS))
    if unknown or not seeds:
        raise ConfigError(
            f"experiments {unknown}, seeds {list(seeds)}",
            expected=f"experiments among {', '.join(map(str, EXPERIMENTS))}, and a seed at least",
        )
    record: dict[str, Any] = {}
    for number in which:
        question, run = EXPERIMENTS[number]
        started = time.process_time()
        outcomes = [run(seed, setting, folder / f"experiment-{number}") for seed in seeds]
        record[str(number)] = {
            "question": question,
            "seeds": list(seeds),
            "scores": _gather(outcomes),
            "signatures": [
                {**first._asdict(), "value": [o.signatures[i].value for o in outcomes]}
                for i, first in enumerate(outcomes[0].signatures)
            ],
            "cpu_minutes": (time.process_time() - started) / 60,
        }
    return record


def _gather(outcomes: Sequence[Outcome]) -> dict[str, dict[str, dict[str, list[float]]]]:
    return {
        method: {
            condition: {m: [o.scores[method][condition][m] for o in outcomes] for m in measures}
            for condition, measures in by_condition.items()
        }
        for method, by_condition in outcomes[0].scores.items()
    }


def format_review(record: Mapping[str, Any]) -> str:
    """Return tables of all experiments, who wins, and the signs of failure."""
    parts = []
    for number, found in record.items():
        parts += [
            f"## {number}. {found['question']}",
            _table(found["scores"]),
            _winners(found["scores"]),
            f"Mean and standard deviation over {len(found['seeds'])} seeds; "
            f"{found['cpu_minutes']:.1f} CPU-minutes.",
        ]
    signs = [s for found in record.values() for s in found["signatures"]]
    lines = [["sign of failure", "method", "found", "what catches it"]]
    lines += [[s["sign"], s["method"], _spread(s["value"], ".4f"), s["caught_by"]] for s in signs]
    return "\n\n".join([*parts, "## Signs of failure", markdown(lines)])


def _conditions(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(next(iter(scores.values())))


def _measures(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    present = next(iter(next(iter(scores.values())).values()))
    return [m for m in COLUMNS if m in present]


def _table(scores: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    measures = _measures(scores)
    lines = [["data", "method", *(COLUMNS[m][0] for m in measures)]]
    for condition in _conditions(scores):
        for method, by_condition in scores.items():
            row = by_condition[condition]
            cells = [_spread(row[m], COLUMNS[m][1]) for m in measures]
            lines.append([condition, method, *cells])
    return markdown(lines)


def _spread(values: Sequence[float], spec: str) -> str:
    deviation = f" +- {np.std(values, ddof=1):{spec}}" if len(values) > 1 else ""
    return f"{np.mean(values):{spec}}{deviation}"


def _winners(scores: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    """Name the method of the lowest mean, and whether all seeds agree."""
    lines = []
    for condition in _conditions(scores):
        won = []
        for measure in (m for m in _DECIDING if m in _measures(scores)):
            values = {name: rows[condition][measure] for name, rows in scores.items()}
            best = min(values, key=lambda name: float(np.mean(values[name])))
            agree = len(set(np.argmin(list(values.values()), axis=0))) == 1
            title = COLUMNS[measure][0].split(" (")[0]
            won.append(f"{title}: {best}" + ("" if agree else " (not with every seed)"))
        lines.append(f"- {condition}: {'; '.join(won)}.")
    return "Lowest:\n\n" + "\n".join(lines)
