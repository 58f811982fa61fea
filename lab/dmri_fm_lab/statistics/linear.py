"""Linear models of many outcomes, with standard errors that hold for families and sites.

Standard errors are the bias-reduced cluster-robust ones (CR2; for independent scans HC2), t is
referred to Satterthwaite's degrees of freedom: R. M. Bell and D. F. McCaffrey, Survey Methodology
2002; J. E. Pustejovsky and E. Tipton, J Bus Econ Stat 2018, doi:10.1080/07350015.2016.1247004.
statsmodels has HC2 for one outcome at a time, and no CR2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

Floats = NDArray[np.float64]
Integers = NDArray[np.int_]

#: Leverage that leaves no residual: such a scan says nothing about the noise.
FULL_LEVERAGE = 1e-10

#: Smallest variance of a group, relative to the largest, and largest correlation within blocks
#: that weights rest on: estimates beyond come from few scans.
LEAST_VARIANCE, MOST_CORRELATION = 1e-3, 0.95


@dataclass(frozen=True, eq=False)
class Estimator:
    """A linear combination of coefficients, and its standard error, of any outcome.

    Attributes
    ----------
    weights
        Shape (N,): the estimate is `weights @ y`.
    basis
        Shape (N, P): orthonormal basis of the design.
    scores
        Sparse, shape (blocks, N): the variance is the sum of squares of `scores @ residuals`.
    df
        Satterthwaite's degrees of freedom.
    """

    weights: Floats
    basis: Floats
    scores: Any
    df: float

    def residuals(self, values: Floats) -> Floats:
        """Return values (N, D) without what the design explains."""
        return np.asarray(values - self.basis @ (self.basis.T @ values))

    def estimate(self, values: Floats) -> tuple[Floats, Floats]:
        """Return estimates (D,) and standard errors (D,) of outcomes (N, D)."""
        scores = self.scores @ self.residuals(values)
        return self.weights @ values, np.sqrt(np.einsum("fd,fd->d", scores, scores))


class Effects(NamedTuple):
    """Estimates of one contrast, arrays of shape (D,)."""

    estimate: Floats
    standard_error: Floats
    df: Floats
    t: Floats
    p: Floats
    low: Floats
    high: Floats


def make_estimator(
    design: Floats, contrast: Floats, blocks: Integers | None = None, *, power: float = 0.5
) -> Estimator:
    """Prepare the estimate of a contrast.

    Parameters
    ----------
    design
        Shape (N, P), of full rank.
    contrast
        Shape (P,).
    blocks
        Shape (N,): scans of one number are not independent; None: all are.
    power
        Residuals of a block are divided by this power of what its leverage leaves of them: 1/2
        (CR2) is unbiased for errors as the fit assumes them; 1 (CR3) is a jackknife.
    """
    n = len(design)
    basis, triangle = np.linalg.qr(design)
    weights = basis @ np.linalg.solve(triangle.T, contrast)
    members = _members(np.arange(n) if blocks is None else blocks)
    adjusted = np.empty(n)
    for rows in members:  # all blocks of one size
        part = basis[rows]
        remaining = np.eye(rows.shape[1]) - np.einsum("fip,fjp->fij", part, part)
        adjusted[rows] = _inverse_power_product(remaining, weights[rows], power)
    order = np.concatenate([rows.ravel() for rows in members])
    sizes = np.concatenate([np.full(len(rows), rows.shape[1]) for rows in members])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    scores = sparse.csr_array((adjusted[order], order, starts), shape=(len(sizes), n))
    squares = np.add.reduceat(adjusted[order] ** 2, starts[:-1])
    inside = scores @ basis
    trace = squares.sum() - np.sum(inside**2)
    trace_of_square = (
        np.sum(squares**2)
        - 2 * np.sum(squares * np.sum(inside**2, axis=1))
        + np.sum((inside.T @ inside) ** 2)
    )
    return Estimator(weights, basis, scores, float(trace**2 / trace_of_square))


def score_effect(estimator: Estimator, values: Floats, *, level: float = 0.95) -> Effects:
    """Return estimates, tests and intervals of a contrast of outcomes (N, D)."""
    estimate, error = estimator.estimate(values)
    return effects_of(estimate, error, np.full(len(estimate), estimator.df), level=level)


def effects_of(estimate: Floats, error: Floats, df: Floats, *, level: float) -> Effects:
    """Return tests and intervals of estimates with their standard errors and df, all (D,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = estimate / error
    p = 2 * stats.t.sf(np.abs(t), df)
    half = stats.t.ppf(0.5 + level / 2, df) * error
    return Effects(estimate, error, df, t, np.asarray(p), estimate - half, estimate + half)


@dataclass(frozen=True, eq=False)
class ErrorModel:
    """Variances of groups and a correlation within blocks, of one outcome.

    Attributes
    ----------
    deviations
        Shape (N,): residual standard deviation of the group of each row.
    blocks
        Shape (N,): number of the block of each row; None: rows are independent.
    correlation
        Between the errors of a block.
    """

    deviations: Floats
    blocks: Integers | None = None
    correlation: float = 0.0

    def whiten(self, matrix: Floats) -> Floats:
        """Return rows (N, D) such that their errors have variance one and no correlation."""
        scaled = matrix / self.deviations[:, None]
        if self.blocks is None or self.correlation == 0:
            return np.asarray(scaled)
        sizes = np.bincount(self.blocks)
        sums = np.stack([np.bincount(self.blocks, column) for column in scaled.T], axis=1)
        means = (sums / sizes[:, None])[self.blocks]
        of_mean = np.sqrt(1 + (sizes - 1) * self.correlation)[self.blocks, None]
        return np.asarray((scaled - means) / np.sqrt(1 - self.correlation) + means / of_mean)


def estimate_errors(
    design: Floats, values: Floats, *, groups: Integers | None, blocks: Integers | None
) -> ErrorModel:
    """Estimate variances of groups and the correlation within blocks by moments of residuals.

    Parameters
    ----------
    design, values
        Shapes (N, P) and (N,).
    groups
        Shape (N,), numbers 0 to G - 1 of groups of one variance; None: all are of one.
    blocks
        Shape (N,), numbers 0 to F - 1; None: rows are independent.
    """
    basis, _ = np.linalg.qr(design)
    residuals = values - basis @ (basis.T @ values)
    remaining = 1 - np.einsum("np,np->n", basis, basis)
    of_row = np.zeros(len(values), dtype=int) if groups is None else groups
    df = np.maximum(np.bincount(of_row, remaining), FULL_LEVERAGE)
    variances = _shrink_variances(np.bincount(of_row, residuals**2) / df, df)
    deviations = np.sqrt(variances)[of_row]
    if blocks is None:
        return ErrorModel(deviations)
    z = residuals / deviations
    sizes = np.bincount(blocks)
    products = np.sum(np.bincount(blocks, z) ** 2) - np.sum(z**2)
    pairs = np.sum(sizes * (sizes - 1))
    correlation = products / pairs if pairs else 0.0
    return ErrorModel(deviations, blocks, float(np.clip(correlation, 0, MOST_CORRELATION)))


def _shrink_variances(variances: Floats, df: Floats) -> Floats:
    """Return variances of groups (G,) moved to their common value as far as chance explains them.

    Logarithms of variances that differ by no more than chance have a variance of 2 / df: weights
    that follow them would add noise and no precision.
    """
    logs = np.log(np.maximum(variances, LEAST_VARIANCE * variances.max()))
    chance = 2 / df
    centre = np.average(logs, weights=df)
    spread = np.average((logs - centre) ** 2, weights=df) * len(df) / max(len(df) - 1, 1)
    real = max(spread - float(np.mean(chance)), 0.0)
    return np.asarray(np.exp(centre + (logs - centre) * real / (real + chance)))


def _members(blocks: Integers) -> list[Integers]:
    """Return rows of blocks, shape (blocks, size), one array for each size."""
    _, number, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    found = []
    for size in np.unique(sizes):
        rows = order[sizes[number[order]] == size]
        found.append(rows.reshape(-1, size))
    return found


def _inverse_power_product(matrices: Floats, vectors: Floats, power: float) -> Floats:
    """Return matrices**-power @ vectors: shapes (F, m, m) and (F, m); null spaces give zero."""
    if matrices.shape[1] == 1:
        remaining = matrices[:, 0]
        is_free = remaining > FULL_LEVERAGE
        return np.where(is_free, vectors / np.where(is_free, remaining, 1) ** power, 0.0)
    values, axes = np.linalg.eigh(matrices)
    is_free = values > FULL_LEVERAGE
    factors = np.where(is_free, 1 / np.where(is_free, values, 1) ** power, 0.0)
    inside = np.einsum("fij,fi->fj", axes, vectors) * factors
    return np.asarray(np.einsum("fij,fj->fi", axes, inside))
