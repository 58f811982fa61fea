"""Diffusion space as the transformer reads it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmri_fm.gradients import GradientTable

__all__ = ["to_qspace"]


def to_qspace(gtab: GradientTable) -> NDArray[np.float32]:
    """Return spherical coordinates of every volume.

    Parameters
    ----------
    gtab
        Table in the frame of the image it belongs to, RAS+ axes.

    Returns
    -------
    ndarray
        Shape (N, 3), float32: rho = b / 1000 in ms/um^2, theta = arccos(gz) and
        phi = atan2(gy, gx) in rad. Zeros for b=0.

    References
    ----------
    Chau Loo Kung et al. 2026, arXiv:2603.25977.

    Examples
    --------
    >>> to_qspace(GradientTable([0, 2000], [[0, 0, 0], [0, 1, 0]])).round(4).tolist()
    [[0.0, 0.0, 0.0], [2.0, 1.5707999467849731, 1.5707999467849731]]
    """
    x, y, z = gtab.bvecs_ras.T
    coordinates = np.stack([gtab.bvals / 1000.0, np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)])
    coordinates[:, gtab.is_b0] = 0.0
    return coordinates.T.astype(np.float32)
