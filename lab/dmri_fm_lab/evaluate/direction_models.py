"""Models of the signal over directions that predict measurements from others in the voxel.

Each is linear in the signal: its weights depend on the gradients, and on hyperparameters that
are fitted to all voxels together, so that a prediction is one matrix product.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmri_fm.gaussian_process import mean_weights, nearest_shells
from dmri_fm.gradients import GradientTable
from dmri_fm.shell_resampling import harmonics

_Array = NDArray[np.float64]

#: Even orders of spherical harmonics, and how many functions there are up to each.
ORDERS = {0: 1, 2: 6, 4: 15, 6: 28, 8: 45}

#: Strengths of the Laplace-Beltrami penalty among which cross-validation chooses.
PENALTIES = (1e-4, 1e-3, 6e-3, 2e-2, 6e-2, 0.2, 0.6)


def shell_means(signal: _Array, kept: GradientTable, wanted: GradientTable) -> _Array:
    """Predict (V, H) from (V, K) by :func:`mean_weights`, as :func:`predict_harmonics` does."""
    return np.asarray(signal @ mean_weights(kept, wanted))


def predict_harmonics(signal: _Array, kept: GradientTable, wanted: GradientTable) -> _Array:
    """Predict by spherical harmonics of each shell, see :func:`harmonic_weights`.

    Parameters
    ----------
    signal
        Shape (V, K).
    kept, wanted
        Tables of K and H weighted measurements.

    Returns
    -------
    ndarray
        Shape (V, H).
    """
    products = signal.T @ signal / max(len(signal), 1)
    found: _Array = signal @ harmonic_weights(products, kept, wanted)
    return found


def harmonic_weights(
    products: _Array, kept: GradientTable, wanted: GradientTable, *, spare: int = 0
) -> _Array:
    """Return weights (K, H) of a prediction by spherical harmonics (Descoteaux et al. 2007).

    Real, even harmonics of each shell with a Laplace-Beltrami penalty (doi:10.1002/mrm.21277): of
    the highest order that has no more functions than the shell has kept directions, the penalty
    chosen by generalised cross-validation over all voxels. A shell without kept directions takes
    the nearest one's.

    Parameters
    ----------
    products
        Shape (K, K): mean over voxels of the products of two measurements.
    kept, wanted
        Tables of K and H weighted measurements.
    spare
        Directions of a shell that do not count when the order is chosen.
    """
    out = np.zeros((len(kept), len(wanted)))
    for index, targets in nearest_shells(kept, wanted):
        out[np.ix_(index, targets)] = _shell_weights(
            products[np.ix_(index, index)],
            kept.bvecs_ras[index],
            wanted.bvecs_ras[targets],
            most=max(1, len(index) - spare),
        )
    return out


def _shell_weights(products: _Array, axes: _Array, targets: _Array, *, most: int) -> _Array:
    """Return weights (K, H) of one shell, of so many functions at most."""
    order = max(o for o, n in ORDERS.items() if n <= most)
    design, degree = harmonics(axes, order)
    roughness = np.diag((degree * (degree + 1.0)) ** 2)
    n = len(axes)
    best, lowest = None, np.inf
    for penalty in PENALTIES:
        inverse = np.linalg.pinv(design.T @ design + penalty * roughness) @ design.T
        residual = np.eye(n) - design @ inverse
        freedom = max(float(np.trace(residual)) / n, 1e-6)
        score = float(np.trace(residual @ products @ residual.T)) / freedom**2
        if best is None or score < lowest:
            best, lowest = inverse, score
    assert best is not None
    weights: _Array = (harmonics(targets, order)[0] @ best).T
    return weights
