"""Results of a probe: the record for JSON, comparisons, warnings, and tables as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.prediction.cohort_vectors import CohortVectors
from dmri_fm_lab.prediction.compare_folds import FoldComparison, compare_folds
from dmri_fm_lab.prediction.metrics import (
    LOWER_IS_BETTER,
    SCORES,
    TITLES,
    TaskType,
    format_summary,
    summarise,
)
from dmri_fm_lab.prediction.probe import Prediction
from dmri_fm_lab.prediction.published import PUBLISHED
from dmri_fm_lab.prediction.splits import Fold, find_overlap
from dmri_fm_lab.scan_tables import count_reasons

#: Scores that are compared, by type of task: those of the publication.
COMPARED: dict[TaskType, tuple[str, ...]] = {
    "regression": ("rho", "mse"),
    "classification": ("auroc", "balanced_accuracy", "auprc"),
}


class Comparison(NamedTuple):
    """A prediction of features against another prediction, by one score."""

    first: Prediction
    second: Prediction
    score: str
    result: FoldComparison

    @property
    def is_better(self) -> bool:
        """Whether the interval says that the first is better."""
        low, high = self.result.low, self.result.high
        return bool(high < 0 if self.score in LOWER_IS_BETTER else low > 0)


def compare_predictions(
    predictions: Sequence[Prediction], folds: Sequence[Fold], task: TaskType
) -> list[Comparison]:
    """Compare features with each baseline, and with the first features.

    Participants of a validation set count as training. P values are multiplied by the number of
    all comparisons that are returned.
    """
    baselines = [p for p in predictions if p.role == "baseline"]
    others = [p for p in predictions if p.role != "baseline"]
    pairs = [(p, q) for p in others for q in baselines]
    pairs += [(p, others[0]) for p in others[1:]]
    scores = COMPARED[task]
    n_train = [len(fold.train) + len(fold.val) for fold in folds]
    n_test = [len(fold.test) for fold in folds]
    n = len(pairs) * len(scores)
    return [
        Comparison(
            p,
            q,
            score,
            compare_folds(
                p.scores[score], q.scores[score], n_train=n_train, n_test=n_test, n_compared=n
            ),
        )
        for p, q in pairs
        for score in scores
    ]


def find_warnings(comparisons: Sequence[Comparison], task: TaskType) -> list[str]:
    """Return a sentence for each prediction of features that no interval puts above a baseline."""
    main = COMPARED[task][0]
    return [
        f"{c.first.title} is not shown to predict better than {c.second.predictor} alone: "
        f"{TITLES[main]} differs by {_interval(c.result)}"
        for c in comparisons
        if c.score == main and c.second.role == "baseline" and not c.is_better
    ]


def describe_cohort(cohort: CohortVectors, folds: Sequence[Fold]) -> dict[str, Any]:
    """Return what was predicted, in whom, by which splits, and who is not used."""
    is_class = cohort.task == "classification"
    target = (
        {"classes": list(cohort.classes), "prevalence": float(cohort.target.mean())}
        if is_class
        else {"mean": float(cohort.target.mean()), "sd": float(cohort.target.std(ddof=1))}
    )
    sites = [] if cohort.sites is None else cohort.sites.tolist()
    return {
        "n_rows": len(cohort.target),
        "n_participants": len(set(cohort.participants)),
        "n_groups": len(set(cohort.groups)),
        "task": cohort.task,
        "target": target,
        "sites": {site: sites.count(site) for site in sorted(set(sites))},
        "left_out": count_reasons(cohort.left_out),
        "left_out_names": [list(item) for item in cohort.left_out],
        "notes": list(cohort.notes),
        "splits": {
            **find_overlap(folds)._asdict(),
            "folds": [
                {
                    "name": fold.name,
                    "n_train": len(fold.train),
                    "n_val": len(fold.val),
                    "n_test": len(fold.test),
                }
                for fold in folds
            ],
        },
    }


def describe_prediction(prediction: Prediction) -> dict[str, Any]:
    """Return the scores of a prediction with their means and spreads."""
    return {
        "predictor": prediction.predictor,
        "head": prediction.head,
        "role": prediction.role,
        "n_columns": prediction.n_columns,
        "scores": _summaries(prediction.scores),
        "folds": prediction.scores,
        "sd_over_seeds": {k: float(np.mean(v)) for k, v in prediction.over_seeds.items()},
        "found": prediction.about,
        "within_sites": {s: _summaries(own) for s, own in prediction.within_sites.items()},
        "calibration": prediction.calibration,
        "p_permutation": prediction.p_permutation,
    }


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison for JSON."""
    result = comparison.result
    return {
        "first": comparison.first.title,
        "second": comparison.second.title,
        "score": comparison.score,
        **asdict(result),
        "p_corrected_bonferroni": result.p_corrected_bonferroni,
        "p_paired_bonferroni": result.p_paired_bonferroni,
        "paired_t_test_is_valid": False,
        "is_better": comparison.is_better,
    }


