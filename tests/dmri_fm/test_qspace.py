import logging

import numpy as np
import pytest

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import (
    SKARE_DIRECTIONS,
    choose_six,
    choose_spread,
    condition_number,
    distinct_directions,
)
from dmri_fm_lab.simulate import spread_directions


def table(*shells):
    """Build a table from (b-value, directions) after one b=0."""
    bvals = np.concatenate([[0.0], *(np.full(len(g), b) for b, g in shells)])
    return GradientTable(bvals, np.concatenate([np.zeros((1, 3)), *(g for _, g in shells)]))


def cone(n):
    """Return n directions 20 degrees from z: they determine a tensor badly."""
    phi = np.arange(n) * np.pi / n * 2
    return np.stack([0.34 * np.cos(phi), 0.34 * np.sin(phi), np.full(n, 0.94)], axis=1)


def spoilt(n, seed):
    g = np.random.default_rng(seed).normal(size=(n, 3)) * [0.15, 0.15, 1.0]
    return g / np.linalg.norm(g, axis=1, keepdims=True)


def test_finds_the_ideal_set_among_others():
    # In this position; the columns' factor of two makes the number depend on the frame.
    g = np.concatenate([spoilt(6, 0), SKARE_DIRECTIONS, spoilt(3, 1)])
    six = choose_six(table((1000.0, g)))
    assert six.index == (7, 8, 9, 10, 11, 12)
    assert six.condition_number == pytest.approx(np.sqrt(7) / 2)


def test_condition_number_is_that_of_the_chosen():
    g = spread_directions(np.random.default_rng(0), 12)
    gtab = table((1500.0, g))
    six = choose_six(gtab)
    chosen = gtab.bvecs_ras[list(six.index)]
    assert six.condition_number == pytest.approx(condition_number(chosen))
    assert six.bval == 1500.0


def test_prefers_the_shell_nearest_to_1000():
    g = spread_directions(np.random.default_rng(0), 10)
    assert choose_six(table((700.0, g), (1100.0, g), (2500.0, g))).bval == 1100.0
    # A shell without a good set loses to a farther one that has it.
    assert choose_six(table((1000.0, cone(8)), (2500.0, g))).bval == 2500.0


def test_warns_but_serves_where_no_set_is_good(caplog):
    with caplog.at_level(logging.WARNING, logger="dmri_fm.qspace"):
        six = choose_six(table((1000.0, spoilt(10, 3))))
    assert six.condition_number > 3
    assert "condition number" in caplog.text


def test_repeated_directions_count_once():
    g = spread_directions(np.random.default_rng(1), 6)
    six = choose_six(table((1000.0, np.concatenate([g, -g]))))
    assert six.index == (1, 2, 3, 4, 5, 6)
    with pytest.raises(GradientError, match="5 distinct directions"):
        choose_six(table((1000.0, np.concatenate([g[:5], -g[:5]]))))


@pytest.mark.parametrize("gtab", [table((1000.0, np.eye(3))), GradientTable([0.0], [[0, 0, 0]])])
def test_too_few_directions_are_an_error(gtab):
    with pytest.raises(GradientError, match="six"):
        choose_six(gtab)


def test_planar_directions_are_an_error():
    phi = np.linspace(0, np.pi, 12, endpoint=False)
    plane = np.stack([np.cos(phi), np.sin(phi), 0 * phi], axis=1)
    with pytest.raises(GradientError):
        choose_six(table((1000.0, plane)))


def test_many_directions_are_quick_good_and_repeatable():
    g = spread_directions(np.random.default_rng(2), 90)
    six = choose_six(table((1000.0, g)), seed=1)
    assert six.condition_number < 1.6
    assert choose_six(table((1000.0, g)), seed=1) == six


def test_spread_choice():
    g = spread_directions(np.random.default_rng(3), 30)
    gtab = table((1000.0, np.concatenate([g, -g])))
    chosen = choose_spread(gtab, 12, seed=0)
    assert len(set(chosen)) == 12
    assert 0 not in chosen, "b=0 is not a direction"
    axes = gtab.bvecs_ras[chosen]
    cosines = np.abs(axes @ axes.T) - np.eye(12)
    # Twelve of thirty: no antipode of a chosen one, and no neighbour within 20 degrees.
    assert cosines.max() < np.cos(np.deg2rad(20))
    np.testing.assert_array_equal(chosen, choose_spread(gtab, 12, seed=0))
    assert len(choose_spread(table((1000.0, g[:4])), 12)) == 4
    with pytest.raises(GradientError):
        choose_spread(GradientTable([0.0], [[0, 0, 0]]), 12)


def test_spread_choice_covers_shells():
    g = spread_directions(np.random.default_rng(4), 30)
    gtab = table((1000.0, g), (3000.0, g))
    b = gtab.bvals[choose_spread(gtab, 12)]
    assert 3 <= (b == 1000).sum() <= 9


def test_twins_are_one_direction_and_so_are_chains_of_them():
    turns = np.deg2rad([0.0, 4.0, 8.0, 180.0, 40.0])
    g = np.stack([np.cos(turns), np.sin(turns), np.zeros(5)], axis=1)
    assert distinct_directions(table((1000.0, g))) == [[1, 2, 3, 4], [5]]
    two_shells = table((1000.0, g[:2]), (2000.0, g[:2]))
    assert distinct_directions(two_shells) == [[1, 2], [3, 4]], "shells apart"
