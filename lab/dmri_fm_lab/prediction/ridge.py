"""Ridge regression for many penalties at once, with errors of groups that are left out."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Penalties on standardised features, among which cross-validation chooses.
PENALTIES = tuple(10.0 ** (k / 2) for k in range(-6, 11))

_Array = NDArray[np.float64]


class RidgePath(NamedTuple):
    """Ridge regressions for each of the penalties, A in number.

    Attributes
    ----------
    coefficients
        Shape (A, D), of the features as they were given.
    intercepts
        Shape (A,).
    residuals
        Shape (A, N): outcome minus prediction in what was fitted.
    basis, kept
        Shapes (N, K) and (A, K): left singular vectors of the features, and the share of the
        outcome along each that a regression keeps.
    """

    coefficients: _Array
    intercepts: _Array
    residuals: _Array
    basis: _Array
    kept: _Array

    def predict(self, features: _Array) -> _Array:
        """Return predictions (A, N) from features (N, D)."""
        return np.asarray(self.coefficients @ features.T + self.intercepts[:, None])

    def left_out(self, groups: NDArray[Any]) -> _Array:
        """Return mean squared errors (A,) of each group by regressions on all other groups.

        `groups` (N,), two different ones or more. Features stay standardised as in what was
        fitted.
        """
        _, index, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        # Residuals of a block that is left out: (1 - its part of the hat matrix)^-1 times its
        # residuals.
        leverage = self.kept @ (self.basis**2).T + 1.0 / len(groups)
        errors = self.residuals / (1.0 - leverage)
        for number in np.flatnonzero(sizes > 1):
            block = index == number
            own = self.basis[block]
            hat = np.einsum("ik,ak,jk->aij", own, self.kept, own) + 1.0 / len(groups)
            rest = np.eye(len(own)) - hat
            errors[:, block] = np.linalg.solve(rest, self.residuals[:, block, None])[..., 0]
        return np.asarray((errors**2).mean(axis=1))


class RidgeBasis(NamedTuple):
    """Singular vectors of standardised features, which serve any number of outcomes.

    Attributes
    ----------
    middle, spread
        Shape (D,): mean and standard deviation of the features, 1 where constant.
    u, s, vt
        Singular value decomposition of the standardised features.
    """

    middle: _Array
    spread: _Array
    u: _Array
    s: _Array
    vt: _Array

    @classmethod
    def of(cls, features: _Array) -> RidgeBasis:
        """Decompose features (N, D)."""
        middle, spread = features.mean(axis=0), features.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        u, s, vt = np.linalg.svd((features - middle) / spread, full_matrices=False)
        return cls(middle, spread, u, s, vt)

    def fit(self, outcome: _Array, *, penalties: tuple[float, ...] = PENALTIES) -> RidgePath:
        """Fit ridge regressions of an outcome (N,)."""
        centred = outcome - outcome.mean()
        along = self.u.T @ centred
        scaled = 1.0 / (self.s**2 + np.array(penalties)[:, None])
        kept = scaled * self.s**2
        coefficients = (scaled * self.s * along) @ self.vt / self.spread
        intercepts = outcome.mean() - coefficients @ self.middle
        residuals = centred - (kept * along) @ self.u.T
        return RidgePath(coefficients, intercepts, residuals, self.u, kept)


def fit_ridge(
    features: _Array, outcome: _Array, *, penalties: tuple[float, ...] = PENALTIES
) -> RidgePath:
    """Fit ridge regressions of an outcome (N,) on standardised features (N, D)."""
    return RidgeBasis.of(features).fit(outcome, penalties=penalties)
