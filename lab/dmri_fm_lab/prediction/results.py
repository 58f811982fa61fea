"""Results of a probe: the record for JSON, comparisons, warnings, and tables as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.prediction.cohort_vectors import CohortVectors
from dmri_fm_lab.prediction.compare_folds import (
    COMPARED,
    Comparison,
    compare_pairs,
    format_comparisons,
    undefined_notes,
)
from dmri_fm_lab.prediction.metrics import SCORES, TITLES, TaskType, format_summary, summarise
from dmri_fm_lab.prediction.probe import Prediction
from dmri_fm_lab.prediction.published import PUBLISHED
from dmri_fm_lab.prediction.splits import Fold, find_overlap
from dmri_fm_lab.scan_tables import count_reasons


def compare_predictions(
    predictions: Sequence[Prediction], folds: Sequence[Fold], task: TaskType
) -> list[Comparison]:
    """Compare features with each baseline, and with the first features."""
    baselines = [p for p in predictions if p.role == "baseline"]
    others = [p for p in predictions if p.role != "baseline"]
    pairs = [(p, q) for p in others for q in baselines]
    pairs += [(p, others[0]) for p in others[1:]]
    return compare_pairs(pairs, folds, task)


def find_warnings(
    comparisons: Sequence[Comparison], predictions: Sequence[Prediction], task: TaskType
) -> list[str]:
    """Return a sentence for each prediction of features that no interval puts above a baseline."""
    main = COMPARED[task][0]
    baselines = {p.title: p.predictor for p in predictions if p.role == "baseline"}
    return [
        f"{c.first} is not shown to predict better than {baselines[c.second]} alone: "
        f"{TITLES[main]} differs by {c.result}"
        for c in comparisons
        if c.score == main and c.second in baselines and not c.is_better
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
        *(f"WARNING: {text}" for text in find_warnings(comparisons, predictions, cohort.task)),
        _score_table(target, cohort.task, predictions),
        *_fit_notes(predictions, folds),
        _site_table(cohort, predictions),
        format_comparisons(comparisons, cohort.task),
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


def _fit_notes(predictions: Sequence[Prediction], folds: Sequence[Fold]) -> list[str]:
    """Return sentences on scores that are undefined, and on fits without a unique solution."""
    notes, n_folds = [], len(folds)
    for p in predictions:
        notes += undefined_notes(p, folds, p.scores)
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
