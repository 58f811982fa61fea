"""Rotation of directions by a warp, place by place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.normalise.grid import Grid, PointMap, slabs

#: Step of the differences that give the Jacobian, mm.
STEP_MM = 1.0


def rotation_of_linear(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation of directions by linear maps from target to source.

    The rotation of the polar decomposition of the inverse (finite strain; Alexander et al. 2001,
    doi:10.1109/42.963816).

    Parameters
    ----------
    linear
        Shape (..., 3, 3), of points of the target to points of the source.

    Returns
    -------
    ndarray
        Shape (..., 3, 3): takes directions of the source to directions of the target.

    Examples
    --------
    A shear by 2 k turns directions by arctan k:

    >>> shear = np.eye(3); shear[0, 1] = -1.0
    >>> turn = rotation_of_linear(shear)
    >>> round(float(np.degrees(np.arctan2(turn[0, 1], turn[0, 0]))), 3) == round(float(
    ...     np.degrees(np.arctan(0.5))), 3)
    True
    """
    u, _, vt = np.linalg.svd(np.linalg.inv(linear))
    return np.asarray(u @ vt)


def jacobians(
    point_map: PointMap, points: NDArray[np.float64], *, step_mm: float = STEP_MM
) -> NDArray[np.float64]:
    """Return the Jacobians (M, 3, 3) of a map at points (M, 3), by central differences."""
    columns = []
    for axis in range(3):
        step = np.zeros(3)
        step[axis] = step_mm
        columns.append((point_map(points + step) - point_map(points - step)) / (2 * step_mm))
    return np.stack(columns, axis=2)


def local_rotations(
    target2source: PointMap, grid: Grid, mask: NDArray[np.bool_], mean: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return by how much directions turn at each voxel, beyond a mean rotation.

    Parameters
    ----------
    target2source
        Takes points of the target to points of the source, RAS+ mm.
    grid
        Of the target.
    mask
        Shape (X, Y, Z): where rotations are wanted.
    mean
        Shape (3, 3): rotation of directions from source to target that has been applied.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, 3), float32: rotation vectors (axis times angle, rad, RAS+) to be applied
        after `mean`; zero outside the mask.
    """
    turns = np.zeros((*grid.shape, 3), dtype=np.float32)
    for start, stop in slabs(grid.shape[2]):
        inside = mask[:, :, start:stop]
        points = grid.points(start, stop)[inside.ravel()]
        if not len(points):
            continue
        own = rotation_of_linear(jacobians(target2source, points))
        beyond = Rotation.from_matrix(own @ np.linalg.inv(mean)).as_rotvec()
        turns[:, :, start:stop][inside] = beyond.astype(np.float32)
    return turns
