"""Comparisons of two predictions over the same folds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy import stats

from dmri_fm.errors import ConfigError
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.prediction.metrics import LOWER_IS_BETTER, TITLES, TaskType
from dmri_fm_lab.prediction.splits import Fold
from dmri_fm_lab.scan_tables import listed

#: Coverage of intervals.
COVERAGE = 0.95

#: Scores that are compared, by type of task, the first in tables: those of the publication.
COMPARED: dict[TaskType, tuple[str, ...]] = {
    "regression": ("rho", "mse"),
    "classification": ("auroc", "balanced_accuracy", "auprc"),
}


class FoldScores(Protocol):
    """Scores of a prediction by name, one for each fold."""

    @property
    def title(self) -> str:
        """What predicts."""

    @property
    def scores(self) -> Mapping[str, Sequence[float]]:
        """A list over folds for each score, NaN where it is undefined."""


@dataclass(frozen=True)
class FoldComparison:
    """Difference of a score between two predictions, over folds.

    Folds share training participants, and overlapping hold-outs test participants as well, so
    their differences are not independent: the paired t-test finds too many.

    Attributes
    ----------
    difference
        Mean of the first score minus the second.
    low, high
        Limits of its 95 % interval by the corrected resampled t-test.
    p_corrected
        Of the corrected resampled t-test, two-sided; Nadeau and Bengio 2003,
        doi:10.1023/A:1024068626366.
    p_paired
        Of the paired t-test over folds, as published; valid only where folds share nobody.
    n_folds
        Folds with both scores.
    n_compared
        Comparisons by which p values are multiplied (Bonferroni).
    """

    difference: float
    low: float
    high: float
    p_corrected: float
    p_paired: float
    n_folds: int
    n_compared: int = 1

    @property
    def p_corrected_bonferroni(self) -> float:
        """The corrected p value times the comparisons, at most 1."""
        return min(1.0, self.p_corrected * self.n_compared)

    @property
    def p_paired_bonferroni(self) -> float:
        """The p value of the paired t-test times the comparisons, at most 1."""
        return min(1.0, self.p_paired * self.n_compared)

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.difference:.3f} [n/a: {self.n_folds} fold]"
        return f"{self.difference:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Comparison(NamedTuple):
    """A prediction against another by one score.

    Attributes
    ----------
    first, second
        Titles of the predictions.
    score
        Name of the score.
    result
        Difference over folds, and its tests.
    is_paired_valid
        Whether folds share nobody, so that the paired t-test is valid.
    """

    first: str
    second: str
    score: str
    result: FoldComparison
    is_paired_valid: bool

    @property
    def is_better(self) -> bool:
        """Whether the interval says that the first is better."""
        low, high = self.result.low, self.result.high
        return bool(high < 0 if self.score in LOWER_IS_BETTER else low > 0)

    def describe(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        return {
            "first": self.first,
            "second": self.second,
            "score": self.score,
            **asdict(self.result),
            "p_corrected_bonferroni": self.result.p_corrected_bonferroni,
            "p_paired_bonferroni": self.result.p_paired_bonferroni,
            "paired_t_test_is_valid": self.is_paired_valid,
            "is_better": self.is_better,
        }


def compare_pairs(
    pairs: Sequence[tuple[FoldScores, FoldScores]], folds: Sequence[Fold], task: TaskType
) -> list[Comparison]:
    """Compare pairs of predictions over the same folds, by all scores of :data:`COMPARED`.

    Participants of a validation set count as training. P values are multiplied by the number of
    all comparisons that are returned.
    """
    sizes = {
        "n_train": [len(fold.train) + len(fold.val) for fold in folds],
        "n_test": [len(fold.test) for fold in folds],
    }
    everybody = [fold.train | fold.val | fold.test for fold in folds]
    share_nobody = not any(a & b for a, b in combinations(everybody, 2))
    scores = COMPARED[task]
    n = len(pairs) * len(scores)
    return [
        Comparison(
            p.title,
            q.title,
            score,
            compare_folds(p.scores[score], q.scores[score], n_compared=n, **sizes),
            share_nobody,
        )
        for p, q in pairs
        for score in scores
    ]


def undefined_notes(
    prediction: FoldScores, folds: Sequence[Fold], names: Iterable[str]
) -> list[str]:
    """Return a sentence on each score, of those named, that is undefined in some folds."""
    notes = []
    for name in names:
        own = zip(folds, prediction.scores[name], strict=True)
        missing = [fold.name for fold, score in own if not np.isfinite(score)]
        if missing:
            notes.append(
                f"Note: {prediction.title}: {TITLES[name]} is undefined in {len(missing)} of "
                f"{len(folds)} folds, which its mean and comparisons leave out: {listed(missing)}."
            )
    return notes


def format_comparisons(comparisons: Sequence[Comparison], task: TaskType) -> str:
    """Return the comparisons by the first score as markdown; empty if there are none.

    Those by the other scores are in the record.
    """
    main, *others = COMPARED[task]
    shown = [c for c in comparisons if c.score == main]
    if not shown:
        return ""
    n = shown[0].result.n_compared
    is_valid = all(c.is_paired_valid for c in shown)
    paired = "p, paired t as published" + ("" if is_valid else " (INVALID)")
    times = f"x {n}"
    head = ["first", "second", "score", "first - second [95 %]"]
    lines = [[*head, "p, corrected resampled t", times, paired, times]]
    for c in shown:
        r = c.result
        ps = (r.p_corrected, r.p_corrected_bonferroni, r.p_paired, r.p_paired_bonferroni)
        cells = ["n/a" if np.isnan(p) else f"{p:.2g}" for p in ps]
        lines.append([c.first, c.second, TITLES[c.score], str(r), *cells])
    why = (
        "Folds share nobody: the paired t-test over them is valid, and the corrected one careful. "
        if is_valid
        else "Folds share participants: the paired t-test over them finds too many differences. "
    )
    note = (
        f"{why}The corrected resampled t-test (Nadeau and Bengio 2003, "
        "doi:10.1023/A:1024068626366) counts what folds share. "
        f"`{times}`: Bonferroni, of these lines and those of "
        f"{', '.join(TITLES[s] for s in others)}, which are in the JSON record."
    )
    return f"{markdown(lines)}\n\n{note}"


def compare_folds(
    first: Sequence[float],
    second: Sequence[float],
    *,
    n_train: Sequence[int],
    n_test: Sequence[int],
    n_compared: int = 1,
) -> FoldComparison:
    """Compare a score of two predictions over the same folds.

    The corrected resampled t-test takes the variance of the mean difference as
    ``(1 / n_folds + n_test / n_train) * s^2``, with the variance over folds s^2: the second term
    is for the participants that folds share.

    Parameters
    ----------
    first, second
        Scores by fold; folds in which either is NaN do not count.
    n_train, n_test
        Rows by fold; a validation set counts as training.
    n_compared
        Comparisons that are made.

    Returns
    -------
    FoldComparison
        Of one fold, with NaN for limits and p.

    Raises
    ------
    ConfigError
        If there are not as many scores and counts as folds.

    Examples
    --------
    >>> sizes = {"n_train": [80, 80, 80], "n_test": [20, 20, 20]}
    >>> found = compare_folds([0.9, 0.8, 0.85], [0.8, 0.75, 0.8], **sizes)
    >>> round(found.difference, 3), round(found.p_paired, 3), round(found.p_corrected, 3)
    (0.067, 0.057, 0.094)
    """
    lengths = {len(v) for v in (first, second, n_train, n_test)}
    if len(lengths) != 1:
        raise ConfigError(f"scores and counts of {sorted(lengths)} folds", expected="one number")
    apart = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    known = np.isfinite(apart)
    apart, n = apart[known], int(known.sum())
    nan = float("nan")
    mean = float(apart.mean()) if n else nan
    if n < 2:
        return FoldComparison(mean, nan, nan, nan, nan, n, n_compared)
    ratio = float(np.mean(np.asarray(n_test)[known] / np.asarray(n_train)[known]))
    variance = float(apart.var(ddof=1))
    error, naive = (float(np.sqrt(share * variance)) for share in (1 / n + ratio, 1 / n))
    half = float(stats.t.ppf((1 + COVERAGE) / 2, n - 1)) * error
    p_corrected, p_paired = (_two_sided(mean, e, n - 1) for e in (error, naive))
    return FoldComparison(mean, mean - half, mean + half, p_corrected, p_paired, n, n_compared)


def _two_sided(mean: float, error: float, freedom: int) -> float:
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, freedom))
