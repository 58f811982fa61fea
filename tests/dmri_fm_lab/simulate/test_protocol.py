from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm.qspace import SKARE_DIRECTIONS, condition_number
from dmri_fm_lab.simulate import draw_protocol, spread_directions


def nearest_angle_deg(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.rad2deg(np.arccos(np.clip(np.abs(a @ b.T), 0, 1)).min(axis=1))


def test_skare_set_has_the_published_condition_number() -> None:
    # Skare et al. 2000 print 1.3228; the closed form is sqrt(7) / 2.
    assert condition_number(SKARE_DIRECTIONS) == pytest.approx(np.sqrt(7) / 2, rel=1e-12)
    np.testing.assert_allclose(np.linalg.norm(SKARE_DIRECTIONS, axis=1), 1.0)


def test_skare_set_is_a_minimum() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        g = SKARE_DIRECTIONS + 0.02 * rng.standard_normal((6, 3))
        g /= np.linalg.norm(g, axis=1, keepdims=True)
        assert condition_number(g) > np.sqrt(7) / 2


def test_drawn_skare_sets_are_near_the_rotated_original() -> None:
    rng = np.random.default_rng(1)
    worst = []
    for _ in range(50):
        gtab = draw_protocol(rng)
        assert len(gtab) == 7
        assert gtab.is_b0.tolist() == [True] + [False] * 6
        g = gtab.bvecs_ras[1:]
        worst.append(condition_number(g))
        # Angles between axes do not depend on the rotation: compare their sorted lists.
        angles, original = (
            np.sort(np.abs(v @ v.T)[np.triu_indices(6, 1)]) for v in (g, SKARE_DIRECTIONS)
        )
        assert np.abs(angles - original).mean() < 0.25
    assert max(worst) < 2
    assert max(worst) > 1.33


@pytest.mark.parametrize("n", [6, 12, 30, 64])
def test_spread_directions_keep_apart(n: int) -> None:
    rng = np.random.default_rng(n)
    g = spread_directions(rng, n, n_steps=300)
    cosine = np.abs(g @ g.T) - np.eye(n)
    apart = np.rad2deg(np.arccos(cosine.max(axis=1)))
    # n axes, 2n caps that tile the sphere: their centres are about this far apart at best.
    ideal = np.rad2deg(2 * np.arccos(1 - 1 / (2 * n)))
    assert apart.min() > 0.6 * ideal
    np.testing.assert_allclose(np.linalg.norm(g, axis=1), 1.0)


def test_multishell_protocol_holds_what_was_asked_for() -> None:
    gtab = draw_protocol(
        np.random.default_rng(2),
        scheme="multishell",
        bvals=[1000, 2000],
        n_directions=[6, 9],
        n_b0=3,
    )
    assert [(s.bval, len(s.index)) for s in gtab.shells] == [(1000, 6), (2000, 9)]
    assert gtab.is_b0[:3].all()


def test_same_seed_same_protocol() -> None:
    a, b = (
        draw_protocol(np.random.default_rng(5), scheme="multishell", n_directions=8)
        for _ in range(2)
    )
    np.testing.assert_array_equal(a.bvals, b.bvals)
    np.testing.assert_array_equal(a.bvecs_ras, b.bvecs_ras)
    assert 400 <= a.bvals[a.bvals > 50].min() <= a.bvals.max() <= 3000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "spiral"}, "scheme 'spiral'"),
        ({"n_b0": -1}, "-1 b=0"),
        ({"scheme": "shell", "bvals": [700, 1400]}, "2 b-values"),
        ({"scheme": "shell", "bvals": 20}, "b = "),
        ({"scheme": "shell", "n_directions": 0}, "directions"),
    ],
)
def test_impossible_protocols_are_refused(options, message) -> None:
    with pytest.raises(ConfigError, match=message):
        draw_protocol(np.random.default_rng(0), **options)
