"""Permutations: what moves, Freedman and Lane's t, family-wise p."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.statistics.linear import make_estimator, score_effect
from dmri_fm_lab.statistics.permutations import (
    draw_shuffles,
    family_wise_p,
    find_exchangeable,
    largest_t,
    reduced_residuals,
)

BLOCKS = np.array([0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6])
SITES = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 0])


def draw(exchange, groups=None, n=200):
    allowed = find_exchangeable(BLOCKS, groups, exchange=exchange)
    return draw_shuffles(allowed, n, alpha=0.5, rng=np.random.default_rng(0))


def test_families_change_places_as_wholes_with_those_of_their_size():
    orders = draw("whole").orders
    assert (np.sort(orders, axis=1) == np.arange(11)).all()
    families = BLOCKS[orders]
    for a, b in ((1, 2), (3, 4), (6, 7), (8, 9)):
        assert (families[:, a] == families[:, b]).all()
    assert set(families[:, 1]) == {1, 2, 4, 5}
    assert set(families[:, 0]) == {0, 3, 6}


def test_sites_of_different_variances_keep_their_scans():
    orders = draw("whole", SITES).orders
    assert (SITES[orders] == SITES).all()
    assert set(BLOCKS[orders][:, 1]) == {1, 2}
    assert (orders[:, [5, 6, 8, 9]] == [5, 6, 8, 9]).all()
    assert find_exchangeable(BLOCKS, SITES, exchange="whole").n_fixed == 5


def test_members_change_places_within_their_family():
    orders = draw("within").orders
    assert (BLOCKS[orders] == BLOCKS).all()
    assert set(orders[:, 1]) == {1, 2}


def test_signs_are_those_of_whole_families():
    shuffles = draw("flip")
    assert (shuffles.orders == np.arange(11)).all()
    assert (shuffles.signs[:, 1] == shuffles.signs[:, 2]).all()
    assert set(shuffles.signs[:, 0]) == {-1, 1}


def test_too_few_permutations_are_refused():
    allowed = find_exchangeable(np.array([0, 1, 1, 2, 2, 2]), None, exchange="whole")
    with pytest.raises(ConfigError, match="1 distinct permutations"):
        draw_shuffles(allowed, 10, alpha=0.05, rng=np.random.default_rng(0))


@pytest.mark.parametrize("exchange", ["whole", "flip"])
@pytest.mark.parametrize("n_outcomes", [1, 3])
def test_t_is_that_of_the_permuted_outcomes(exchange, n_outcomes):
    """Freedman and Lane: fitted values of the reduced model plus its shuffled residuals."""
    rng = np.random.default_rng(2)
    design = np.column_stack([np.ones(11), rng.normal(size=(11, 2))])
    values = rng.normal(size=(11, n_outcomes)) + 3 * design[:, 2:]
    contrast = np.array([0.0, 1.0, 0.0])
    estimator = make_estimator(design, contrast, BLOCKS)
    residuals = reduced_residuals(design, contrast, values)
    shuffles = draw(exchange, n=6)
    found = largest_t(estimator, residuals, shuffles)
    nuisance = design[:, [0, 2]]
    fitted = nuisance @ np.linalg.lstsq(nuisance, values, rcond=None)[0]
    for k in range(6):
        moved = (values - fitted)[shuffles.orders[k]] * shuffles.signs[k][:, None]
        t = score_effect(estimator, fitted + moved).t
        np.testing.assert_allclose(found[k], np.abs(t).max())


def test_family_wise_p_falls_with_t_and_is_never_zero():
    p = family_wise_p(np.array([0.1, -1.5, 2.5, 9.0]), np.array([0.5, 1.0, 2.0, 3.0]))
    np.testing.assert_allclose(p, [1, 3 / 5, 2 / 5, 1 / 5])
    assert all(a > b for a, b in pairwise(p))
