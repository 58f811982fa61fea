"""Rotation of directions by a warp, place by place."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import Grid, PointMap, slabs

#: Step of the differences that give the Jacobian, mm.
STEP_MM = 1.0

#: Smallest determinant of a Jacobian that has a rotation: below, the warp folds or flattens.
LEAST_DETERMINANT = 1e-6

#: Share of the voxels in which a warp may fold.
MOST_FOLDED = 0.5


class LocalRotations(NamedTuple):
    """Rotations of directions by a warp.

    Attributes
    ----------
    vectors
        Shape (X, Y, Z, 3), float32: rotation vectors (axis times angle, rad, RAS+).
    n_folded
        Number of voxels that have no rotation, since the warp folds there: zero in `vectors`.
    """

    vectors: NDArray[np.float32]
    n_folded: int


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
) -> LocalRotations:
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
    LocalRotations
        To be applied after `mean`; zero outside the mask, and where the warp folds (determinant
        of the Jacobian below :data:`LEAST_DETERMINANT`), so that `mean` alone acts there.

    Raises
    ------
    ImageError
        If the warp folds in more than half of the mask.
    """
    vectors = np.zeros((*grid.shape, 3), dtype=np.float32)
    n_folded = 0
    for start, stop in slabs(grid.shape[2]):
        inside = mask[:, :, start:stop]
        points = grid.points(start, stop)[inside.ravel()]
        if not len(points):
            continue
        linear = jacobians(target2source, points)
        is_sound = np.linalg.det(linear) > LEAST_DETERMINANT
        # Any rotation will do for the others, which are left at zero.
        own = rotation_of_linear(np.where(is_sound[:, None, None], linear, np.eye(3)))
        beyond = Rotation.from_matrix(own @ np.linalg.inv(mean)).as_rotvec()
        vectors[:, :, start:stop][inside] = np.where(is_sound[:, None], beyond, 0.0)
        n_folded += int(np.sum(~is_sound))
    share = n_folded / max(1, int(mask.sum()))
    if share > MOST_FOLDED:
        raise ImageError(
            f"the warp to the template folds in {100 * share:.0f} % of the brain",
            expected=f"at most {100 * MOST_FOLDED:.0f} %",
            advice="look at the figure of the registration; an affine registration "
            "(--normalisation affine) cannot fold",
        )
    return LocalRotations(vectors, n_folded)
