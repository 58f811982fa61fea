"""A series with its mask on another grid."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.distortion import PhaseEncoding, field_shifts
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid, affine_map
from dmri_fm.normalise.series import resample_dwi, resample_noise, resample_series
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


def turned(degrees, axis):
    """Return a 4 x 4 rotation."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(degrees) * np.eye(3)[axis]).as_matrix()
    return matrix


IMAGES = {
    "LAS": np.diag([-2.0, 2.0, 3.0, 1.0]),
    "oblique": turned(20, 0) @ turned(10, 2) @ np.diag([-2.0, 2.0, 2.0, 1.0]),
    "sagittal": np.array([[0, 0, 3.0, 0], [2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("affine", IMAGES.values(), ids=IMAGES)
def test_noise_map_is_the_deviation_of_resampled_noise(affine, order):
    rng = np.random.default_rng(0)
    shape, n_volumes = (28, 26, 24), 40
    centre = affine @ [13.5, 12.5, 11.5, 1]
    to_centre, back = np.eye(4), np.eye(4)
    to_centre[:3, 3], back[:3, 3] = -centre[:3], centre[:3]
    # Noise grows threefold along the first axis; a constant keeps it from being clipped at zero.
    sigma = np.broadcast_to(np.linspace(1, 3, shape[0])[:, None, None, None], (*shape, n_volumes))
    steady = np.full((*shape, n_volumes), 100.0, np.float32)
    noisy = steady + (sigma * rng.standard_normal(steady.shape)).astype(np.float32)
    gtab = GradientTable(np.zeros(n_volumes), np.zeros((n_volumes, 3)))
    x, y, z = np.indices(shape) - np.array(shape)[:, None, None, None] / 2
    chain = {
        "target2dwiref": affine_map(back @ turned(7, 1) @ to_centre),
        "xfms": [
            back @ turned(rng.normal(0, 2), k % 3) @ to_centre @ _shift(rng.normal(0, 1, 3))
            for k in range(n_volumes)
        ],
        "field_hz": 40 * np.exp(-(x**2 + y**2 + z**2) / 40),
        "shifts": field_shifts(
            [PhaseEncoding("j" if k % 2 else "j-", 0.05) for k in range(n_volumes)]
        ),
        "order": order,
    }
    grid = Grid((20, 20, 20), _shift(centre[:3] - 20) @ np.diag([2.0, 2, 2, 1]))
    series = Dwi.from_arrays(steady, affine, gtab)
    found = resample_noise(sigma, series, grid, **chain)
    flat = resample_dwi(series, grid, **chain)
    moved = resample_dwi(Dwi.from_arrays(noisy, affine, gtab), grid, **chain) - flat
    inside = np.isfinite(flat).all(axis=3)
    assert inside.sum() > 3000
    np.testing.assert_array_equal(found > 0, inside)
    measured = np.sqrt(np.square(moved).mean(axis=3))
    # The Jacobian of the field is part of it: it changes the level of single voxels by a half.
    assert np.ptp(flat[inside]) > 50
    for low, high in pairwise(np.quantile(found[inside], np.linspace(0, 1, 6))):
        some = inside & (found >= low) & (found <= high)
        expected = np.sqrt(np.square(found[some]).mean())
        # Some 600 voxels of 40 volumes, a few voxels of noise each: 1%.
        assert np.sqrt(np.square(measured[some]).mean()) == pytest.approx(expected, rel=0.03)


def _shift(offset):
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix
