"""Whether two images have one grid and one head pose."""

from __future__ import annotations

import numpy as np

from dmri_fm.gradients import rotation_part
from dmri_fm_workflows.bids.records import EpiImage

#: Largest rotation between the grids of one head pose, degrees.
POSE_ROTATION_DEG = 1.0

#: Largest distance between the centres of the grids of one head pose, mm.
POSE_SHIFT_MM = 5.0

#: Largest difference between the voxel edges of one grid, mm.
_EDGE_TOLERANCE_MM = 0.01


def has_same_pose(one: EpiImage, other: EpiImage) -> bool:
    """Tell whether two images have one grid and one head pose.

    The same number and size of voxels, axes within :data:`POSE_ROTATION_DEG` and centres within
    :data:`POSE_SHIFT_MM`: smaller differences are head motion, which is corrected anyway.
    """
    return pose_difference(one, other) is None


def pose_difference(one: EpiImage, other: EpiImage) -> str | None:
    """Return the difference in grid or head pose of an image from another, in words.

    Returns
    -------
    str or None
        Difference of `one` from `other`; None if both have one grid and one pose.
    """
    if one.shape[:3] != other.shape[:3]:
        actual, wanted = (" x ".join(map(str, i.shape[:3])) for i in (one, other))
        return f"it has another grid, {actual} voxels in place of {wanted}"
    edges, other_edges = (np.linalg.norm(i.affine[:3, :3], axis=0) for i in (one, other))
    if not np.allclose(edges, other_edges, rtol=0, atol=_EDGE_TOLERANCE_MM):
        actual, wanted = (" x ".join(f"{e:.4g}" for e in size) for size in (edges, other_edges))
        return f"it has another grid, voxels of {actual} mm in place of {wanted} mm"
    turn = rotation_part(one.affine).T @ rotation_part(other.affine)
    if np.linalg.det(turn) <= 0:
        return "it is stored as the mirror image"
    degrees = float(np.rad2deg(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
    if degrees > POSE_ROTATION_DEG:
        return f"it shows another head pose, turned by {degrees:.1f} degrees"
    centre = np.array([*((n - 1) / 2 for n in one.shape[:3]), 1.0])
    shift = float(np.linalg.norm((one.affine - other.affine) @ centre))
    if shift > POSE_SHIFT_MM:
        return f"it shows another head pose, {shift:.1f} mm away"
    return None
