"""Pose of a volume: head rotation and translation, and the linear part of its eddy currents.

A pose is fifteen numbers, in scanner space, RAS+::

    p = c + t + E R (x - c)

takes a point x of the b=0 reference to the point p of the volume, c being a fixed centre, t a
translation (mm), R a rotation by Euler angles (rad, about x, then y, then z), and E = I + G the
linear stretching and shearing by eddy currents: G[a, b] is the displacement along scanner axis
a per mm along b. Eddy currents displace along phase encoding only, so G = e g^T with e that
direction; three of the nine numbers are free where phase encoding is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

PoseFreedom = Literal["rigid", "eddy", "affine"]

#: Names of the fifteen numbers, in order: mm, rad, mm per mm.
POSE_NAMES = (
    *(f"trans_{a}" for a in "xyz"),
    *(f"rot_{a}" for a in "xyz"),
    *(f"eddy_{a}{b}" for a in "xyz" for b in "xyz"),
)

#: Radius of the sphere on which rotations become mm (Power et al. 2012,
#: doi:10.1016/j.neuroimage.2011.10.018).
HEAD_RADIUS_MM = 50.0

#: Largest plausible pose: beyond it, the registration of a volume was lost.
LARGEST_TRANSLATION_MM, LARGEST_ROTATION_RAD, LARGEST_EDDY = 20.0, np.deg2rad(15.0), 0.1


def pose_rotation(pose: ArrayLike) -> NDArray[np.float64]:
    """Return how a pose turns the head, shape (3, 3), RAS+; eddy currents turn nothing."""
    numbers = np.asarray(pose, dtype=np.float64)
    return np.asarray(Rotation.from_euler("xyz", numbers[3:6]).as_matrix())


def pose_matrix(pose: ArrayLike, *, centre_mm: ArrayLike) -> NDArray[np.float64]:
    """Return the pull matrix of a pose.

    Parameters
    ----------
    pose
        Shape (15,), in the order of :data:`POSE_NAMES`.
    centre_mm
        Shape (3,), RAS+ mm.

    Returns
    -------
    ndarray
        Shape (4, 4), RAS+ mm, reference points to volume points.

    Examples
    --------
    >>> pose = np.zeros(15)
    >>> pose[0] = 2.0
    >>> pose_matrix(pose, centre_mm=[0, 0, 0])[0].tolist()
    [1.0, 0.0, 0.0, 2.0]
    """
    numbers = np.asarray(pose, dtype=np.float64)
    centre = np.asarray(centre_mm, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) + numbers[6:].reshape(3, 3)) @ pose_rotation(numbers)
    matrix[:3, 3] = centre + numbers[:3] - matrix[:3, :3] @ centre
    return matrix


def pose_from_matrix(
    matrix: ArrayLike, *, centre_mm: ArrayLike, encoding: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Split a pull matrix into a pose; inverse of :func:`pose_matrix`.

    Parameters
    ----------
    matrix
        Shape (4, 4), RAS+ mm, invertible.
    centre_mm
        Shape (3,), RAS+ mm.
    encoding
        Shape (3,), unit vector of phase encoding: the deformation is then taken to act along
        it only, if such a split exists. Otherwise, and without it, the deformation is the
        symmetric factor of the polar decomposition.

    Returns
    -------
    ndarray
        Shape (15,).
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    centre = np.asarray(centre_mm, dtype=np.float64)
    linear = matrix[:3, :3]
    left, _, right = np.linalg.svd(linear)
    rotation = left @ right
    if encoding is not None:
        e = np.asarray(encoding, dtype=np.float64)
        # Rows across e belong to the rotation alone: find R whose rows they are.
        across = np.linalg.svd(e[None])[2][1:]
        rows = across @ linear
        if np.allclose(rows @ rows.T, np.eye(2), atol=1e-4):
            u, _, v = np.linalg.svd(rows)
            rows = u @ v[:2]
            third = np.cross(rows[0], rows[1]) * np.linalg.det(np.vstack([across, e]))
            rotation = np.vstack([across, e]).T @ np.vstack([rows, third])
    pose = np.zeros(15)
    pose[:3] = linear @ centre + matrix[:3, 3] - centre
    pose[3:6] = Rotation.from_matrix(rotation).as_euler("xyz")
    pose[6:] = (linear @ rotation.T - np.eye(3)).ravel()
    return pose


def pose_tangent(
    freedom: PoseFreedom, *, encoding: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Return the directions in which a pose may move.

    Parameters
    ----------
    freedom
        "rigid"; "eddy": rigid and a displacement along phase encoding that is linear in
        space; "affine": rigid and any symmetric deformation.
    encoding
        Shape (3,), unit vector of phase encoding, RAS+; needed by "eddy".

    Returns
    -------
    ndarray
        Shape (15, 6), (15, 9) or (15, 12).
    """
    rigid = np.eye(len(POSE_NAMES))[:, :6]
    if freedom == "rigid":
        return rigid
    deformations: list[NDArray[np.float64]] = []
    if freedom == "eddy":
        e = np.asarray(encoding, dtype=np.float64)
        deformations = [np.outer(e, axis) for axis in np.eye(3)]
    else:
        for a in range(3):
            for b in range(a, 3):
                g = np.zeros((3, 3))
                g[a, b] = g[b, a] = 1.0
                deformations.append(g)
    columns = np.zeros((len(POSE_NAMES), len(deformations)))
    for k, g in enumerate(deformations):
        columns[6:15, k] = g.ravel()
    return np.hstack([rigid, columns])


def is_plausible(pose: ArrayLike) -> bool:
    """Tell a pose a head in a scanner can have from a registration that was lost."""
    numbers = np.asarray(pose, dtype=np.float64)
    return bool(
        np.isfinite(numbers).all()
        and np.linalg.norm(numbers[:3]) <= LARGEST_TRANSLATION_MM
        and np.abs(numbers[3:6]).max() <= LARGEST_ROTATION_RAD
        and np.abs(numbers[6:]).max() <= LARGEST_EDDY
    )


def framewise_displacement(
    poses: ArrayLike, *, starts: Sequence[int] = (0,)
) -> NDArray[np.float64]:
    """Return the framewise displacement of a series.

    Parameters
    ----------
    poses
        Shape (N, 6 or more): translations in mm, rotations in rad.
    starts
        Volumes without a predecessor: the first of each run.

    Returns
    -------
    ndarray
        Shape (N,), mm: the sum of the absolute changes of the six numbers, rotations as arcs
        on a sphere of 50 mm. NaN at the starts.

    Examples
    --------
    >>> framewise_displacement([[0] * 6, [1, 0, 0, 0, 0, 0.02]]).tolist()
    [nan, 2.0]
    """
    numbers = np.asarray(poses, dtype=np.float64)[:, :6] * ([1.0] * 3 + [HEAD_RADIUS_MM] * 3)
    out = np.full(len(numbers), np.nan)
    out[1:] = np.abs(np.diff(numbers, axis=0)).sum(axis=1)
    out[[s for s in starts if s < len(out)]] = np.nan
    return out
