from __future__ import annotations

import numpy as np
import pytest
from dipy.reconst.shm import real_sh_descoteaux

from dmri_fm.errors import GradientError
from dmri_fm.shell_resampling import choose_order, fibonacci_directions, resampling_matrix
from dmri_fm_lab.simulate import spread_directions


def band_limited(directions: np.ndarray, order: int) -> np.ndarray:
    """Return a signal of an order at directions, the same function for all of them."""
    x, y, z = directions.T
    basis, _, _ = real_sh_descoteaux(order, np.arccos(z), np.arctan2(y, x), legacy=False)
    return basis @ np.random.default_rng(1).normal(size=basis.shape[1])


@pytest.mark.parametrize(("n", "order"), [(15, 4), (30, 6), (60, 8)])
def test_a_band_limited_signal_is_exact(n: int, order: int) -> None:
    given = spread_directions(np.random.default_rng(0), n)
    targets = fibonacci_directions(64)
    assert choose_order(n) == order
    found = resampling_matrix(given, targets) @ band_limited(given, order)
    np.testing.assert_allclose(found, band_limited(targets, order), atol=1e-6)


def test_a_vector_and_its_opposite_are_one_direction() -> None:
    given = spread_directions(np.random.default_rng(0), 30)
    signs = np.where(np.arange(30) % 2, -1.0, 1.0)[:, None]
    targets = fibonacci_directions(8)
    np.testing.assert_allclose(
        resampling_matrix(given * signs, targets), resampling_matrix(given, targets), atol=1e-9
    )


def test_turning_both_changes_nothing() -> None:
    # A rotation within the space of an order: signals follow their directions.
    given = spread_directions(np.random.default_rng(0), 40)
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    targets = fibonacci_directions(20)
    np.testing.assert_allclose(
        resampling_matrix(given @ turn, targets @ turn),
        resampling_matrix(given, targets),
        atol=1e-7,
    )


def test_too_few_directions_are_refused() -> None:
    given = spread_directions(np.random.default_rng(0), 14)
    with pytest.raises(GradientError, match="a shell of 14 directions"):
        resampling_matrix(given, fibonacci_directions(64))
    twice = np.concatenate([given[:8], -given[:8]])
    with pytest.raises(GradientError, match="16 directions determine 8 of 15"):
        resampling_matrix(twice, fibonacci_directions(64))


def test_targets_are_spread() -> None:
    targets = fibonacci_directions(64)
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), 1.0)
    angles = np.degrees(np.arccos(np.clip(np.abs(targets @ targets.T), 0, 1)))
    np.fill_diagonal(angles, 90.0)
    assert angles.min() > 9.0
