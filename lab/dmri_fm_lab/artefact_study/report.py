"""The paper's figure as tables: scores of the test scans, with paired tests, and overfitting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from dmri_fm_lab.artefact_study.study import REFERENCE, STARTS
from dmri_fm_lab.artefact_study.tasks import TASKS, Task
from dmri_fm_lab.markdown_tables import markdown

#: Starts in words.
TITLES = {
    "artefacts": "artefact removal",
    "autoencoder": "plain autoencoder",
    "random": "random weights",
}


def paired_test(scores: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Return the p value of a two-sided paired t-test over test scans.

    Parameters
    ----------
    scores, others
        For each run, the scores of the same test scans. They are averaged over the runs first:
        runs on one scan are no independent samples, as the publication took them.

    Returns
    -------
    float
        NaN with fewer than two test scans, or where all differences are equal.
    """
    first, second = (np.mean(s, axis=0) for s in (scores, others))
    if len(first) < 2 or np.ptp(first - second) == 0:
        return float("nan")
    return float(ttest_rel(first, second).pvalue)


def format_study(record: Mapping[str, Any]) -> str:
    """Return the tables of a study, and who is best at each task."""
    lines = [["task", "score", "training scans", "start", "test scans", "over random", "p"]]
    best = []
    for task, by_size in record["scores"].items():
        of = TASKS[task]
        for n, by_start in by_size.items():
            for start in STARTS:
                lines.append(_row(task, n, start, by_start))
            best.append(f"- {of.title}, {n} training scans: {_name_best(of, by_start)}.")
    n_runs, n_steps = record["size"]["n_runs"], record["size"]["n_steps"]
    training, validation, test = record["split"]
    return "\n\n".join(
        [
            markdown(lines),
            f"Mean and standard deviation over {n_runs} runs of the mean of {test} test scans "
            f"({training} for training, {validation} for validation; {n_steps} steps). "
            "`over random`: change of the mean, percent, above zero where it is better. `p`: "
            "two-sided paired t-test over test scans, averaged over runs, uncorrected. One "
            "pretraining each: p is for these weights.",
            _describe(record),
            "Best mean:\n\n" + "\n".join(best),
            "Last validation error over the lowest (1: no overfitting):",
            markdown(_overfitting_rows(record["overfitting"])),
            f"{record['cpu_minutes']:.1f} CPU-minutes.",
        ]
    )


def _describe(record: Mapping[str, Any]) -> str:
    """Say in a sentence what ran."""
    labels = {"truth": "the truth of simulated brains", "fits": "fits to real scans"}
    origins = [
        f"{TITLES[objective]} "
        + ("on simulated cubes" if origin == "cubes" else f"by weights of sha256 {origin[:12]}")
        for objective, origin in record["pretrained"].items()
    ]
    size = record["size"]
    own = ""
    if "cubes" in record["pretrained"].values():
        own = f" ({size['n_pretraining']} steps, artefacts of strength {size['strength']})"
    seen = record.get("seen", [])
    left_out = f" Left out, seen in pretraining: {', '.join(seen)}." if seen else ""
    return (
        f"Labels: {labels[record['labels']]}. Cubes of {size['edge']} voxels, seed "
        f"{record['seed']}. Pretraining: {'; '.join(origins)}{own}.{left_out}"
    )


def _name_best(of: Task, by_start: Mapping[str, Any]) -> str:
    """Name the start of the best mean, and say if it is not the best in every run."""
    runs = np.array([np.mean(by_start[start], axis=1) for start in STARTS])
    runs = runs if of.higher_is_better else -runs
    winner = int(runs.mean(axis=1).argmax())
    # A tie is no win.
    others = np.delete(runs, winner, axis=0)
    return TITLES[STARTS[winner]] + (
        "" if (runs[winner] > others).all() else " (not in every run)"
    )


def _row(task: str, n: str, start: str, by_start: Mapping[str, Any]) -> list[str]:
    of = TASKS[task]
    scores, random = by_start[start], by_start[REFERENCE]
    cells = [of.title, of.score_title, n, TITLES[start], _spread(np.mean(scores, axis=1), ".4f")]
    if start == REFERENCE:
        return [*cells, "-", "-"]
    gain = 100 * (np.mean(scores) / np.mean(random) - 1)
    gain = gain if of.higher_is_better else -gain
    p = paired_test(scores, random)
    return [*cells, f"{gain:+.2f} %", "-" if np.isnan(p) else f"{p:.3f}"]


def _overfitting_rows(overfitting: Mapping[str, Any]) -> list[list[str]]:
    lines = [["task", "training scans", *(TITLES[start] for start in STARTS)]]
    for task, by_size in overfitting.items():
        for n, by_start in by_size.items():
            cells = [_spread(by_start[start], ".3f") for start in STARTS]
            lines.append([TASKS[task].title, n, *cells])
    return lines


def _spread(values: Sequence[float] | np.ndarray, spec: str) -> str:
    deviation = f" +- {np.std(values, ddof=1):{spec}}" if len(values) > 1 else ""
    return f"{np.mean(values):{spec}}{deviation}"
