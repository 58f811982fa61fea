"""Artefacts that pretraining adds: seeds, laws of the eddy currents, published settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dmri_fm.errors import ConfigError
from dmri_fm.shell_resampling import fixed_directions
from dmri_fm_lab.train.artefacts import (
    STRENGTHS,
    _transforms,
    add_artefacts,
    distort_by_gradients,
    draw_response,
    find_strength,
)

SHAPE = (16, 24, 16)


def blob() -> Tensor:
    """Return a smooth ball in the middle of the grid."""
    lines = [torch.arange(n) - (n - 1) / 2 for n in SHAPE]
    x, y, z = torch.meshgrid(*lines, indexing="ij")
    return torch.exp(-(x**2 + y**2 + z**2) / 18)


def moments(volume: Tensor) -> tuple[float, float, float]:
    """Return sum, centre along the phase-encoding axis, and width there, voxels."""
    line = volume.sum(dim=(0, 2)).double()
    place = torch.arange(SHAPE[1]) - (SHAPE[1] - 1) / 2
    centre = float((line * place).sum() / line.sum())
    width = float(((line * (place - centre) ** 2).sum() / line.sum()).sqrt())
    return float(line.sum()), centre, width


def test_opposite_gradients_distort_oppositely_and_no_gradient_not_at_all() -> None:
    x, none = np.array([1.0, 0.0, 0.0]), np.zeros(3)
    shift = np.zeros((4, 3))
    shift[3, 0] = 1.5
    volumes = distort_by_gradients(blob().repeat(3, 1, 1, 1), np.stack([x, -x, none]), shift)
    centres = [moments(v)[1] for v in volumes]
    # Interpolation is linear: the blob's centre moves by the shift.
    np.testing.assert_allclose(np.abs(centres), [1.5, 1.5, 0.0], atol=0.01)
    assert centres[0] == pytest.approx(-centres[1], abs=1e-4)
    torch.testing.assert_close(volumes[2], blob())


def test_stretch_keeps_the_sum_and_follows_the_root_of_b() -> None:
    stretch = np.zeros((4, 3))
    stretch[1, 1] = 0.05
    y = np.array([0.0, 1.0, 0.0])
    gradients = np.stack([y, -y, 0.5 * y, 40 * y])
    volumes = distort_by_gradients(blob().repeat(4, 1, 1, 1), gradients, stretch)
    total, _, width = moments(blob())
    found = [moments(v) for v in volumes]
    factors = np.array([w / width for _, _, w in found])
    # Each place shows what lies 5, -5, 2.5 or, at most, 10 % nearer to the middle. Linear
    # interpolation widens the blob by up to 1.2 %, the two directions alike.
    np.testing.assert_allclose(factors, 1 / np.array([0.95, 1.05, 0.975, 0.9]), atol=0.015)
    assert factors[0] - factors[1] == pytest.approx(1 / 0.95 - 1 / 1.05, abs=0.005)
    # Pile-up: what is stretched is fainter.
    np.testing.assert_allclose([t for t, _, _ in found], total, rtol=0.02)


def test_a_response_stays_within_the_published_stretch() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([np.linalg.norm(draw_response(rng), axis=1) for _ in range(200)])
    assert (lengths.max(axis=0) <= [0.05, 0.1, 0.05, 2.0]).all()
    assert lengths[:, 1].max() > 0.09


@pytest.mark.parametrize("name", sorted(STRENGTHS))
def test_the_seed_decides_and_each_volume_has_its_own(name: str) -> None:
    clean = 0.6 * blob().repeat(8, 1, 1, 1)
    torch.manual_seed(5)
    untouched = torch.random.get_rng_state()

    def add(seed: int) -> Tensor:
        return add_artefacts(
            np.random.default_rng(seed),
            clean,
            fixed_directions(8),
            bval=1000.0,
            voxel_size_mm=8.0,
            strength=find_strength(name),
        )

    first = add(1)
    torch.testing.assert_close(first, add(1), rtol=0, atol=0)
    assert not torch.equal(first, add(2))
    assert torch.equal(torch.random.get_rng_state(), untouched)
    assert first.shape == clean.shape
    assert 0 <= first.min() <= first.max() <= 1
    torch.testing.assert_close(clean[0], 0.6 * blob())
    apart = [float((first[0] - other).abs().max()) for other in first[1:]]
    assert min(apart) > 0.01


def test_light_and_strong_are_those_of_the_public_code() -> None:
    expected = {
        "light": (5.0, 5.0, 1, (0, 1), (0.0, 0.5), 0.3, (0.0, 0.1)),
        "strong": (15.0, 15.0, 3, (1, 3), (0.5, 0.9), 0.7, (0.0, 0.3)),
    }
    for name, values in expected.items():
        motion, ghosting, bias, noise = _transforms(find_strength(name))
        degrees, mm, movements, n_ghosts, intensity, coefficients, std = values
        assert (motion.degrees_range, motion.translation_range) == ((-degrees, degrees), (-mm, mm))
        assert motion.num_transforms == movements
        assert (ghosting.num_ghosts_range, ghosting.axes) == (n_ghosts, (1,))
        assert ghosting.intensity_range == intensity
        assert (bias.coefficients_range, bias.order) == ((-coefficients, coefficients), 3)
        assert (noise.mean_range, noise.std_range) == ((0.0, 0.0), std)


def test_other_strengths_are_refused() -> None:
    with pytest.raises(ConfigError, match="strength 'weak'"):
        find_strength("weak")
