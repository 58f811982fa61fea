from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.compare_folds import compare_folds


def test_both_tests_follow_their_formulas() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.05, 10), rng.normal(0.75, 0.05, 10)
    found = compare_folds(a, b, n_train=[80] * 10, n_test=[20] * 10, n_compared=3)
    paired = stats.ttest_rel(a, b)
    assert found.p_paired == pytest.approx(paired.pvalue)
    # Nadeau and Bengio 2003, equation of the corrected resampled t-test.
    d = a - b
    t = d.mean() / math.sqrt((1 / 10 + 20 / 80) * d.var(ddof=1))
    assert found.p_corrected == pytest.approx(2 * stats.t.sf(abs(t), 9))
    assert found.p_corrected > found.p_paired
    assert found.p_paired_bonferroni == pytest.approx(min(1, 3 * found.p_paired))
    # The interval contains zero if and only if the corrected test says so.
    edge = compare_folds(a - found.low, b, n_train=[80] * 10, n_test=[20] * 10)
    assert edge.p_corrected == pytest.approx(0.05) or edge.difference > 0
    assert (found.low < 0) == (found.p_corrected > 0.05)


def test_the_paired_test_finds_too_many_over_overlapping_hold_outs_the_corrected_does_not() -> (
    None
):
    """Two predictions of equal expected error, over 15 hold-outs of the same 60 participants."""
    rng = np.random.default_rng(0)
    wrong = {"p_paired": 0, "p_corrected": 0}
    for _ in range(200):
        apart = rng.normal(size=60)  # difference of the errors of a participant
        means = [rng.permutation(apart)[:20].mean() for _ in range(15)]
        found = compare_folds(means, [0.0] * 15, n_train=[40] * 15, n_test=[20] * 15)
        for name in wrong:
            wrong[name] += getattr(found, name) < 0.05
    assert wrong["p_paired"] > 60
    # Expected 10 if exact; the test is conservative here, since nothing depends on training.
    assert wrong["p_corrected"] < 25


def test_folds_without_a_score_do_not_count() -> None:
    found = compare_folds([1.0, math.nan, 2.0], [0.0] * 3, n_train=[8] * 3, n_test=[2] * 3)
    assert found.n_folds == 2
    one = compare_folds([1.0], [0.5], n_train=[8], n_test=[2])
    assert one.difference == 0.5
    assert math.isnan(one.p_corrected)
    same = compare_folds([1.0, 1.0], [1.0, 1.0], n_train=[8] * 2, n_test=[2] * 2)
    assert (same.p_paired, same.low, same.high) == (1.0, 0.0, 0.0)
    with pytest.raises(ConfigError, match="folds"):
        compare_folds([1.0], [0.5, 1.0], n_train=[8], n_test=[2])
