"""Multilayer perceptrons on vectors: the epoch that is best in a validation set, by several seeds.

The best of many epochs in a small validation set is partly chance, so networks are trained from
several initial weights, and the spread between them is reported.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.class_weight import compute_sample_weight

#: Units of the one layer; the publication prints no architecture.
UNITS = 64

#: Learning rate of Adam, weight decay, and rows of a batch.
RATE, DECAY, BATCH = 1e-3, 1e-2, 32

#: Epochs at most; training stops when the validation loss has not fallen for so many.
EPOCHS, PATIENCE = 200, 20

#: Smallest probability in a loss.
_SMALLEST = 1e-12

_Array = NDArray[np.float64]


class Examples(NamedTuple):
    """Standardised vectors (N, D), and targets (N,): standardised numbers, or classes as bool."""

    values: _Array
    target: NDArray[Any]


class Mlp(NamedTuple):
    """A network at its best epoch, counted from 1, and its validation loss there."""

    model: MLPClassifier | MLPRegressor
    epoch: int
    loss: float

    def predict(self, values: _Array) -> _Array:
        """Return predictions (N,): numbers, or probabilities of the positive class."""
        return _run(self.model, values)


def train_mlp(train: Examples, val: Examples, *, is_weighted: bool = False, seed: int = 0) -> Mlp:
    """Train a network; the epoch of the lowest validation loss counts.

    Parameters
    ----------
    train, val
        Rows to train on, and to choose the epoch by.
    is_weighted
        Both classes count alike in both losses, whatever their numbers.
    seed
        Of initial weights and order of rows.
    """
    has_classes = train.target.dtype == bool
    model = (MLPClassifier if has_classes else MLPRegressor)(
        hidden_layer_sizes=(UNITS,),
        alpha=DECAY,
        batch_size=min(BATCH, len(train.target)),
        learning_rate_init=RATE,
        random_state=seed,
    )
    weights = _weights(train.target) if is_weighted else None
    options = {"classes": [False, True]} if has_classes else {}
    best: Mlp | None = None
    for epoch in range(1, EPOCHS + 1):
        model.partial_fit(*train, sample_weight=weights, **options)
        loss = _loss(val.target, _run(model, val.values), is_weighted=is_weighted)
        if best is None or loss < best.loss:
            best = Mlp(deepcopy(model), epoch, loss)
        if epoch - best.epoch >= PATIENCE:
            break
    assert best is not None
    return best


def _run(model: MLPClassifier | MLPRegressor, values: _Array) -> _Array:
    if isinstance(model, MLPClassifier):
        return np.asarray(model.predict_proba(values)[:, 1])
    return np.asarray(model.predict(values))


def _loss(target: NDArray[Any], predicted: _Array, *, is_weighted: bool) -> float:
    if target.dtype != bool:
        return float(((predicted - target) ** 2).mean())
    of_class = np.clip(np.where(target, predicted, 1.0 - predicted), _SMALLEST, None)
    weights = _weights(target) if is_weighted else None
    return float(np.average(-np.log(of_class), weights=weights))


def _weights(target: NDArray[Any]) -> _Array:
    return np.asarray(compute_sample_weight("balanced", target))
