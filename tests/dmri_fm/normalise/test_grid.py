"""Grids and the one resampling: laws."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from dmri_fm.distortion import FieldShift
from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import (
    Grid,
    affine_map,
    compose,
    linear_part,
    resample_image,
)
from dmri_fm.normalise.series import resample_dwi
from dmri_fm.registry import feature_grid
from dmri_fm.series import Dwi

AFFINES = {
    "LAS": np.diag([-2.0, 2.0, 2.5, 1.0]),
    "RAS": np.diag([2.0, 2.0, 2.5, 1.0]),
    "sagittal": np.array([[0, 0, 2.5, 0], [2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1.0]]),
}


def smooth(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return a smooth positive image."""
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.normal(size=shape[:3]), 2.0)
    return (100 + 400 * image / np.abs(image).max()).clip(1).astype(np.float32)


def rigid(turn_deg: float, shift: tuple[float, float, float]) -> np.ndarray:
    """Return a rigid matrix about x, y and z alike."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.deg2rad(turn_deg) * np.ones(3) / 3**0.5).as_matrix()
    matrix[:3, 3] = shift
    return matrix


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("order", [1, 3])
def test_own_grid_returns_the_image(affine: np.ndarray, order: int) -> None:
    image = smooth((12, 14, 10))
    out = resample_image(image, affine, Grid((12, 14, 10), affine), order=order)
    np.testing.assert_allclose(out, image, rtol=1e-4)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_storage_does_not_matter(affine: np.ndarray) -> None:
    # The same function of space, sampled in any storage, gives the same image on a grid.
    def scene(points: np.ndarray) -> np.ndarray:
        return 100 + 10 * np.sin(points[:, 0] / 9) + 8 * np.cos(points[:, 1] / 7) + points[:, 2]

    shape = (24, 24, 24)
    centred = affine.copy()
    centred[:3, 3] = -affine[:3, :3] @ np.full(3, 11.5)
    source = Grid(shape, centred)
    image = scene(source.points()).reshape(shape)
    target = Grid.isotropic(2.0, low=[-12, -12, -12], high=[12, 12, 12])
    out = resample_image(image, centred, target, order=3)
    # Cubic splines on a wavelength of 20 voxels and more: well below a percent of the contrast.
    np.testing.assert_allclose(out.ravel(), scene(target.points()), atol=0.05)


def dwi_of(data: np.ndarray, affine: np.ndarray) -> Dwi:
    n = data.shape[3]
    return Dwi.from_arrays(data, affine, GradientTable(np.zeros(n), np.zeros((n, 3))))


def test_series_and_image_agree_through_a_chain() -> None:
    image = smooth((16, 16, 12))
    affine = AFFINES["LAS"]
    move, turn = rigid(5, (1, -2, 0.5)), rigid(-3, (0, 1, 1))
    target = Grid((14, 14, 10), affine)
    series = resample_dwi(
        dwi_of(image[..., None], affine),
        target,
        target2dwiref=affine_map(turn),
        xfms=move[None],
    )
    chained = resample_image(
        image, affine, target, target2source=compose(affine_map(turn), affine_map(move)), order=3
    )
    found = np.nan_to_num(series[..., 0])
    np.testing.assert_allclose(found, chained.clip(0), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("sign", [1, -1])
def test_distortion_is_undone(sign: int) -> None:
    """The signal of voxel y lies at y + sign * hz * readout; reading there brings it back."""
    shape, affine, readout_s = (8, 60, 6), AFFINES["LAS"], 0.05
    y = np.arange(60.0)
    truth = 100 * np.exp(-0.5 * ((y - 28) / 6) ** 2)
    hz = 40 * np.exp(-0.5 * ((y - 30) / 12) ** 2)
    shift = sign * hz * readout_s
    # Signal is conserved: what lies in [y, y + 1] goes to [y + shift(y), ...].
    place = y + shift
    density = truth / np.gradient(place)
    distorted = np.interp(y, place, density)
    series = np.broadcast_to(distorted[None, :, None, None], (*shape, 1))
    field = np.broadcast_to(hz[None, :, None], shape)
    out = resample_dwi(
        dwi_of(series, affine),
        Grid(shape, affine),
        field_hz=field,
        shifts=[FieldShift(1, sign * readout_s)],
    )
    # Linear interpolation of the distorted profile costs about a percent of the peak.
    np.testing.assert_allclose(out[4, 5:55, 3, 0], truth[5:55], atol=1.5)


def test_threads_do_not_change_the_result() -> None:
    rng = np.random.default_rng(1)
    data = rng.uniform(1, 2, (10, 10, 8, 5)).astype(np.float32)
    moves = np.stack([rigid(i, (0.1 * i, 0, 0)) for i in range(5)])
    grid = Grid((10, 10, 8), AFFINES["RAS"])
    one, four = (
        resample_dwi(dwi_of(data, AFFINES["RAS"]), grid, xfms=moves, n_threads=n) for n in (1, 4)
    )
    np.testing.assert_array_equal(one, four)


def test_nothing_is_negative_and_outside_is_nan() -> None:
    rng = np.random.default_rng(2)
    data = (rng.uniform(size=(10, 10, 8, 1)) > 0.5).astype(np.float32)
    wide = Grid.isotropic(2.0, low=[-30, -30, -30], high=[40, 40, 40])
    out = resample_dwi(dwi_of(data, AFFINES["RAS"]), wide)
    assert np.nanmin(out) == 0.0
    assert np.isnan(out[0, 0, 0, 0])
    assert resample_image(data, AFFINES["RAS"], wide)[0, 0, 0, 0] == 0.0


def test_image_reaches_half_a_voxel_beyond_its_outermost_centres() -> None:
    data = np.full((6, 6, 4, 1), 7.0, np.float32)
    for shift, is_seen in ((0.45, True), (0.55, False)):
        move = np.eye(4)
        move[2, 3] = -shift * 3.0
        affine = np.diag([2.0, 2.0, 3.0, 1.0])
        out = resample_dwi(dwi_of(data, affine), Grid((6, 6, 4), affine), xfms=move[None])[..., 0]
        assert np.isfinite(out[..., 0]).all() == is_seen
        np.testing.assert_allclose(out[..., 1:], 7.0, rtol=1e-5)
        if is_seen:
            np.testing.assert_allclose(out[..., 0], 7.0, rtol=1e-5)


def test_linear_part_of_an_affine_is_itself() -> None:
    matrix = rigid(20, (3, 4, 5))
    matrix[:3, :3] *= 1.1
    points = np.random.default_rng(0).normal(size=(50, 3)) * 30
    np.testing.assert_allclose(linear_part(affine_map(matrix), points), matrix, atol=1e-10)


def test_model_grids_cover_the_same_box() -> None:
    edges = []
    for grid in (feature_grid("drope-paper"), feature_grid("drope")):
        half = np.full(3, 0.5)
        low = apply_affine(grid.affine, -half)
        high = apply_affine(grid.affine, np.array(grid.shape) - half)
        edges.append((low, high))
    np.testing.assert_allclose(edges[0], edges[1])
    assert feature_grid("drope-paper").shape == (192, 224, 192)
    assert feature_grid("drope").shape == (96, 112, 96)


def test_grid_refuses_nonsense() -> None:
    with pytest.raises(ImageError, match="grid of shape"):
        Grid((0, 2, 2), np.eye(4))
