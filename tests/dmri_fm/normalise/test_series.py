"""A series with its mask on another grid."""

import numpy as np
import pytest

from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.series import resample_series
from dmri_fm.series import Dwi

GTAB = GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]])


def gradient_along_x(affine, shape=(16, 12, 8)):
    """Return a series whose signal is the position along x in mm, brain where that is above 15."""
    x = (np.indices(shape).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3])[:, 0]
    volume = x.reshape(shape).astype(np.float32)
    return Dwi.from_arrays(np.stack([volume, 2 * volume], 3), affine, GTAB, mask=volume > 15)


@pytest.mark.parametrize("is_flipped", [False, True], ids=["RAS", "LAS"])
def test_what_is_at_a_place_stays_there(is_flipped):
    affine = np.diag([-2.0 if is_flipped else 2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [32 if is_flipped else 2, 0, 0]
    grid = Grid((6, 5, 4), np.array([[2.0, 0, 0, 12.5], [0, 2, 0, 3], [0, 0, 2, 3], [0, 0, 0, 1]]))
    found = resample_series(gradient_along_x(affine), grid)
    x = 12.5 + 2 * np.arange(6)
    # Cubic splines pass through a straight line, but for their edge.
    np.testing.assert_allclose(found.data[:, 2, 2, 1], 2 * x, atol=0.05)
    np.testing.assert_array_equal(found.mask[:, 2, 2], x > 15)
    np.testing.assert_array_equal(found.gtab.bvecs_ras, GTAB.bvecs_ras)


def test_beyond_the_field_of_view_there_is_nothing():
    series = gradient_along_x(np.diag([2.0, 2.0, 2.0, 1.0]))
    grid = Grid((20, 12, 8), np.diag([2.0, 2.0, 2.0, 1.0]))
    found = resample_series(series, grid)
    assert not found.data[17:].any()
    assert not found.mask[17:].any()
    assert found.mask[9:16].all()
    assert resample_series(Dwi(series.image, series.gtab), grid).mask is None
