"""Print the tables of runs of `dmri-fm study review`, and draw their errors.

Usage: python benchmarks/review_study.py REVIEW.json ... [--figure docs/img/review_study.png]

Each file is what `--json` of the command wrote; an experiment that several hold is read from the
last. CPU-minutes are those of the call that wrote the file. Panels are: FA over SNR of experiments
1 and 2, the main peak over directions of 4, and the mean FA of heads of 5; bars and lines are
means over seeds, whiskers their standard deviation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm_lab.prediction.figures import new_figure, save_figure
from dmri_fm_lab.review.report import COLUMNS, format_review


def draw_lines(axis: Any, found: dict[str, Any], measure: str, start: str, end: str) -> None:
    """Draw a measure of each method over the number in the names of conditions.

    Conditions are those that begin and end with so much text around their number.
    """
    for name, rows in found["scores"].items():
        xs, means, deviations = [], [], []
        for condition, row in rows.items():
            number = condition.removeprefix(start).removesuffix(end)
            if condition.startswith(start) and condition.endswith(end) and number.isdigit():
                xs.append(int(number))
                means.append(np.mean(row[measure]))
                deviations.append(np.std(row[measure], ddof=1) if len(row[measure]) > 1 else 0.0)
        axis.errorbar(xs, means, deviations, label=name, marker="o", markersize=3, capsize=2)
    axis.set_ylabel(COLUMNS[measure].title, fontsize=8)
    axis.set_xlabel("directions" if "directions" in end else "SNR", fontsize=8)


def draw_bars(axis: Any, found: dict[str, Any], measure: str) -> None:
    """Draw a measure of each method in each condition."""
    scores = found["scores"]
    conditions = list(next(iter(scores.values())))
    width = 0.8 / len(scores)
    for number, (name, rows) in enumerate(scores.items()):
        values = [rows[c][measure] for c in conditions]
        deviations = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values]
        xs = np.arange(len(conditions)) + (number - (len(scores) - 1) / 2) * width
        means = [np.mean(v) for v in values]
        axis.bar(xs, means, width, yerr=deviations, label=name, error_kw={"linewidth": 0.8})
    axis.set_xticks(range(len(conditions)), conditions)
    axis.set_ylabel(COLUMNS[measure].title, fontsize=8)


def draw(record: dict[str, Any], out: Path) -> None:
    """Draw a panel for each of the experiments 1, 2, 4 and 5 that the record has."""
    panels = [n for n in ("1", "2", "4", "5") if n in record]
    figure, axes = new_figure(4.0 * len(panels), 3.4, columns=len(panels))
    for number, axis in zip(panels, np.atleast_1d(axes), strict=True):
        if number == "5":
            draw_bars(axis, record[number], "fa_of_head")
        elif number == "4":
            draw_lines(axis, record[number], "peak_angle_deg", "", " directions, SNR 20")
        else:
            draw_lines(axis, record[number], "fa", "SNR ", "")
        axis.set_title(f"{number}. {record[number]['question']}", fontsize=8, loc="left")
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3, axis="y")
        axis.legend(fontsize=7)
    save_figure(figure, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reviews", type=Path, nargs="+", metavar="REVIEW.json")
    parser.add_argument("--figure", type=Path, help="image of the errors")
    options = parser.parse_args()
    record: dict[str, Any] = {}
    for path in options.reviews:
        record |= json.loads(path.read_text(encoding="utf-8"))["experiments"]
    print(format_review(record))
    if options.figure:
        draw(record, options.figure)


if __name__ == "__main__":
    main()
