"""Brain of a series, the voxels that networks read: its mask, or the voxels with signal."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm.series import Dwi

logger = logging.getLogger(__name__)

#: Without a mask, voxels whose b=0 signal is above this share of its 98th percentile count.
SIGNAL_SHARE = 0.1

#: Share of the template's brain that may lie outside the mask, for features of the whole brain.
MOST_MISSING = 0.5


def find_brain(dwi: Dwi, mask: ArrayLike | None = None) -> NDArray[np.bool_]:
    """Return the brain, shape (X, Y, Z): `mask`, the series' own mask, or voxels with signal.

    Raises
    ------
    ImageError
        If the mask is empty or on another grid.
    GradientError
        If there is no mask and no b=0 volume.
    """
    inside = dwi.mask if mask is None else np.asarray(mask) > 0
    if inside is None:
        b0 = dwi.mean_b0()
        inside = b0 > SIGNAL_SHARE * np.percentile(b0, 98)
        logger.warning("no brain mask: every voxel with b=0 signal counts as brain")
    if inside.shape != dwi.shape[:3] or not inside.any():
        raise ImageError(
            f"mask of shape {inside.shape} with {int(inside.sum())} voxels",
            expected=f"some voxels on the series' grid, {dwi.shape[:3]}",
        )
    return inside


def require_template_brain(missing: float) -> None:
    """Raise ImageError if more of the template's brain than :data:`MOST_MISSING` is missing."""
    if missing > MOST_MISSING:
        raise ImageError(
            f"{100 * missing:.0f} % of the template's brain lies outside the mask",
            expected=f"{100 * (1 - MOST_MISSING):.0f} % of the brain or more",
        )
