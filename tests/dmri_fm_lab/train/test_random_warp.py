"""Random warps of training scans: signals move, directions turn with the fibres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import mni_box
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.train.random_warp import draw_warp, source_voxels, warp_rotations

GRID = mni_box((32, 40, 32), 6.0)


def test_a_turn_of_the_head_turns_all_directions_with_it() -> None:
    turn = Rotation.from_rotvec([0.0, 0.3, 0.0])
    rotations = warp_rotations(turn.inv().apply, GRID, np.ones(GRID.shape, dtype=bool))
    np.testing.assert_allclose(rotations, np.broadcast_to([0, 0.3, 0], rotations.shape), atol=1e-5)


def test_signals_are_those_of_the_turned_fibres_in_the_turned_directions() -> None:
    """A head whose fibres follow x = constant + twist is measured, then untwisted.

    Before, fibres lie along x in the plane z = 0 and turn with z; after, along x everywhere.
    """
    table = GradientTable(np.full(12, 1000.0), spread_directions(np.random.default_rng(0), 12))
    points = GRID.points().reshape(*GRID.shape, 3)
    x_axis = np.broadcast_to([1.0, 0.0, 0.0], points.reshape(-1, 3).shape)
    fibres = twist_of(points.reshape(-1, 3)).apply(x_axis).reshape(points.shape)
    volumes = np.exp(-1.5 * np.einsum("xyzi,ti->txyz", fibres, table.bvecs_ras) ** 2)
    # Near the axis the twist does not shear.
    near = np.hypot(points[..., 0], points[..., 1]) < 5
    source = source_voxels(lambda p: twist_of(p).apply(p), GRID, np.argwhere(near))
    rotations = warp_rotations(lambda p: twist_of(p).apply(p), GRID, near)
    turns = Rotation.from_rotvec(rotations[near]).as_matrix()
    told = np.einsum("vij,tj->tvi", turns, table.bvecs_ras)
    expected = np.exp(-1.5 * told[..., 0] ** 2)
    moved = volumes[:, *source.T]
    np.testing.assert_allclose(moved, expected, atol=0.02)
    by_the_table_alone = np.exp(-1.5 * table.bvecs_ras[:, :1] ** 2)
    assert np.abs(moved - by_the_table_alone).max() > 0.2


def twist_of(points: NDArray[np.float64]) -> Rotation:
    """Turn each plane about the z axis, by a quarter of a turn over 200 mm."""
    angle = np.pi / 2 * points[:, 2] / 200
    return Rotation.from_rotvec(angle[:, None] * [0.0, 0.0, 1.0])


def test_signals_come_from_where_the_warp_points() -> None:
    voxels = np.array([[[3, 4, 5], [31, 0, 0]]])
    source = source_voxels(lambda p: p + np.array([7.0, 0.0, -6.0]), GRID, voxels)
    np.testing.assert_array_equal(source, [[[4, 4, 4], [32, 0, -1]]])


def test_rotations_are_wanted_in_the_mask_alone() -> None:
    grid = mni_box((22, 20, 20), 2.0)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[5, 5, 5] = True
    turn = Rotation.from_rotvec([0.1, 0.0, 0.0])
    rotations = warp_rotations(turn.inv().apply, grid, mask)
    assert rotations.shape == (*grid.shape, 3)
    np.testing.assert_array_equal(np.argwhere(rotations[..., 0] > 0.09).min(axis=0), [4, 4, 4])
    np.testing.assert_array_equal(np.argwhere(rotations[..., 0]).max(axis=0), [7, 7, 7])


def test_random_warps_are_smooth_and_do_not_fold() -> None:
    points = GRID.points()
    sizes = []
    for seed in range(20):
        warp = draw_warp(np.random.default_rng(seed), GRID)
        steps = [(warp(points + e) - warp(points - e)) / 2 for e in np.eye(3)]
        assert np.linalg.det(np.stack(steps, axis=2)).min() > 0.05
        sizes.append(np.linalg.norm(warp(points) - points, axis=1).mean())
    assert min(sizes) < 2 < max(sizes) < 15
    again = draw_warp(np.random.default_rng(19), GRID)
    np.testing.assert_array_equal(again(points), warp(points))
