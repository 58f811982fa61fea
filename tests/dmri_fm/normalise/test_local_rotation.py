from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import Grid, PointMap, affine_map, compose
from dmri_fm.normalise.local_rotation import jacobians, local_rotations, rotation_of_linear
from dmri_fm.normalise.series import mean_rotation

GRID = Grid(
    (20, 22, 18), np.diag([2.0, 2.0, 2.0, 1.0]) - np.array([[0, 0, 0, 20]] * 3 + [[0] * 4])
)


def swirl(points: np.ndarray) -> np.ndarray:
    """Turn points about z by an angle that falls with z alone: planes turn as wholes."""
    angle = 0.02 * points[:, 2]
    x, y, z = points.T
    return np.stack(
        [np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y, z], axis=1
    )


def test_jacobians_of_a_linear_map_are_its_matrix() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] += 0.3 * np.random.default_rng(0).normal(size=(3, 3))
    found = jacobians(affine_map(matrix), GRID.points()[:5])
    np.testing.assert_allclose(found, np.tile(matrix[:3, :3], (5, 1, 1)), atol=1e-9)


def test_on_the_axis_of_a_swirl_directions_turn_back_by_its_angle() -> None:
    # There the warp is a rotation from target to source; directions turn the other way.
    points = np.array([[0.0, 0.0, z] for z in (-10.0, 5.0, 15.0)])
    turns = Rotation.from_matrix(rotation_of_linear(jacobians(swirl, points))).as_rotvec()
    np.testing.assert_allclose(turns, [[0, 0, -0.02 * z] for z in (-10.0, 5.0, 15.0)], atol=1e-5)


@pytest.mark.parametrize("k", [0.1, 0.6])
def test_a_shear_turns_directions_by_half_its_slope(k: float) -> None:
    # Polar decomposition of [[1, 2k], [0, 1]]: a rotation by arctan k.
    shear = np.eye(3)
    shear[0, 1] = 2 * k
    turn = Rotation.from_matrix(rotation_of_linear(np.linalg.inv(shear))).as_rotvec()
    np.testing.assert_allclose(turn, [0, 0, -np.arctan(k)], atol=1e-9)


def test_what_the_table_has_turned_is_not_turned_again() -> None:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec([0.1, -0.2, 0.3]).as_matrix()
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[4:8, 5:9, 6:9] = True
    mean = np.linalg.inv(matrix[:3, :3])
    turns = local_rotations(affine_map(matrix), GRID, mask, mean)
    np.testing.assert_allclose(turns.vectors, 0, atol=1e-6)
    assert turns.n_folded == 0


def test_the_turn_of_the_gradient_table_leaves_nothing_of_an_affine_map() -> None:
    matrix = np.eye(4)
    turn = Rotation.from_rotvec([0.2, -0.3, 0.4]).as_matrix()
    matrix[:3, :3] = turn @ np.diag([1.1, 0.9, 1.05])
    mask = np.ones(GRID.shape, dtype=bool)
    mean = mean_rotation(affine_map(matrix), GRID, mask)
    turns = local_rotations(affine_map(matrix), GRID, mask, mean)
    np.testing.assert_allclose(turns.vectors, 0, atol=1e-6)


def test_rotations_are_those_of_each_voxel() -> None:
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[10, 10, :] = True  # x = y = 0
    turns, _ = local_rotations(swirl, GRID, mask, np.eye(3))
    z = GRID.points().reshape(*GRID.shape, 3)[10, 10, :, 2]
    np.testing.assert_allclose(turns[10, 10, :, 2], -0.02 * z, atol=1e-4)
    assert not turns[~mask].any()


def fold(*, below_x_mm: float, slope: float) -> PointMap:
    """Return a map that runs backwards along x (slope below 0) or stops (0) below a plane."""

    def apply(points: np.ndarray) -> np.ndarray:
        x = points[:, 0]
        moved = points.copy()
        moved[:, 0] = np.where(x < below_x_mm, below_x_mm + slope * (x - below_x_mm), x)
        return moved

    return apply


@pytest.mark.parametrize("slope", [-1.0, -0.3, 0.0])
def test_where_a_warp_folds_the_mean_rotation_stands(slope: float) -> None:
    """A fold is a reflection, a flat place has no inverse: neither is a rotation."""
    mask = np.zeros(GRID.shape, dtype=bool)
    mask[2:18, 5:15, 3:15] = True
    # Voxels lie 2 mm apart, differences reach 1 mm: no Jacobian mixes both sides of the plane.
    x = GRID.points().reshape(*GRID.shape, 3)[..., 0]
    is_folded = mask & (x < -9.0)
    warp = compose(fold(below_x_mm=-9.0, slope=slope), swirl)
    mean = Rotation.from_rotvec([0.0, 0.0, 0.1]).as_matrix()
    turns = local_rotations(warp, GRID, mask, mean)
    assert turns.n_folded == is_folded.sum() > 0
    assert not turns.vectors[is_folded | ~mask].any()
    plain = local_rotations(swirl, GRID, mask, mean).vectors
    is_sound = mask & ~is_folded
    np.testing.assert_array_equal(turns.vectors[is_sound], plain[is_sound])
    assert turns.vectors[is_sound].any(axis=1).all()


def test_a_warp_that_folds_in_most_of_the_brain_is_refused() -> None:
    mask = np.ones(GRID.shape, dtype=bool)
    with pytest.raises(ImageError, match="folds in 75 % of the brain"):
        local_rotations(fold(below_x_mm=9.0, slope=-1.0), GRID, mask, np.eye(3))
