"""Transform files read back, and mean to ANTs and nitransforms what they mean to us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine
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


# Points, by every reader


def storage(*columns: tuple[float, float, float]) -> np.ndarray:
    """Return the affine whose voxel axes point and reach as given, mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(columns)
    affine[:3, 3] = [12.0, -31.0, 7.0]
    return affine


TILT = Rotation.from_euler("xyz", [11, -19, 14], degrees=True).as_matrix()
STORAGES = {
    "RAS": storage((2, 0, 0), (0, 2.5, 0), (0, 0, 3)),
    "LAS": storage((-2, 0, 0), (0, 2.5, 0), (0, 0, 3)),
    "sagittal": storage((0, -2, 0), (0, 0, -2.5), (3, 0, 0)),
    "oblique LAS": storage(*(TILT @ np.diag([-2, 2.5, 3])).T),
}
every_storage = pytest.mark.parametrize(
    "affine", [pytest.param(a, id=name) for name, a in STORAGES.items()]
)
SHAPE = (14, 13, 12)
LPS = np.array([-1.0, -1.0, 1.0])

#: What no reader may differ by, mm.
AGREEMENT_MM = 0.01


def mapped_by_ants(path: Path, points: np.ndarray) -> np.ndarray:
    """Map RAS+ points by ITK, which speaks LPS+."""
    import ants

    transform = ants.read_transform(str(path))
    moved = [ants.apply_ants_transform_to_point(transform, tuple(p)) for p in points * LPS]
    return np.array(moved) * LPS


def mapped_by_nitransforms(path: Path, points: np.ndarray) -> np.ndarray:
    from nitransforms import linear, manip

    load = manip.load if path.suffix == ".h5" else linear.load
    return np.asarray(load(str(path), fmt="itk").map(points))


def stretched() -> np.ndarray:
    """A pull matrix of no symmetry: wrong order, direction or frame all show."""
    pull = matrix()
    pull[:3, :3] @= np.array([[1.1, 0.06, 0], [0, 0.92, -0.03], [0, 0, 1.0]])
    return pull


@every_storage
@pytest.mark.parametrize("ending", [".txt", ".mat"])
def test_affine_takes_points_alike_in_every_reader(
    tmp_path: Path, affine: np.ndarray, ending: str
) -> None:
    """The head from another corner of the scanner: the image's storage must not matter."""
    pull = np.linalg.inv(affine) @ stretched() @ affine
    voxels = np.random.default_rng(1).uniform(-20, 60, (40, 3))
    points = apply_affine(affine, voxels)
    there = write_affine(pull, tmp_path / f"from-A_to-B_xfm{ending}")
    back = write_affine(np.linalg.inv(pull), tmp_path / f"from-B_to-A_xfm{ending}")
    expected = apply_affine(pull, points)
    for read in (mapped_by_ants, mapped_by_nitransforms, lambda f, p: read_point_map(f)(p)):
        np.testing.assert_allclose(read(there, points), expected, atol=AGREEMENT_MM)
        np.testing.assert_allclose(read(back, expected), points, atol=AGREEMENT_MM)


@every_storage
def test_warp_takes_points_alike_in_every_reader(tmp_path: Path, affine: np.ndarray) -> None:
    grid = Grid(SHAPE, affine)
    x, y, z = np.moveaxis(grid.points().reshape(*SHAPE, 3), -1, 0)
    bent = np.stack([3 * np.sin(y / 15), 0.2 * x - 4, 0.1 * z + np.cos(x / 9)], axis=-1)
    path = write_warp(bent, grid, tmp_path / "from-A_to-B_xfm.h5")
    rng = np.random.default_rng(2)
    between = apply_affine(affine, rng.uniform(0, np.array(SHAPE) - 1, (60, 3)))
    np.testing.assert_allclose(
        mapped_by_ants(path, between), read_point_map(path)(between), atol=AGREEMENT_MM
    )
    # Between voxels nitransforms takes cubic splines, ITK and we are linear.
    inside = rng.integers(0, SHAPE, (60, 3))
    points = apply_affine(affine, inside)
    expected = points + bent[tuple(inside.T)]
    for read in (mapped_by_ants, mapped_by_nitransforms, lambda f, p: read_point_map(f)(p)):
        np.testing.assert_allclose(read(path, points), expected, atol=AGREEMENT_MM)
