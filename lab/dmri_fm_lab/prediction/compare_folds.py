"""Comparisons of two predictions over the same folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dmri_fm.errors import ConfigError

#: Coverage of intervals.
COVERAGE = 0.95


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
        Of the paired t-test over folds, as published; not valid.
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
