"""Gaussian process over q-space: measurements predicted from others in the same voxel.

Its weights depend on the gradients, and on hyperparameters that are fitted to all voxels
together, so that a prediction is one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from dmri_fm.gradients import GradientTable

_Array = NDArray[np.float64]

#: Prior variance of a shell's mean: S/S0 lies between 0 and 1.
MEAN_VARIANCE = 1.0

#: Starts and bounds of the Gaussian process' logarithms: variance, reach of the angle (rad),
#: reach of the logarithm of b, variance of the noise.
_STARTS = ((-4.0, 0.4, 0.0, -6.0), (-5.0, -0.3, -0.5, -5.0))
_BOUNDS = ((-14.0, 4.0), (-1.2, 1.15), (-3.0, 3.0), (-16.0, 2.0))


def nearest_shells(
    kept: GradientTable, wanted: GradientTable
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield kept measurements of a shell, and the wanted ones to whose b-values it is nearest."""
    shells = kept.shells
    nearest = np.array([np.argmin([abs(s.bval - b) for s in shells]) for b in wanted.bvals])
    for number in np.unique(nearest).tolist():
        yield list(shells[number].index), np.flatnonzero(nearest == number).tolist()


def mean_weights(kept: GradientTable, wanted: GradientTable) -> _Array:
    """Return weights (K, H) of the mean of the kept measurements of the nearest b-value.

    Examples
    --------
    >>> kept = GradientTable([1000, 1000, 2000], np.eye(3))
    >>> mean_weights(kept, GradientTable([1100, 2600], np.eye(3)[:2])).tolist()
    [[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]
    """
    out = np.zeros((len(kept), len(wanted)))
    for index, targets in nearest_shells(kept, wanted):
        out[np.ix_(index, targets)] = 1.0 / len(index)
    return out


@dataclass(frozen=True)
class GaussianProcess:
    """Gaussian process over q-space (Andersson & Sotiropoulos 2015).

    doi:10.1016/j.neuroimage.2015.07.067. Two measurements covary by the spherical function of
    the angle between their axes times a Gaussian of the ratio of their b-values. Each shell has a
    mean of its own, here with a wide prior instead of being subtracted, because that of a few
    directions is uncertain; and one variance serves all shells.

    Attributes
    ----------
    variance
        Of the signal about its shell's mean.
    reach_rad
        Angle beyond which nothing covaries.
    reach_log_b
        Deviation of the Gaussian of the difference of log b.
    noise
        Variance of the noise.
    """

    variance: float
    reach_rad: float
    reach_log_b: float
    noise: float

    def covariance(self, a: GradientTable, b: GradientTable) -> _Array:
        """Return the covariance (A, B) of the signals without noise."""
        cosine = np.clip(np.abs(a.bvecs_ras @ b.bvecs_ras.T), 0.0, 1.0)
        share = np.minimum(np.arccos(cosine) / self.reach_rad, 1.0)
        apart = np.log(a.bvals)[:, None] - np.log(b.bvals)[None]
        near: _Array = np.exp(-0.5 * (apart / self.reach_log_b) ** 2)
        found: _Array = self.variance * near * (1.0 - 1.5 * share + 0.5 * share**3)
        return found

    def weights(self, kept: GradientTable, wanted: GradientTable) -> _Array:
        """Return weights (K, H) of the kept signals in the prediction."""
        factor = cho_factor(self.noisy(kept))
        found: _Array = cho_solve(factor, self.covariance(kept, wanted) + _same(kept, wanted))
        return found

    def noisy(self, kept: GradientTable) -> _Array:
        """Return the covariance (K, K) of measured signals."""
        return self.covariance(kept, kept) + _same(kept, kept) + self.noise * np.eye(len(kept))

    def predict(self, signal: _Array, kept: GradientTable, wanted: GradientTable) -> _Array:
        """Predict (V, H) from (V, K)."""
        return signal @ self.weights(kept, wanted)


def _same(kept: GradientTable, wanted: GradientTable) -> _Array:
    """Return the covariance (K, H) that the shells' means bring."""
    shared = np.zeros((len(kept), len(wanted)))
    for index, targets in nearest_shells(kept, wanted):
        shared[np.ix_(index, targets)] = MEAN_VARIANCE
    return shared


def fit_gaussian_process(products: _Array, kept: GradientTable) -> GaussianProcess:
    """Find the hyperparameters of highest marginal likelihood over all voxels together.

    Parameters
    ----------
    products
        Shape (K, K): mean over voxels of the products of two measurements, on which alone the
        likelihood depends.
    kept
        Table of the K weighted measurements.
    """

    def cost(logs: NDArray[np.float64]) -> float:
        process = GaussianProcess(*np.exp(logs).tolist())
        try:
            factor = cho_factor(process.noisy(kept), lower=True)
        except np.linalg.LinAlgError:
            return 1e10
        fit = float(np.trace(cho_solve(factor, products)))
        return fit + 2.0 * float(np.log(np.diag(factor[0])).sum())

    found = [
        minimize(cost, start, method="Nelder-Mead", bounds=_BOUNDS, options={"maxiter": 400})
        for start in _STARTS
    ]
    best = min(found, key=lambda result: float(result.fun))
    return GaussianProcess(*np.exp(best.x).tolist())