def _summaries(scores: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    return {name: summarise(own)._asdict() for name, own in scores.items()}


def format_results(
    target: str,
    cohort: CohortVectors,
    folds: Sequence[Fold],
    predictions: Sequence[Prediction],
    comparisons: Sequence[Comparison],
    *,
    published: str | None = None,
) -> str:
    """Return all of a probe as text with markdown tables."""
    parts = [
        f"**{RESEARCH_ONLY}**",
        _cohort_sentence(target, cohort, folds),
        *(f"Note: {note}." for note in cohort.notes),
        *(f"WARNING: {text}" for text in find_warnings(comparisons, cohort.task)),
        _score_table(target, cohort.task, predictions),
        *_fit_notes(predictions, len(folds)),
        _site_table(cohort, predictions),
        _comparison_table(comparisons, cohort.task),
        _published_table(published) if published else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _cohort_sentence(target: str, cohort: CohortVectors, folds: Sequence[Fold]) -> str:
    lines = [
        f"{target}: {len(cohort.target)} rows of {len(set(cohort.participants))} participants; "
        f"{find_overlap(folds)}."
    ]
    reasons = count_reasons(cohort.left_out)
    lines += [f"Not used: {n} ({reason})." for reason, n in reasons.items()]
    return "\n".join(lines)


def _score_table(target: str, task: TaskType, predictions: Sequence[Prediction]) -> str:
    names = SCORES[task]
    has_p = any(p.p_permutation is not None for p in predictions)
    has_seeds = any(p.over_seeds for p in predictions)
    header = [f"{target} from", "head", "columns", *(TITLES[n] for n in names)]
    header += ["SD over seeds"] * has_seeds + ["p (permutation)"] * has_p
    lines = [header]
    for p in predictions:
        mark = "baseline: " if p.role == "baseline" else ""
        cells = [format_summary(n, summarise(p.scores[n])) for n in names]
        line = [mark + p.predictor, p.head, str(p.n_columns), *cells]
        if has_seeds:
            spread = p.over_seeds.get(names[0])
            line.append(f"{TITLES[names[0]]} {np.nanmean(spread):.3f}" if spread else "-")
        if has_p:
            line.append("-" if p.p_permutation is None else f"{p.p_permutation:.2g}")
        lines.append(line)
    return markdown(lines)


def _fit_notes(predictions: Sequence[Prediction], n_folds: int) -> list[str]:
    """Return sentences on scores that are undefined, and on fits without a unique solution."""
    notes = []
    for p in predictions:
        for name, own in p.scores.items():
            if missing := n_folds - summarise(own).n:
                notes.append(
                    f"Note: {p.title}: {TITLES[name]} is undefined in {missing} of {n_folds} "
                    "folds, which its mean leaves out."
                )
        if n := sum(p.about.get("is_min_norm", [])):
            notes.append(
                f"Note: {p.title}: no more training rows than columns in {n:g} of {n_folds} "
                "folds; of all exact fits that of the smallest coefficients is taken."
            )
        if p.head == "linear" and (n := sum(p.about.get("is_separable", []))):
            notes.append(
                f"Note: {p.title}: a plane separates the training classes in {n:g} of {n_folds} "
                "folds; the unpenalised fit then tends to that of the largest margin."
            )
    return notes


def _site_table(cohort: CohortVectors, predictions: Sequence[Prediction]) -> str:
    if cohort.sites is None:
        return ""
    main = SCORES[cohort.task][0]
    sites = sorted(set(cohort.sites.tolist()))
    counts = [int((cohort.sites == site).sum()) for site in sites]
    lines = [
        [
            f"{TITLES[main]} within",
            "head",
            *(f"{s} (n = {n})" for s, n in zip(sites, counts, strict=True)),
        ]
    ]
    for p in predictions:
        own = [summarise(p.within_sites.get(site, {}).get(main, [])) for site in sites]
        lines.append([p.predictor, p.head, *(format_summary(main, s) for s in own)])
    return markdown(lines)


def _comparison_table(comparisons: Sequence[Comparison], task: TaskType) -> str:
    """Return the comparisons by the first score; the record has those by the others as well."""
    shown = [c for c in comparisons if c.score == COMPARED[task][0]]
    if not shown:
        return ""
    n = shown[0].result.n_compared
    lines = [
        [
            "first",
            "second",
            "score",
            "first - second [95 %]",
            "p, corrected resampled t",
            f"x {n}",
            "p, paired t as published (INVALID)",
            f"x {n}",
        ]
    ]
    for c in shown:
        r = c.result
        ps = (r.p_corrected, r.p_corrected_bonferroni, r.p_paired, r.p_paired_bonferroni)
        cells = ["n/a" if np.isnan(p) else f"{p:.2g}" for p in ps]
        lines.append([c.first.title, c.second.title, TITLES[c.score], _interval(r), *cells])
    note = (
        "Folds share participants: the paired t-test over them finds too many differences. The "
        "corrected resampled t-test (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366) counts "
        f"what folds share. `x {n}`: Bonferroni, of these lines and those of "
        f"{', '.join(TITLES[s] for s in COMPARED[task][1:])}, which are in the JSON record."
    )
    return f"{markdown(lines)}\n\n{note}"


def _interval(result: FoldComparison) -> str:
    if np.isnan(result.low):
        return f"{result.difference:.3f} [n/a: {result.n_folds} fold]"
    return f"{result.difference:.3f} [{result.low:.3f}, {result.high:.3f}]"


def _published_table(task: str) -> str:
    rows = PUBLISHED[task]
    names = list(rows[0].scores)
    lines = [[f"published, {task}", "head", *(TITLES[n] for n in names)]]
    lines += [
        [row.method, row.head, *(format_summary(n, row.scores[n]) for n in names)] for row in rows
    ]
    note = (
        "Kung et al. 2026, doi:10.48550/arXiv.2603.25977, as printed: other participants, five "
        "hold-outs that overlap. They are no baseline of the results above."
    )
    return f"{markdown(lines)}\n\n{note}"
