"""Fibre assignment by continuous tracking (FACT), and the overlap of tracked voxels.

Method: Mori et al. 1999, https://doi.org/10.1002/1531-8249(199902)45:2<265::AID-ANA21>3.0.CO;2-3.
A streamline follows the main axis of the voxel that it is in, from border to border, without
interpolation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmri_fm.gradients import rotation_part
from dmri_fm.tensor_maps import TensorMaps

#: FA below which a streamline ends, and the largest turn between two voxels, degrees.
LEAST_FA, LARGEST_TURN_DEG = 0.2, 45.0

#: Voxels that a streamline may cross in one of its two directions.
MOST_VOXELS = 400

#: A step ends this far beyond a voxel's border, voxels.
_BEYOND = 1e-4


def count_streamlines(maps: TensorMaps) -> NDArray[np.int_]:
    """Return the number of streamlines that cross each voxel, (X, Y, Z).

    One starts in the middle of each voxel of FA above :data:`LEAST_FA`, in both directions.
    """
    allowed = maps.mask & (maps.fa > LEAST_FA)
    start = np.argwhere(allowed)
    # Streamlines run along the voxel axes; a voxel of unequal edges is a longer way.
    edges = np.linalg.norm(maps.affine[:3, :3], axis=0)
    axes = maps.v1.astype(np.float64) @ rotation_part(maps.affine) / edges
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True).clip(min=1e-12)
    n = len(start)
    first = axes[tuple(start.T)]
    visits = [np.column_stack([np.arange(n), np.ravel_multi_index(start.T, allowed.shape)])]
    for sign in (1.0, -1.0):
        visits += _follow(axes, allowed, start, sign * first, edges)
    pairs = np.unique(np.concatenate(visits), axis=0)
    counts = np.bincount(pairs[:, 1], minlength=allowed.size)
    return counts.reshape(allowed.shape)


def _follow(
    axes: NDArray[np.float64],
    allowed: NDArray[np.bool_],
    start: NDArray[np.int_],
    direction: NDArray[np.float64],
    edges: NDArray[np.float64],
) -> list[NDArray[np.int_]]:
    """Follow streamlines in one direction; return (streamline, flat voxel) of each step."""
    least = np.cos(np.deg2rad(LARGEST_TURN_DEG))
    number, voxel = np.arange(len(start)), start
    point, heading = start.astype(np.float64), direction
    visits: list[NDArray[np.int_]] = []
    for _ in range(MOST_VOXELS):
        # The way to the nearest border of the voxel along the heading.
        with np.errstate(divide="ignore", invalid="ignore"):
            ways = (voxel + 0.5 * np.sign(heading) - point) / heading
        ways[heading == 0] = np.inf
        point = point + (ways.min(axis=1, keepdims=True) + _BEYOND) * heading
        voxel = np.rint(point).astype(int)
        inside = ((voxel >= 0) & (voxel < allowed.shape)).all(axis=1)
        inside[inside] = allowed[tuple(voxel[inside].T)]
        number, voxel, point = number[inside], voxel[inside], point[inside]
        heading = heading[inside]
        new = axes[tuple(voxel.T)]
        cosine = _cosine(new * edges, heading * edges)
        goes_on = np.abs(cosine) >= least
        visits.append(np.column_stack([number, np.ravel_multi_index(voxel.T, allowed.shape)]))
        number, voxel, point = number[goes_on], voxel[goes_on], point[goes_on]
        heading = (new * np.sign(cosine)[:, None])[goes_on]
        if not len(number):
            break
    return visits


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cosine of the angle between rows."""
    product = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / product.clip(min=1e-12))


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the Dice overlap of two masks; NaN if both are empty.

    Examples
    --------
    >>> dice(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    total = a.sum() + b.sum()
    return float(2 * (a & b).sum() / total) if total else float("nan")
