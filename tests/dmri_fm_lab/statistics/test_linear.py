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


def test_independent_scans_have_the_robust_errors_of_statsmodels(rng):
    design = sm.add_constant(rng.normal(size=(40, 3)))
    values = rng.normal(size=(40, 4)) * np.exp(design[:, 1:2])
    contrast = np.array([0.0, 1.0, -1.0, 0.0])
    found = score_effect(make_estimator(design, contrast), values)
    for k in range(4):
        fit = sm.OLS(values[:, k], design).fit(cov_type="HC2")
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


def test_errors_grow_by_the_correction_of_kenward_and_roger(rng):
    """The explicit matrices, with derivatives of the covariance by finite differences."""
    groups, blocks = np.repeat([0, 1], 12), np.arange(24) // 3
    design = np.column_stack([np.ones(24), groups, rng.normal(size=24)])
    contrast = np.array([0.0, 0.0, 1.0])
    errors = ErrorModel(
        np.array([1.0, 2.0])[groups], blocks, 0.4, groups, np.array([0.3, 0.2]), 0.1
    )

    def covariance(numbers):
        deviations = np.exp(np.array(numbers[:2]) / 2)[groups]
        same = blocks[:, None] == blocks
        correlation = numbers[2] * same + (1 - numbers[2]) * np.eye(24)
        return deviations[:, None] * correlation * deviations

    numbers, spread = np.array([0.0, np.log(4.0), 0.4]), (0.3, 0.2, 0.1)
    inverse = np.linalg.inv(covariance(numbers))
    within = np.linalg.inv(design.T @ inverse @ design)
    added = np.zeros((3, 3))
    for k, step in enumerate(1e-5 * np.eye(3)):
        change = np.linalg.inv(covariance(numbers + step)) - np.linalg.inv(
            covariance(numbers - step)
        )
        change /= 2e-5
        p, q = (design.T @ m @ design for m in (change, change @ covariance(numbers) @ change))
        added += spread[k] ** 2 * within @ (q - p @ within @ p) @ within
    expected = contrast @ (within + 2 * added) @ contrast / (contrast @ within @ contrast)
    estimator = make_estimator(errors.whiten(design), contrast, blocks)
    assert errors.inflation(estimator) == pytest.approx(np.sqrt(expected), rel=1e-6)
    values = rng.normal(size=(24, 2))
    plain, grown = (e.estimate(values) for e in (estimator, estimator.scaled(1.5)))
    np.testing.assert_allclose(grown[1], 1.5 * plain[1])
    np.testing.assert_array_equal(grown[0], plain[0])


def test_estimated_numbers_have_the_errors_that_simulation_shows(rng):
    groups, blocks = np.repeat([0, 1, 2], 60), np.arange(180) // 3
    design = np.eye(3)[groups]
    draws = np.sqrt(0.5) * (rng.normal(size=(60, 400))[blocks] + rng.normal(size=(180, 400)))
    draws *= np.array([1.0, 3.0, 9.0])[groups, None]
    found = [estimate_errors(design, y, groups=groups, blocks=blocks) for y in draws.T]
    logs = [2 * np.log(e.deviations[[0, 60, 120]]) for e in found]
    # 400 draws tell a standard deviation to 3.5%; the stated ones are of the first order.
    assert np.std(logs, axis=0).mean() == pytest.approx(
        np.mean([e.log_errors for e in found]), rel=0.12
    )
    assert np.std([e.correlation for e in found]) == pytest.approx(
        np.mean([e.correlation_error for e in found]), rel=0.15
    )


@pytest.mark.parametrize(
    ("sizes", "scales"),
    [
        pytest.param([2] * 40 + [1] * 80, (1.0, 1.0), id="pairs and singletons"),
        pytest.param([4] * 15 + [2] * 20 + [1] * 100, (1.0, 1.0), id="three sizes"),
        # The variance by which pairs are divided is that of their own group.
        pytest.param([2] * 40 + [1] * 80, (1.0, 5.0), id="singletons of another variance"),
    ],
)
def test_the_error_of_the_correlation_is_its_spread_where_scans_have_no_family(rng, sizes, scales):
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    groups = (np.bincount(blocks)[blocks] == 1).astype(int)
    n = len(blocks)
    shared = rng.normal(size=(len(sizes), 1000))[blocks]
    draws = np.sqrt(0.5) * (shared + rng.normal(size=(n, 1000)))
    draws *= np.array(scales)[groups, None]
    design = np.ones((n, 1))
    found = [estimate_errors(design, y, groups=groups, blocks=blocks) for y in draws.T]
    # 1000 draws tell a standard deviation to 2.2 %; the stated ones are of the first order.
    assert np.mean([e.correlation_error for e in found]) == pytest.approx(
        np.std([e.correlation for e in found]), rel=0.08
    )


def test_variances_that_differ_by_chance_are_taken_as_one(rng):
    design, groups = np.ones((300, 1)), np.repeat([0, 1, 2], 100)
    found = [
        estimate_errors(design, rng.normal(size=300), groups=groups, blocks=None)
        for _ in range(200)
    ]
    is_one = [np.ptp(errors.deviations) == 0 for errors in found]
    # 99% are expected.
    assert np.mean(is_one) > 0.96
    assert all(
        (errors.log_errors == 0).all() == one for errors, one in zip(found, is_one, strict=True)
    )


def test_a_site_that_the_design_explains_has_the_variance_of_all(rng):
    groups = np.repeat([0, 1, 2], [2, 60, 60])
    design = np.column_stack([np.ones(122), *np.eye(122)[:2]])
    values = rng.normal(size=122) * np.array([1.0, 1.0, 5.0])[groups]
    found = estimate_errors(design, values, groups=groups, blocks=np.arange(122) // 2)
    of_group = found.deviations[[0, 2, 62]]
    assert of_group[2] / of_group[1] == pytest.approx(5, rel=0.3)
    assert of_group[0] == pytest.approx(np.sqrt(of_group[1] * of_group[2]), rel=0.1)
    assert found.log_errors[0] == pytest.approx(0, abs=1e-4)


def test_intervals_of_few_families_cover_the_truth(rng):
    blocks = np.repeat(np.arange(12), 4)
    design = np.column_stack([np.ones(48), np.repeat(rng.normal(size=12), 4)])
    errors = rng.normal(size=(12, 4000)).repeat(4, axis=0) + rng.normal(size=(48, 4000))
    found = score_effect(make_estimator(design, np.array([0.0, 1.0]), blocks), errors)
    covered = np.mean((found.low < 0) & (found.high > 0))
    assert 0.935 < covered < 0.965  # binomial standard error .0034
    naive = score_effect(make_estimator(design, np.array([0.0, 1.0])), errors)
    assert np.mean((naive.low < 0) & (naive.high > 0)) < 0.85
