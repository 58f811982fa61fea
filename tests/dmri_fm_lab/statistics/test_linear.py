"""Linear models against statsmodels, explicit matrices and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from scipy.linalg import sqrtm

from dmri_fm_lab.statistics.linear import (
    ErrorModel,
    estimate_errors,
    make_estimator,
    score_effect,
)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("kind", "power"), [("HC2", 0.5), ("HC3", 1.0)])
def test_independent_scans_have_the_robust_errors_of_statsmodels(rng, kind, power):
    design = sm.add_constant(rng.normal(size=(40, 3)))
    values = rng.normal(size=(40, 4)) * np.exp(design[:, 1:2])
    contrast = np.array([0.0, 1.0, -1.0, 0.0])
    found = score_effect(make_estimator(design, contrast, power=power), values)
    for k in range(4):
        fit = sm.OLS(values[:, k], design).fit(cov_type=kind)
        np.testing.assert_allclose(found.estimate[k], contrast @ fit.params)
        error = np.sqrt(contrast @ fit.cov_params() @ contrast)
        np.testing.assert_allclose(found.standard_error[k], error)


def test_families_have_the_errors_and_degrees_of_freedom_of_the_explicit_matrices(rng):
    blocks = np.repeat(np.arange(8), [1, 2, 3, 1, 2, 4, 2, 3])
    rng.shuffle(blocks)
    n = len(blocks)
    design = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    values, contrast = rng.normal(size=(n, 3)), np.array([0.0, 1.0, 0.0])
    estimator = make_estimator(design, contrast, blocks)
    bread = np.linalg.inv(design.T @ design)
    hat = design @ bread @ design.T
    residual = np.eye(n) - hat
    scores = []
    for f in range(8):
        rows = np.flatnonzero(blocks == f)
        root = np.linalg.inv(sqrtm(np.eye(len(rows)) - hat[np.ix_(rows, rows)]).real)
        score = np.zeros(n)
        score[rows] = root @ design[rows] @ bread @ contrast
        scores.append(score)
    scores = np.stack(scores)
    errors = np.sqrt(((scores @ residual @ values) ** 2).sum(axis=0))
    np.testing.assert_allclose(score_effect(estimator, values).standard_error, errors)
    gram = scores @ residual @ scores.T
    np.testing.assert_allclose(estimator.df, np.trace(gram) ** 2 / np.sum(gram**2))


def test_degrees_of_freedom_of_equal_groups_are_those_of_welch_at_equal_variances():
    # Two groups of m: HC2 is Welch's test, whose degrees of freedom are 2 (m - 1) there.
    design = np.column_stack([np.ones(20), np.repeat([0.0, 1.0], 10)])
    values = np.random.default_rng(1).normal(size=(20, 1)) * np.repeat([1.0, 3.0], 10)[:, None]
    found = score_effect(make_estimator(design, np.array([0.0, 1.0])), values)
    welch = stats.ttest_ind(values[10:, 0], values[:10, 0], equal_var=False)
    np.testing.assert_allclose(found.t[0], welch.statistic)
    np.testing.assert_allclose(found.df[0], 18)


def test_a_scan_that_its_column_explains_alone_says_nothing_about_the_noise(rng):
    design = np.column_stack([np.ones(12), rng.normal(size=12), np.arange(12) == 3])
    values = rng.normal(size=(12, 1))
    contrast = np.array([0.0, 1.0, 0.0])
    with_it = score_effect(make_estimator(design, contrast), values)
    kept = np.arange(12) != 3
    without = score_effect(make_estimator(design[kept, :2], contrast[:2]), values[kept])
    np.testing.assert_allclose(with_it.standard_error, without.standard_error)
    np.testing.assert_allclose(with_it.df, without.df)


def test_errors_of_groups_and_families_are_found_and_whitened(rng):
    groups, blocks = np.repeat([0, 1], 6000), np.arange(12000) // 3
    design = np.column_stack([np.ones(12000), rng.normal(size=12000)])
    shared = np.sqrt(0.4) * rng.normal(size=4000)[blocks] + np.sqrt(0.6) * rng.normal(size=12000)
    found = estimate_errors(
        design, shared * np.array([1.0, 3.0])[groups], groups=groups, blocks=blocks
    )
    # Standard errors: 1.1% of a standard deviation, .01 of the correlation.
    np.testing.assert_allclose(found.deviations[[0, -1]], [1, 3], rtol=0.05)
    np.testing.assert_allclose(found.correlation, 0.4, atol=0.04)
    correlation = 0.6 * np.eye(3) + 0.4
    truth = ErrorModel(np.full(3, 2.0), np.zeros(3, dtype=int), 0.4)
    root = truth.whiten(np.eye(3))
    np.testing.assert_allclose(root @ (4 * correlation) @ root.T, np.eye(3), atol=1e-12)


def test_variances_that_differ_by_chance_are_taken_as_one(rng):
    design, groups = np.ones((300, 1)), np.repeat([0, 1, 2], 100)
    found = [
        estimate_errors(design, rng.normal(size=300), groups=groups, blocks=None).deviations
        for _ in range(200)
    ]
    ratios = [np.ptp(np.log(deviations)) for deviations in found]
    # Not shrunk, the range of three logarithms of standard deviations has a mean of .12.
    assert np.mean(ratios) < 0.06


def test_intervals_of_few_families_cover_the_truth(rng):
    blocks = np.repeat(np.arange(12), 4)
    design = np.column_stack([np.ones(48), np.repeat(rng.normal(size=12), 4)])
    errors = rng.normal(size=(12, 4000)).repeat(4, axis=0) + rng.normal(size=(48, 4000))
    found = score_effect(make_estimator(design, np.array([0.0, 1.0]), blocks), errors)
    covered = np.mean((found.low < 0) & (found.high > 0))
    assert 0.935 < covered < 0.965  # binomial standard error .0034
    naive = score_effect(make_estimator(design, np.array([0.0, 1.0])), errors)
    assert np.mean((naive.low < 0) & (naive.high > 0)) < 0.85
