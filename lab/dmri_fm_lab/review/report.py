"""Tables of the review's experiments: errors, who has the lowest, and signs of failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.review.outcomes import ORACLES

#: Numbers of each seed by method, condition and measure.
_Scores = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]


class Column(NamedTuple):
    """Column of a table: its title, the format of its numbers, and whether the lowest wins.

    Biases have signs, and a method may have a low spherical variance for being always wrong in the
    same way: they name no winner.
    """

    title: str
    spec: str
    decides: bool = True


#: Columns by measure.
COLUMNS = {
    "fa": Column("FA error", ".4f"),
    "fa_bias": Column("FA bias", ".4f", decides=False),
    "md": Column("MD error (um^2/ms)", ".4f"),
    "md_bias": Column("MD bias (um^2/ms)", ".4f", decides=False),
    "angle_deg": Column("angle of V1 (degrees)", ".1f"),
    "fa_of_head": Column("error of a head's mean FA", ".4f"),
    "md_of_head": Column("error of a head's mean MD (um^2/ms)", ".4f"),
    "peak_angle_deg": Column("angle of the main peak (degrees)", ".1f"),
    "wrong_peaks": Column("wrong number of peaks (share)", ".3f"),
    "wrong_single": Column("the same, one fibre", ".3f", decides=False),
    "wrong_crossing": Column("the same, several fibres", ".3f", decides=False),
    "peaks_bias": Column("bias of the number of peaks", ".3f", decides=False),
    "effect_kept": Column("share of the disease's effect on FA", ".3f", decides=False),
    "spherical_variance": Column("spherical variance of V1", ".3f", decides=False),
}


def format_review(record: Mapping[str, Any]) -> str:
    """Return tables of all experiments, who wins, and the signs of failure."""
    return "\n\n".join(part for number in record for part in _parts(number, record[number]))


def _parts(number: str, found: Mapping[str, Any]) -> list[str]:
    lines = [["sign of failure", "method", "found", "what catches it"]]
    lines += [
        [s["sign"], s["method"], _spread(s["value"], ".3f"), s["caught_by"]]
        for s in found["signatures"]
    ]
    return [
        f"## {number}. {found['question']}",
        _table(found["scores"]),
        _winners(found["scores"]),
        f"Mean and standard deviation over {len(found['seeds'])} seeds; "
        f"{found['cpu_minutes_of_this_call']:.1f} CPU-minutes of this call, in which networks "
        "that were read back cost nothing.",
        markdown(lines),
    ]


def _conditions(scores: _Scores) -> list[str]:
    return list(next(iter(scores.values())))


def _measures(scores: _Scores) -> list[str]:
    """Return the measures that any condition has, in the order of the columns."""
    present = {m for rows in scores.values() for row in rows.values() for m in row}
    return [m for m in COLUMNS if m in present]


def _table(scores: _Scores) -> str:
    measures = _measures(scores)
    lines = [["data", "method", *(COLUMNS[m].title for m in measures)]]
    for condition in _conditions(scores):
        for method, by_condition in scores.items():
            row = by_condition[condition]
            cells = [_spread(row[m], COLUMNS[m].spec) if m in row else "-" for m in measures]
            lines.append([condition, method, *cells])
    return markdown(lines)


def _spread(values: Sequence[float], spec: str) -> str:
    if np.isnan(values).any():
        return "-"
    deviation = f" +- {np.std(values, ddof=1):{spec}}" if len(values) > 1 else ""
    return f"{np.mean(values):{spec}}{deviation}"


def _winners(scores: _Scores) -> str:
    """Name the method of the lowest mean, oracles apart, and whether all seeds agree."""
    lines = []
    for condition in _conditions(scores):
        won = []
        for measure in (m for m in _measures(scores) if COLUMNS[m].decides):
            values = {
                name: rows[condition][measure]
                for name, rows in scores.items()
                if name not in ORACLES
                and measure in rows[condition]
                and not np.isnan(rows[condition][measure]).any()
            }
            if not values:
                continue
            best = min(values, key=lambda name: float(np.mean(values[name])))
            agree = len(set(np.argmin(list(values.values()), axis=0))) == 1
            title = COLUMNS[measure].title.split(" (")[0]
            won.append(f"{title}: {best}" + ("" if agree else " (not with every seed)"))
        if not won:
            continue
        lines.append(f"- {condition}: {'; '.join(won)}.")
    return "Lowest:\n\n" + "\n".join(lines)
