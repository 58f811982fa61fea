"""Linear models of many outcomes, with standard errors that hold for families and sites.

Standard errors are the bias-reduced cluster-robust ones (CR2; for independent scans HC2), t is
referred to Satterthwaite's degrees of freedom: R. M. Bell and D. F. McCaffrey, Survey Methodology
2002; J. E. Pustejovsky and E. Tipton, J Bus Econ Stat 2018, doi:10.1080/07350015.2016.1247004.
Where variances and correlations are estimated from the same scans, standard errors grow by what
that adds: M. G. Kenward and J. H. Roger, Biometrics 1997, doi:10.2307/2533558.
statsmodels has HC2 for one outcome at a time, and no CR2.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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

#: Variances of groups are taken as one unless they differ by more than this share of chance does.
CHANCE_SHARE = 0.99


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

    def scaled(self, factor: float) -> Estimator:
        """Return the estimator with larger or smaller standard errors."""
        return replace(self, scores=self.scores * factor)

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


def make_estimator(design: Floats, contrast: Floats, blocks: Integers | None = None) -> Estimator:
    """Prepare the estimate of a contrast with its CR2 standard error.

    Parameters
    ----------
    design
        Shape (N, P), of full rank.
    contrast
        Shape (P,).
    blocks
        Shape (N,): scans of one number are not independent; None: all are.
    """
    n = len(design)
    basis, triangle = np.linalg.qr(design)
    weights = basis @ np.linalg.solve(triangle.T, contrast)
    members = _members(np.arange(n) if blocks is None else blocks)
    adjusted = np.empty(n)
    for rows in members:  # all blocks of one size
        part = basis[rows]
        remaining = np.eye(rows.shape[1]) - np.einsum("fip,fjp->fij", part, part)
        adjusted[rows] = _inverse_root_product(remaining, weights[rows])
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
    groups
        Shape (N,): number of the group of each row, 0 to G - 1; None: nothing was estimated.
    log_errors
        Shape (G,): standard errors of the logarithms of the groups' variances.
    correlation_error
        Standard error of the correlation.
    """

    deviations: Floats
    blocks: Integers | None = None
    correlation: float = 0.0
    groups: Integers | None = None
    log_errors: Floats = field(default_factory=lambda: np.zeros(0))
    correlation_error: float = 0.0

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

    def inflation(self, estimator: Estimator) -> float:
        """Return the factor by which standard errors grow since these numbers are estimated.

        Kenward and Roger's correction to first order: the variance that errors of the numbers add
        to an estimate, once since the estimate varies by it, and once since its standard error
        looks smaller by as much.

        Parameters
        ----------
        estimator
            Of the whitened design.
        """
        weights, changes = estimator.weights, []
        for group, error in enumerate(self.log_errors):
            changes.append(error * weights * (self.groups == group))
        if self.blocks is not None:
            sizes = np.bincount(self.blocks)
            means = (np.bincount(self.blocks, weights) / sizes)[self.blocks]
            others = (sizes - 1)[self.blocks]
            of_mean = others / (1 + others * self.correlation)
            change = of_mean * means - (weights - means) / (1 - self.correlation)
            changes.append(self.correlation_error * change)
        if not changes:
            return 1.0
        added = estimator.residuals(np.stack(changes, axis=1))
        return float(np.sqrt(1 + 2 * np.sum(added**2) / np.sum(weights**2)))


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
    variances = np.bincount(of_row, residuals**2) / df
    variances = np.maximum(variances, LEAST_VARIANCE * variances.max())
    sizes = np.zeros(0) if blocks is None else np.bincount(blocks)
    pairs = float(np.sum(sizes * (sizes - 1)))
    others = pairs / len(values)  # in the block of a row, on average
    before = _correlation(residuals / np.sqrt(variances)[of_row], blocks, pairs)
    chance = 2 * (1 + others * before**2) / df
    variances, errors = _shrink_variances(variances, chance)
    deviations = np.sqrt(variances)[of_row]
    correlation = _correlation(residuals / deviations, blocks, pairs)
    if blocks is None or not pairs:
        return ErrorModel(deviations, groups=of_row, log_errors=errors)
    standardised_by = of_row if errors.any() else np.zeros_like(of_row)
    spread = _correlation_error(correlation, blocks, standardised_by)
    return ErrorModel(deviations, blocks, correlation, of_row, errors, spread)


