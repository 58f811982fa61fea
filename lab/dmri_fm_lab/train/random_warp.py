"""Random smooth warps of training scans, as registrations warp scans at use.

A warp moves signals and keeps their contrast. What differs between places is the direction that
a volume has there: the rotation of the warp's Jacobian turns it, as it turns the fibres.
"""

from __future__ import annotations

import numpy as np
import torch
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from dmri_fm.normalise.grid import Grid, PointMap
from dmri_fm.normalise.local_rotation import local_rotations
from dmri_fm.normalise.transforms import warp_map
from dmri_fm_lab.simulate.fields import smooth_fields

#: Distance of the control points of a random warp, mm.
SPACING_MM = (20.0, 50.0)

#: Largest deviation of the displacements along an axis, as a share of that distance.
MOST_DISPLACEMENT = 0.12

#: Voxels of the grid on which displacements and rotations are computed: both vary slowly.
COARSE_MM = 8.0


def draw_warp(rng: np.random.Generator, grid: Grid) -> PointMap:
    """Draw a warp on a grid: cubic B-splines of random spacing and size.

    The deviation of the displacements is uniform from none to :data:`MOST_DISPLACEMENT` of the
    distance of the control points.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    spacing_mm = float(rng.uniform(*SPACING_MM))
    deviation_mm = float(rng.uniform(0.0, MOST_DISPLACEMENT)) * spacing_mm
    coarse, _ = _coarsen(grid)
    spacing = torch.tensor(spacing_mm / coarse.voxel_size_mm, dtype=torch.float32)
    field = smooth_fields(generator, coarse.shape, spacing=spacing[None], n_channels=3)[0]
    return warp_map(deviation_mm * np.moveaxis(field.numpy(), 0, 3), coarse)


def source_voxels(
    target2source: PointMap, grid: Grid, voxels: NDArray[np.int_]
) -> NDArray[np.int_]:
    """Return the voxels nearest to where a warp takes voxels (..., 3) of its grid.

    Some may lie outside the grid. Signals are not interpolated, so that noise keeps its level.
    """
    moved = target2source(apply_affine(grid.affine, voxels.reshape(-1, 3)))
    source = np.rint(apply_affine(np.linalg.inv(grid.affine), moved)).astype(int)
    return np.asarray(source.reshape(voxels.shape))


def warp_rotations(
    target2source: PointMap, grid: Grid, mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return how a warp turns directions, as :func:`.local_rotations` does at use.

    Parameters
    ----------
    target2source
        Takes points of the grid to points of the scan, RAS+ mm.
    grid
        Of the result.
    mask
        Shape (X, Y, Z): where rotations are wanted.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, 3), float32: rotation vectors, rad, RAS+, constant over blocks of
        :data:`COARSE_MM`; zero in blocks outside the mask.
    """
    coarse, side = _coarsen(grid)
    wanted = np.zeros(coarse.shape, dtype=bool)
    wanted[tuple(np.argwhere(mask).T // side)] = True
    turns = local_rotations(target2source, coarse, wanted, np.eye(3)).vectors
    for axis, n in enumerate(grid.shape):
        turns = turns.repeat(side, axis=axis).take(np.arange(n), axis=axis)
    return turns


def _coarsen(grid: Grid) -> tuple[Grid, int]:
    """Return the grid of blocks of voxels of about :data:`COARSE_MM`, and their side, voxels."""
    side = max(1, round(COARSE_MM / float(grid.voxel_size_mm.min())))
    affine = grid.affine.copy()
    affine[:3, :3] *= side
    affine[:3, 3] = apply_affine(grid.affine, np.full(3, (side - 1) / 2))
    x, y, z = (-(-n // side) for n in grid.shape)
    return Grid((x, y, z), affine), side
