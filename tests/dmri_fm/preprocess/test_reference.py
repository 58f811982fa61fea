"""Denoising, b=0 reference and bias."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.denoise import denoise, foreground, unring
from dmri_fm.preprocess.dwiref import b0_reference, correct_bias
from dmri_fm.series import Dwi

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])


def series(*, sigma: float, n: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy block of smooth decays, and the same without noise."""
    rng = np.random.default_rng(seed)
    x = np.linspace(0, 1, 14)
    base = 300 * (1 + x[:, None, None] * x[None, :, None] + 0 * x[None, None, :8])
    decay = np.exp(-np.linspace(0.2, 1.5, n)[None] * (0.5 + x[:, None]))
    clean = base[..., None] * decay[:, None, None, :]
    return clean + rng.normal(0, sigma, clean.shape), clean


@pytest.mark.parametrize("method", ["mppca", "patch2self"])
def test_denoising_brings_the_signal_nearer_to_the_truth(method: str) -> None:
    noisy, clean = series(sigma=20)
    gtab = GradientTable([0, *[1000] * 19], [[0, 0, 0], *[[1, 0, 0]] * 19])
    result = denoise(
        Dwi.from_arrays(noisy.clip(0), AFFINE, gtab, mask=np.ones(noisy.shape[:3])), method=method
    )
    before = np.sqrt(np.mean((noisy - clean) ** 2))
    after = np.sqrt(np.mean((result.data - clean) ** 2))
    assert after < 0.6 * before
    assert "DIPY" in result.method


def test_too_few_volumes_are_left_alone_and_it_is_said() -> None:
    noisy, _ = series(sigma=20, n=5)
    b0s = GradientTable(np.zeros(5), np.zeros((5, 3)))
    result = denoise(Dwi.from_arrays(noisy, AFFINE, b0s), method="mppca")
    np.testing.assert_array_equal(result.data, noisy.astype(np.float32))
    assert "too few" in result.method


def test_background_is_not_foreground() -> None:
    data = np.zeros((20, 20, 20, 3))
    data[8:12, 8:12, 8:12] = 100
    inside = foreground(data)
    assert inside[10, 10, 10]
    assert not inside[0, 0, 0]


def test_ringing_at_an_edge_shrinks() -> None:
    fine = np.zeros((256, 256))
    fine[70:190, 70:190] = 100
    spectrum = np.fft.fftshift(np.fft.fft2(fine))[96:160, 96:160]
    ringing = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum)))[:, :, None, None] / 16
    fixed = unring(np.tile(ringing, (1, 1, 2, 2)))
    inside = (slice(20, 45), slice(20, 45))
    assert fixed[(*inside, 0, 0)].std() < 0.7 * ringing[(*inside, 0, 0)].std()


def test_no_b0_is_an_error() -> None:
    gtab = GradientTable([1000], [[1, 0, 0]])
    with pytest.raises(GradientError, match="no b=0"):
        b0_reference(Dwi.from_arrays(np.ones((4, 4, 4, 1)), AFFINE, gtab))


def test_one_b0_is_its_own_reference() -> None:
    rng = np.random.default_rng(0)
    data = rng.uniform(1, 2, (6, 6, 6, 2)).astype(np.float32)
    gtab = GradientTable([1000, 0], [[1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(
        b0_reference(Dwi.from_arrays(data, AFFINE, gtab)), data[..., 1], rtol=1e-6
    )


def test_bias_becomes_even() -> None:
    x = np.linspace(-1, 1, 40)
    field = 1 + 0.4 * x[:, None, None] + 0 * x[None, :, None] * x[None, None, :]
    ball = (x[:, None, None] ** 2 + x[None, :, None] ** 2 + x[None, None, :] ** 2) < 0.7
    rng = np.random.default_rng(0)
    image = (100 * field + rng.normal(0, 1, field.shape)) * ball
    fixed = correct_bias(image.clip(0), AFFINE, mask=ball)
    assert fixed[ball].std() / fixed[ball].mean() < 0.5 * image[ball].std() / image[ball].mean()


def test_voxels_that_no_window_reaches_stay_as_they_are():
    """A lone corner of the mask, as bright fat at the edge of the field of view leaves it."""
    rng = np.random.default_rng(0)
    series = 100 + rng.normal(0, 5, (12, 12, 12, 8)).astype(np.float32)
    mask = np.zeros(series.shape[:3], dtype=bool)
    mask[3:9, 3:9, 3:9] = True
    mask[0, 0, 0] = True
    b0s = GradientTable(np.zeros(8), np.zeros((8, 3)))
    found = denoise(Dwi.from_arrays(series, AFFINE, b0s, mask=mask), method="mppca").data
    np.testing.assert_array_equal(found[0, 0, 0], series[0, 0, 0])
    assert found[mask].std() < 0.8 * series[mask].std()
