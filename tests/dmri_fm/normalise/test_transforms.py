"""Transform files read back, and mean to ANTs what they mean to us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter
from scipy.spatial.transform import Rotation

from dmri_fm.errors import InputError
from dmri_fm.normalise.grid import Grid, affine_map, resample_image
from dmri_fm.normalise.transforms import (
    read_affine,
    read_point_map,
    warp_map,
    write_affine,
    write_warp,
)
from dmri_fm.preprocess.alignment import to_ants_image

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])
GRID = Grid((24, 26, 22), np.array([[2, 0, 0, -40], [0, 2, 0, -10], [0, 0, 2, 3], [0, 0, 0, 1.0]]))


def head() -> np.ndarray:
    rng = np.random.default_rng(5)
    return (gaussian_filter(rng.normal(size=(26, 24, 22)), 2) + 1).astype(np.float32)


def matrix() -> np.ndarray:
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("xyz", [4, -7, 12], degrees=True).as_matrix()
    move[:3, 3] = [3.0, 25.0, -2.0]
    return move


def bend() -> np.ndarray:
    points = GRID.points().reshape(*GRID.shape, 3)
    move = np.stack(
        [3 * np.sin(points[..., 1] / 15), 0.2 * points[..., 0], -2 + 0 * points[..., 2]]
    )
    return np.moveaxis(move, 0, -1) + np.array([2.0, 15.0, 0.0])


def ants_result(path: Path) -> np.ndarray:
    import ants

    fixed = to_ants_image(np.zeros(GRID.shape, np.float32), GRID.affine)
    moving = to_ants_image(head(), AFFINE)
    return ants.apply_transforms(fixed, moving, [str(path)], interpolator="linear").numpy()


def assert_same_where_both_see(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Compare inside the field of view; at its very border ITK goes on for half a voxel."""
    both = binary_erosion((ours > 0) & (theirs > 0), iterations=2)
    assert both.mean() > 0.3
    np.testing.assert_allclose(ours[both], theirs[both], atol=2e-3)


def test_affine_comes_back(tmp_path: Path) -> None:
    path = write_affine(matrix(), tmp_path / "a.txt")
    np.testing.assert_allclose(read_affine(path), matrix(), atol=1e-6)


def test_affine_means_the_same_to_ants(tmp_path: Path) -> None:
    path = write_affine(matrix(), tmp_path / "a.txt")
    ours = resample_image(head(), AFFINE, GRID, target2source=affine_map(matrix()))
    assert_same_where_both_see(ours, ants_result(path))


def test_warp_comes_back_and_means_the_same_to_ants(tmp_path: Path) -> None:
    path = write_warp(bend(), GRID, tmp_path / "w.h5")
    points = GRID.points()[::37]
    np.testing.assert_allclose(
        read_point_map(path)(points), warp_map(bend(), GRID)(points), atol=1e-3
    )
    ours = resample_image(head(), AFFINE, GRID, target2source=warp_map(bend(), GRID))
    assert_same_where_both_see(ours, ants_result(path))


def test_same_warp_same_bytes(tmp_path: Path) -> None:
    first, second = (write_warp(bend(), GRID, tmp_path / f"{n}.h5").read_bytes() for n in "ab")
    assert first == second


def test_file_with_two_transforms_is_refused(tmp_path: Path) -> None:
    import h5py

    path = write_warp(bend(), GRID, tmp_path / "w.h5")
    with h5py.File(path, "a") as file:
        file.copy(file["TransformGroup/1"], file["TransformGroup"], name="2")
    with pytest.raises(InputError, match="2 transforms"):
        read_point_map(path)
