from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import eval_legendre

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.shell_resampling import (
    choose_order,
    choose_shell,
    find_shell,
    fixed_directions,
    resampling_matrix,
)
from dmri_fm_lab.simulate import spread_directions

#: The first and the last of the fixed directions: those that weights were trained on.
FIRST_AND_LAST = [[0.2010, -0.0163, 0.9795], [0.9398, 0.3380, 0.0495]]


def band_limited(directions: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Return an even function of an order on the sphere, without a basis of harmonics.

    A sum of Legendre polynomials of the cosine to random axes.
    """
    rng = np.random.default_rng(1)
    axes = rng.normal(size=(12, 3))
    cosine = directions @ (axes / np.linalg.norm(axes, axis=1, keepdims=True)).T
    return sum(
        (eval_legendre(n, cosine) @ rng.normal(size=12) for n in range(0, order + 1, 2)),
        np.zeros(len(directions)),
    )


@pytest.mark.parametrize(("n", "order"), [(20, 4), (30, 6), (60, 8)])
def test_a_band_limited_signal_is_exact(n: int, order: int) -> None:
    given = spread_directions(np.random.default_rng(0), n)
    targets = fixed_directions(64)
    assert choose_order(given) == order
    found = resampling_matrix(given, targets) @ band_limited(given, order)
    np.testing.assert_allclose(found, band_limited(targets, order), atol=1e-9)
    beyond = resampling_matrix(given, targets) @ band_limited(given, order + 2)
    assert np.abs(beyond - band_limited(targets, order + 2)).max() > 0.1


def test_a_vector_and_its_opposite_are_one_direction() -> None:
    given = spread_directions(np.random.default_rng(0), 30)
    signs = np.where(np.arange(30) % 2, -1.0, 1.0)[:, None]
    targets = fixed_directions(16)
    np.testing.assert_allclose(
        resampling_matrix(given * signs, targets), resampling_matrix(given, targets), atol=1e-9
    )


def test_turning_both_changes_nothing() -> None:
    given = spread_directions(np.random.default_rng(0), 40)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    targets = fixed_directions(20)
    np.testing.assert_allclose(
        resampling_matrix(given @ turn, targets @ turn),
        resampling_matrix(given, targets),
        atol=1e-9,
    )


def test_a_direction_measured_twice_is_averaged() -> None:
    given = spread_directions(np.random.default_rng(0), 30)
    twice = resampling_matrix(np.concatenate([given, -given]), fixed_directions(16))
    np.testing.assert_allclose(
        twice[:, :30] + twice[:, 30:], resampling_matrix(given, fixed_directions(16)), atol=1e-9
    )


def test_too_few_directions_are_refused() -> None:
    given = spread_directions(np.random.default_rng(0), 14)
    with pytest.raises(GradientError, match="a shell of 14 distinct directions"):
        resampling_matrix(given, fixed_directions(64))
    with pytest.raises(GradientError, match="a shell of 8 distinct directions"):
        resampling_matrix(np.concatenate([given[:8], -given[:8]]), fixed_directions(64))


def test_directions_of_one_cone_are_refused_and_clusters_have_a_lower_order() -> None:
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    cone = np.stack([0.6 * np.cos(angle), 0.6 * np.sin(angle), np.full(60, 0.8)], axis=1)
    with pytest.raises(GradientError, match="do not determine"):
        choose_order(cone)
    spread = spread_directions(np.random.default_rng(0), 20)
    assert choose_order(np.concatenate([spread, cone])) < 8


def test_targets_are_spread_and_always_the_same() -> None:
    targets = fixed_directions(64)
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), 1.0)
    angles = np.degrees(np.arccos(np.clip(np.abs(targets @ targets.T), 0, 1)))
    np.fill_diagonal(angles, 90.0)
    assert angles.min() > 16.0
    # Weights belong to these axes; dipy's repulsion, rounded.
    np.testing.assert_allclose(targets[[0, 63]], FIRST_AND_LAST, atol=1e-3)


def test_the_shell_nearest_to_1000_with_enough_directions() -> None:
    axes = [spread_directions(np.random.default_rng(s), n) for s, n in enumerate((12, 20, 20))]
    bvals = np.concatenate([[0.0], [1000.0] * 12, [700.0] * 20, [2500.0] * 20])
    gtab = GradientTable(bvals, np.concatenate([np.zeros((1, 3)), *axes]))
    assert choose_shell(gtab).bval == 700.0
    few = gtab.select(np.arange(13))
    assert find_shell(few) is None
    with pytest.raises(GradientError, match=r"\(12 at b 1000\)"):
        choose_shell(few)
