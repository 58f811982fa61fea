"""Regression of an outcome on features: nested cross-validation by head, and hold-outs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm_lab.prediction.ridge import fit_ridge

#: Samples of the bootstrap, and the interval that is given, percentiles.
N_SAMPLES, INTERVAL = 10_000, (2.5, 97.5)

#: Shares of training, validation and test of the overlapping random hold-outs by which Kung et
#: al. 2026 (arXiv:2603.25977) score features, and the number of these hold-outs.
HOLD_OUTS, N_HOLD_OUTS = ((0.5, 0.25, 0.25), (0.3, 0.35, 0.35), (0.6, 0.2, 0.2)), 5

_Array = NDArray[np.float64]


class Interval(NamedTuple):
    """A number, and the limits of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def squared_errors(features: _Array, outcome: _Array, heads: NDArray[np.int_]) -> _Array:
    """Predict an outcome by ridge regression in nested cross-validation, head by head.

    Participants of one head are held out together, in the choice of the penalty, too.

    Parameters
    ----------
    features
        Shape (N, D); standardised, and the penalty chosen, within the training part of each fold.
    outcome
        Shape (N,).
    heads
        Shape (N,): the head of each participant, three or more different ones.

    Returns
    -------
    ndarray
        Shape (N,): squared error of the held-out predictions.
    """
    features = np.asarray(features, dtype=np.float64)
    errors = np.zeros(len(outcome))
    for head in np.unique(heads):
        test = heads == head
        path = fit_ridge(features[~test], outcome[~test])
        predicted = path.predict(features[test])[path.left_out(heads[~test]).argmin()]
        errors[test] = (predicted - outcome[test]) ** 2
    return errors


def explained(errors: _Array, outcome: _Array) -> float:
    """Return R^2 from the squared errors of predictions, shape (N,).

    Examples
    --------
    >>> explained(np.array([0.0, 0.5, 0.0]), np.array([-1.0, 0.0, 1.0]))
    0.75
    """
    return float(1 - errors.sum() / ((outcome - outcome.mean()) ** 2).sum())


def bootstrap_difference(
    first: _Array, second: _Array, outcome: _Array, rng: np.random.Generator
) -> Interval:
    """Return R^2 of the first predictions minus that of the second, by a paired bootstrap.

    Participants are drawn with replacement, with both errors and the outcome. The predictions
    stay: the interval does not hold what other training participants or other heads would change.

    Parameters
    ----------
    first, second
        Shape (N,): squared errors, see :func:`squared_errors`.
    outcome
        Shape (N,).
    rng
        Source of randomness.
    """
    drawn = rng.integers(len(outcome), size=(N_SAMPLES, len(outcome)))
    samples = outcome[drawn]
    spread = ((samples - samples.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    apart = (second - first)[drawn].sum(axis=1) / np.maximum(spread, 1e-30)
    low, high = np.percentile(apart, INTERVAL)
    value = explained(first, outcome) - explained(second, outcome)
    return Interval(value, float(low), float(high))


def hold_out(
    rng: np.random.Generator, n: int, shares: tuple[float, float, float]
) -> tuple[NDArray[np.int_], NDArray[np.int_], NDArray[np.int_]]:
    """Return random training, validation and test heads (or participants) of n.

    Examples
    --------
    >>> [len(part) for part in hold_out(np.random.default_rng(0), 100, (0.5, 0.25, 0.25))]
    [50, 25, 25]
    """
    first, second = np.rint(n * np.cumsum(shares[:2])).astype(int)
    order = rng.permutation(n)
    return order[:first], order[first:second], order[second:]


def hold_out_correlations(
    features: _Array,
    outcome: _Array,
    heads: NDArray[np.int_],
    shares: tuple[float, float, float],
    *,
    seed: int = 0,
) -> list[float]:
    """Return the correlation of outcome and prediction in overlapping random hold-outs.

    As Kung et al. released them: each is drawn anew; here heads are drawn, (N,), with all of their
    participants. Ridge regression on the training part; the validation part chooses the penalty.
    """
    rng = np.random.default_rng(seed)
    names = np.unique(heads)
    found = []
    for _ in range(N_HOLD_OUTS):
        parts = hold_out(rng, len(names), shares)
        train, validation, test = (np.isin(heads, names[part]) for part in parts)
        path = fit_ridge(features[train], outcome[train])
        missed = path.predict(features[validation]) - outcome[validation]
        predicted = path.predict(features[test])[(missed**2).sum(axis=1).argmin()]
        found.append(float(np.corrcoef(predicted, outcome[test])[0, 1]))
    return found
