"""Noise of a run as acquired."""

import numpy as np
import pytest

from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi
from dmri_fm.tensor_networks.noise_map import name_noise_map, noise_map


def noisy_run(n_weighted, *, shape=(24, 20, 18), seed=0):
    """Return a run of smooth signal, and its noise, which doubles along the first axis."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(n_weighted, 3))
    gtab = GradientTable(
        [0, *[1000] * n_weighted],
        np.vstack([np.zeros(3), axes / np.linalg.norm(axes, axis=1, keepdims=True)]),
    )
    x, y, z = (np.indices(shape).reshape(3, -1) / np.array(shape).max()[None]).reshape(3, *shape)
    tensor = np.stack([0.4 + x, 0.5 + y, 0.6 + z], axis=3)
    decay = np.einsum("xyzi,ni->xyzn", tensor, gtab.bvecs_ras**2) * gtab.bvals / 1000
    sigma = 10 + 10 * np.linspace(0, 1, shape[0])[:, None, None] * np.ones(shape)
    noise = rng.standard_normal((2, *shape, len(gtab))) * sigma[..., None]
    data = np.hypot(600 * np.exp(-decay) + noise[0], noise[1])
    affine = np.diag([-2.0, 2.0, 2.5, 1.0])
    return Dwi.from_arrays(data, affine, gtab, mask=np.ones(shape)), sigma


def test_the_map_follows_noise_that_varies():
    dwi, sigma = noisy_run(15)
    found = noise_map(dwi)
    ratio = found.sigma / sigma
    assert found.method == name_noise_map(16)
    assert found.method.startswith("MP-PCA")
    assert np.median(ratio) == pytest.approx(1, abs=0.04)
    # Smoothing by 5 mm flattens the ends of the ramp.
    inner = ratio[4:-4, 4:-4, 4:-4]
    assert (np.percentile(inner, 5), np.percentile(inner, 95)) == pytest.approx((1, 1), abs=0.1)


def test_few_volumes_give_one_number_and_say_so():
    dwi, sigma = noisy_run(6)
    found = noise_map(dwi)
    assert np.ptp(found.sigma) == 0
    assert found.sigma[0, 0, 0] == pytest.approx(np.median(sigma), rel=0.1)
    assert "7 volumes are too few" in found.method


def test_air_around_the_head_does_not_lower_the_number():
    dwi, sigma = noisy_run(6)
    wide = tuple((n, n) for n in dwi.shape[:3])
    noise = np.random.default_rng(1).standard_normal((2, *(3 * n for n in dwi.shape[:3]), 7))
    data = np.hypot(*(15.0 * noise)).astype(np.float32)
    inside = tuple(slice(n, 2 * n) for n, _ in wide)
    data[inside] = dwi.data
    around = Dwi.from_arrays(data, dwi.affine, dwi.gtab, mask=np.ones(data.shape[:3]))
    found = noise_map(around).sigma[0, 0, 0]
    assert found == pytest.approx(noise_map(dwi).sigma[0, 0, 0], rel=0.05)
    assert found == pytest.approx(np.median(sigma), rel=0.1)


def test_a_slab_thinner_than_a_window_gives_one_number_and_says_so():
    dwi, sigma = noisy_run(15, shape=(24, 20, 4))
    found = noise_map(dwi)
    assert "no window" in found.method
    assert found.sigma[0, 0, 0] == pytest.approx(np.median(sigma), rel=0.15)
