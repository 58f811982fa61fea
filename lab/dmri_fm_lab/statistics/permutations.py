"""Family-wise error rates by permutation of exchangeable scans.

Freedman and Lane's procedure with the largest absolute t over outcomes: A. M. Winkler et al.,
NeuroImage 2014, doi:10.1016/j.neuroimage.2014.01.060, and for families A. M. Winkler et al.,
NeuroImage 2015, doi:10.1016/j.neuroimage.2015.05.092. The statistic is the robust t of
:mod:`~dmri_fm_lab.statistics.linear`.
"""

from __future__ import annotations

from math import lgamma, log
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from dmri_fm.errors import ConfigError
from dmri_fm_lab.statistics.linear import Estimator, Floats, Integers

Exchange = Literal["whole", "within", "flip"]

#: Columns that are permuted at a time, to bound memory.
COLUMNS_AT_A_TIME = 4096

#: Permutations of one outcome that are computed at a time.
PERMUTATIONS_AT_A_TIME = 200


class Shuffles(NamedTuple):
    """Draws: new order of rows, shape (K, N), and their signs, shape (K, N) of +1 and -1."""

    orders: NDArray[np.int32]
    signs: NDArray[np.int8]


class Exchangeable(NamedTuple):
    """What may be exchanged.

    Attributes
    ----------
    classes
        Arrays (units, members): rows of units of which any may take another's place.
    exchange
        See :func:`find_exchangeable`.
    """

    classes: tuple[Integers, ...]
    exchange: Exchange

    @property
    def n_fixed(self) -> int:
        """Number of rows that never move."""
        if self.exchange == "flip":
            return 0
        return sum(units.size for units in self.classes if len(units) == 1)

    @property
    def log_possible(self) -> float:
        """Logarithm of the number of distinct permutations or sign patterns."""
        if self.exchange == "flip":
            return sum(len(units) for units in self.classes) * log(2)
        return sum(lgamma(len(units) + 1) for units in self.classes)


def find_exchangeable(
    blocks: Integers, groups: Integers | None, *, exchange: Exchange
) -> Exchangeable:
    """Find what may be exchanged when nothing is going on.

    Parameters
    ----------
    blocks
        Shape (N,): number of the family of each row; each row its own without families.
    groups
        Shape (N,): rows of different groups (sites) have different variances and do not change
        places; None: variances are equal.
    exchange
        "whole": families of one size and the same groups take each other's place; "within":
        members of a family do; "flip": signs of whole families change, which needs symmetric
        errors, and neither equal sizes nor equal variances.
    """
    of_row = np.zeros(len(blocks), dtype=int) if groups is None else groups
    order = np.lexsort([of_row, blocks])
    edges = np.flatnonzero(np.diff(blocks[order])) + 1
    families = np.split(order, edges)
    if exchange == "within":
        units = [
            rows[of_row[rows] == g][:, None] for rows in families for g in np.unique(of_row[rows])
        ]
        return Exchangeable(tuple(units), exchange)
    classes: dict[tuple[int, ...], list[Integers]] = {}
    for rows in families:
        classes.setdefault(tuple(of_row[rows]), []).append(rows)
    return Exchangeable(tuple(np.stack(rows) for rows in classes.values()), exchange)


def draw_shuffles(
    allowed: Exchangeable, n_permutations: int, *, alpha: float, rng: np.random.Generator
) -> Shuffles:
    """Draw permutations.

    Raises
    ------
    ConfigError
        If there are too few distinct ones for a test at a level.
    """
    if allowed.log_possible < log(1 / alpha):
        raise ConfigError(
            f"{np.exp(allowed.log_possible):.0f} distinct permutations",
            expected=f"at least {np.ceil(1 / alpha):.0f} for a test at {alpha:g}",
            advice='set permutations = 0, or exchange = "flip" where families are few or '
            "differ in size",
        )
    n = sum(units.size for units in allowed.classes)
    orders = np.tile(np.arange(n, dtype=np.int32), (n_permutations, 1))
    signs = np.ones((n_permutations, n), dtype=np.int8)
    for k in range(n_permutations):
        for units in allowed.classes:
            if allowed.exchange == "flip":
                signs[k, units] = rng.choice(np.array([-1, 1], dtype=np.int8), (len(units), 1))
            else:
                orders[k, units] = units[rng.permutation(len(units))]
    return Shuffles(orders, signs)


def reduced_residuals(design: Floats, contrast: Floats, values: Floats) -> Floats:
    """Return values (N, D) without what the design explains while the contrast is zero."""
    null = np.linalg.svd(contrast[None])[2][1:].T  # (P, P - 1): coefficients with contrast zero
    basis, _ = np.linalg.qr(design @ null)
    return np.asarray(values - basis @ (basis.T @ values))


def largest_t(estimator: Estimator, residuals: Floats, shuffles: Shuffles) -> Floats:
    """Return the largest absolute t over outcomes of each permutation, shape (K,).

    Parameters
    ----------
    estimator
        Of the contrast, in the whole design.
    residuals
        Shape (N, D), of :func:`reduced_residuals`.
    shuffles
        K draws.
    """
    if residuals.shape[1] == 1:
        return _largest_of_one(estimator, residuals[:, 0], shuffles)
    largest = np.zeros(len(shuffles.orders))
    for start in range(0, residuals.shape[1], COLUMNS_AT_A_TIME):
        part = np.ascontiguousarray(residuals[:, start : start + COLUMNS_AT_A_TIME])
        np.maximum(largest, _largest_of_many(estimator, part, shuffles), out=largest)
    return largest


def _largest_of_many(estimator: Estimator, residuals: Floats, shuffles: Shuffles) -> Floats:
    """Permute the estimator, not the outcomes: it has a few columns, they have thousands."""
    scores, basis = estimator.scores, estimator.basis
    inside = scores @ basis
    moved_weights, moved_basis = np.empty_like(estimator.weights), np.empty_like(basis)
    largest = np.empty(len(shuffles.orders))
    for k, (order, sign) in enumerate(zip(*shuffles, strict=True)):
        moved_weights[order] = estimator.weights * sign
        moved_basis[order] = basis * sign[:, None]
        moved = sparse.csr_array(
            (scores.data * sign[scores.indices], order[scores.indices], scores.indptr),
            shape=scores.shape,
        )
        parts = moved @ residuals
        parts -= inside @ (moved_basis.T @ residuals)
        variance = np.einsum("fd,fd->d", parts, parts)
        largest[k] = np.sqrt(np.max((moved_weights @ residuals) ** 2 / variance))
    return largest


def _largest_of_one(estimator: Estimator, residuals: Floats, shuffles: Shuffles) -> Floats:
    found = []
    for start in range(0, len(shuffles.orders), PERMUTATIONS_AT_A_TIME):
        some = slice(start, start + PERMUTATIONS_AT_A_TIME)
        moved = (residuals[shuffles.orders[some]] * shuffles.signs[some]).T
        estimate, error = estimator.estimate(moved)
        found.append(np.abs(estimate / error))
    return np.concatenate(found)


def family_wise_p(t: Floats, largest: Floats) -> Floats:
    """Return p of each outcome's t (D,) from the largest of each permutation (K,).

    Examples
    --------
    >>> family_wise_p(np.array([3.0, -5.0]), np.array([2.0, 4.0, 1.0])).tolist()
    [0.5, 0.25]
    """
    ordered = np.sort(largest)
    # A tie counts against the outcome; rounding must not hide one.
    below = np.searchsorted(ordered, np.abs(t) * (1 - 1e-10), side="left")
    return np.asarray((1 + len(ordered) - below) / (1 + len(ordered)))
