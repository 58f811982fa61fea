"""Regression of an outcome on features: nested cross-validation by head, and hold-outs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm_lab.prediction.draw_splits import (
    PUBLISHED_SHARES,
    Units,
    make_hold_outs,
    parse_shares,
)
from dmri_fm_lab.prediction.ridge import fit_ridge

#: Samples of the bootstrap, and the interval that is given, percentiles.
N_SAMPLES, INTERVAL = 10_000, (2.5, 97.5)

#: Overlapping random hold-outs by which Kung et al. 2026 (arXiv:2603.25977) score features: all
#: published shares but those of pretraining.
HOLD_OUTS = tuple(shares for shares in PUBLISHED_SHARES if shares != "70/15/15")

_Array = NDArray[np.float64]


class Interval(NamedTuple):
    """A number, and the limits of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def squared_errors(features: _Array, outcome: _Array, heads: NDArray[np.int_]) -> _Array:
    """Predict an outcome by ridge regression, see :func:`predict_held_out`.

    Parameters
    ----------
    features
        Shape (N, D).
    outcome
        Shape (N,).
    heads
        Shape (N,): the head of each participant, three or more different ones.

    Returns
    -------
    ndarray
        Shape (N,): squared error of the held-out predictions.
    """
    (predicted,) = predict_held_out(features, outcome, heads)
    return np.asarray((predicted - outcome) ** 2)


def predict_held_out(
    features: _Array, outcome: _Array, heads: NDArray[np.int_], *others: _Array
) -> list[_Array]:
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
    others
        Shape (N, D): features of the same participants by other protocols, which are predicted
        from alone.

    Returns
    -------
    list of ndarray
        Shape (N,): predictions of held-out participants, from `features` and from each of
        `others`.
    """
    sets = [np.asarray(x, dtype=np.float64) for x in (features, *others)]
    found = [np.zeros(len(outcome)) for _ in sets]
    for head in np.unique(heads):
        test = heads == head
        path = fit_ridge(sets[0][~test], outcome[~test])
        best = path.left_out(heads[~test]).argmin()
        for predicted, x in zip(found, sets, strict=True):
            predicted[test] = path.predict(x[test])[best]
    return found


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


def bootstrap_mean(values: _Array, rng: np.random.Generator) -> Interval:
    """Return the mean of values (N,) of participants, by a bootstrap over participants."""
    drawn = rng.integers(len(values), size=(N_SAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(axis=1), INTERVAL)
    return Interval(float(values.mean()), float(low), float(high))


def hold_out_correlations(
    features: _Array,
    outcome: _Array,
    heads: NDArray[np.int_],
    shares: str,
    *,
    seed: int = 0,
) -> list[float]:
    """Return the correlation of outcome and prediction in overlapping random hold-outs.

    As Kung et al. released them: each is drawn anew; here heads are drawn, (N,), with all of their
    participants. Ridge regression on the training part; the validation part chooses the penalty.
    `shares` is one of :data:`HOLD_OUTS`.
    """
    names = heads.astype(str)
    found = []
    for fold in make_hold_outs(Units(np.unique(names)), parse_shares(shares), seed=seed):
        train, validation, test = fold.rows(names)
        path = fit_ridge(features[train], outcome[train])
        missed = path.predict(features[validation]) - outcome[validation]
        predicted = path.predict(features[test])[(missed**2).sum(axis=1).argmin()]
        found.append(float(np.corrcoef(predicted, outcome[test])[0, 1]))
    return found