def _correlation(z: Floats, blocks: Integers | None, pairs: float) -> float:
    """Return the mean product of standardised residuals (N,) over the pairs within blocks."""
    if blocks is None or not pairs:
        return 0.0
    products = np.sum(np.bincount(blocks, z) ** 2) - np.sum(z**2)
    return float(np.clip(products / pairs, 0, MOST_CORRELATION))


def _correlation_error(correlation: float, blocks: Integers, groups: Integers) -> float:
    """Return the standard error of :func:`_correlation`, by the delta method.

    Pairs are those of blocks of two and more; the variances that rows are divided by come from
    all rows of a group, blocks of one among them.
    """
    n_others = (np.bincount(blocks) - 1)[blocks]
    pairs = n_others.sum()
    share = np.bincount(groups, n_others) / (pairs * np.bincount(groups))
    of_square = correlation * share[groups]
    # To first order the estimate is a sum over blocks of z' M z, M = (J - I) / pairs less the
    # diagonal of `of_square`; with the covariance C of a block its variance is 2 tr(M C M C).
    # M C has rows of one number, `row`, less a diagonal.
    row = (1 + (n_others - 1) * correlation) / pairs - correlation * of_square
    diagonal = (1 - correlation) * (1 / pairs + of_square)
    trace = np.sum(np.bincount(blocks, row) ** 2) + np.sum(diagonal * (diagonal - 2 * row))
    return float(np.sqrt(2 * trace))


def _shrink_variances(variances: Floats, chance: Floats) -> tuple[Floats, Floats]:
    """Return variances of groups (G,) moved to their common value as far as chance explains them,
    and the standard errors of their logarithms.

    Weights that follow chance add noise and no precision. `chance`, shape (G,), is the variance
    of the logarithm of each variance; what is beyond it is estimated as by DerSimonian and Laird,
    Control Clin Trials 1986, doi:10.1016/0197-2456(86)90046-2.
    """
    if len(variances) == 1:
        return variances, np.zeros(1)
    logs, weights = np.log(variances), 1 / chance
    centre = np.average(logs, weights=weights)
    freedom = len(logs) - 1
    spread = np.sum(weights * (logs - centre) ** 2)
    if spread < stats.chi2.ppf(CHANCE_SHARE, freedom):
        return np.full(len(logs), np.exp(centre)), np.zeros(len(logs))
    real = (spread - freedom) / (weights.sum() - np.sum(weights**2) / weights.sum())
    kept = real / (real + chance)
    return np.exp(centre + (logs - centre) * kept), kept * np.sqrt(chance)


def _members(blocks: Integers) -> list[Integers]:
    """Return rows of blocks, shape (blocks, size), one array for each size."""
    _, number, sizes = np.unique(blocks, return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    found = []
    for size in np.unique(sizes):
        rows = order[sizes[number[order]] == size]
        found.append(rows.reshape(-1, size))
    return found


def _inverse_root_product(matrices: Floats, vectors: Floats) -> Floats:
    """Return matrices**-1/2 @ vectors: shapes (F, m, m) and (F, m); null spaces give zero."""
    if matrices.shape[1] == 1:
        remaining = matrices[:, 0]
        is_free = remaining > FULL_LEVERAGE
        return np.where(is_free, vectors / np.sqrt(np.where(is_free, remaining, 1)), 0.0)
    values, axes = np.linalg.eigh(matrices)
    is_free = values > FULL_LEVERAGE
    factors = np.where(is_free, 1 / np.sqrt(np.where(is_free, values, 1)), 0.0)
    inside = np.einsum("fij,fi->fj", axes, vectors) * factors
    return np.asarray(np.einsum("fij,fj->fi", axes, inside))
