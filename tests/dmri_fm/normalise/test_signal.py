"""Signal and q-space scales."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.signal import CLIP, normalise_b0
from dmri_fm.qspace import to_qspace

GTAB = GradientTable([0, 0, 1000], [[0, 0, 0], [0, 0, 0], [0, 0, 1]])


def test_ratio_to_the_mean_b0_is_free_of_scale() -> None:
    rng = np.random.default_rng(0)
    data = rng.uniform(100, 200, (4, 4, 4, 3))
    one, ten = normalise_b0(data, GTAB), normalise_b0(10 * data, GTAB)
    np.testing.assert_allclose(one.signal, ten.signal, rtol=1e-5)
    assert ten.scale == pytest.approx(10 * one.scale, rel=1e-5)
    expected = data[..., 2] / data[..., :2].mean(axis=3)
    np.testing.assert_allclose(one.signal[..., 2], np.clip(expected, *CLIP), rtol=1e-5)


def test_outside_the_mask_and_in_dark_voxels_there_is_nothing() -> None:
    data = np.full((3, 3, 3, 3), 100.0)
    data[0, 0, 0] = [0.1, 0.1, 50.0]
    mask = np.ones((3, 3, 3), bool)
    mask[2] = False
    out = normalise_b0(data, GTAB, mask=mask)
    assert out.signal[0, 0, 0].tolist() == [0, 0, 0]
    assert not out.signal[2].any()
    assert np.isfinite(out.signal).all()


def test_clipping_is_counted() -> None:
    data = np.full((2, 2, 2, 3), 100.0)
    data[0, 0, 0, 2] = 900.0
    out = normalise_b0(data, GTAB)
    assert out.signal.max() == CLIP[1]
    assert out.clipped_fraction == pytest.approx(1 / 24)


def test_no_b0_is_an_error() -> None:
    with pytest.raises(GradientError, match="no b=0"):
        normalise_b0(np.ones((2, 2, 2, 1)), GTAB.select([2]))


def test_spherical_coordinates_come_back() -> None:
    rng = np.random.default_rng(1)
    v = rng.normal(size=(20, 3))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    rho, theta, phi = to_qspace(GradientTable(np.full(20, 2500.0), v)).T.astype(float)
    back = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], 1)
    np.testing.assert_allclose(back, v, atol=1e-5)
    np.testing.assert_allclose(rho, 2.5)
