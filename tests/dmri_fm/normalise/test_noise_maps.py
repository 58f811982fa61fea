"""Noise map and residual map in another space."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.distortion import FieldShift
from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.noise_maps import bring_run_maps, residual_by_run

SHAPE = (10, 12, 8)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def test_residual_of_noise_is_its_deviation() -> None:
    rng = np.random.default_rng(0)
    truth = np.full((*SHAPE, 40), 100.0, dtype=np.float32)
    noise = rng.normal(0, [[[[5.0] * 30 + [9.0] * 10]]], truth.shape).astype(np.float32)
    found = residual_by_run(truth + noise, truth, [0] * 30 + [1] * 10)
    # 960 voxels of 30 and 10 volumes: standard errors of the mean square are below 1.5 %.
    np.testing.assert_allclose(np.square(found).mean((0, 1, 2)), [25.0, 81.0], rtol=0.06)


def test_series_of_two_shapes_are_refused() -> None:
    with pytest.raises(ImageError, match="shape"):
        residual_by_run(np.ones((2, 2, 2, 3)), np.ones((2, 2, 2, 2)), [0, 0, 0])


def test_each_run_comes_through_its_own_distortion() -> None:
    spot = np.zeros((*SHAPE, 2), dtype=np.float32)
    spot[5, 8, 4, 0], spot[5, 4, 4, 1] = 3.0, 3.0  # two voxels to either side of its place
    field = np.full(SHAPE, 40.0)
    shifts = [FieldShift(1, 0.05), FieldShift(1, -0.05)]
    given = {"field_hz": field, "shifts": shifts}
    moved = bring_run_maps(spot, AFFINE, Grid(SHAPE, AFFINE), n_volumes=(3, 1), **given)
    assert moved[5, 6, 4] == pytest.approx(3.0)
    moved[5, 6, 4] = 0
    assert not moved.any()


def test_runs_are_averaged_by_squares_and_volumes_where_they_have_data() -> None:
    maps = np.ones((*SHAPE, 2), dtype=np.float32) * np.float32([2.0, 6.0])
    field = np.full(SHAPE, 40.0)  # the second run has no data in the first two rows
    shifts = [FieldShift(1, 0.0), FieldShift(1, -0.05)]
    given = {"field_hz": field, "shifts": shifts}
    moved = bring_run_maps(maps, AFFINE, Grid(SHAPE, AFFINE), n_volumes=(3, 1), **given)
    np.testing.assert_allclose(moved[:, 2:], np.sqrt((3 * 4 + 36) / 4), rtol=1e-5)
    np.testing.assert_allclose(moved[:, :2], 2.0, rtol=1e-5)
