"""Weighted least squares of the logarithm of the signal, voxel by voxel, as matrices.

:func:`~dmri_fm.tensor.fit_tensor` is faster and gives the tensor alone; iteration and bootstrap
need the weights and the inverse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmri_fm.gradients import GradientTable
from dmri_fm.tensor_design import design_matrix


def log_design(gtab: GradientTable) -> NDArray[np.float64]:
    """Return the design in ms/um^2 and a column of ones, (N, 7)."""
    design: NDArray[np.float64] = design_matrix(gtab) / np.array([1000.0] * 6 + [1.0])
    return design


def weighted_inverse(
    design: NDArray[np.float64], predicted: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the matrices from logarithms of signals to coefficients, and the weights.

    Parameters
    ----------
    design
        Shape (N, 7).
    predicted
        Shape (M, N): logarithms of signals. The weights are the squares of these signals over the
        largest of each voxel.

    Returns
    -------
    inverse, weight : ndarray
        Shapes (M, 7, N) and (M, N).
    """
    weight = np.exp(2 * (predicted - predicted.max(axis=1, keepdims=True)))
    weighted = design.T[None] * weight[:, None]
    # A ridge far below rounding keeps voxels without signal from stopping the others.
    normal = weighted @ design + 1e-12 * np.eye(7)
    return np.linalg.solve(normal, weighted), weight
