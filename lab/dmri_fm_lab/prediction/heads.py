"""Heads: what predicts a target from vectors that stay as they are.

A head is prepared for the vectors of a training set, and then fitted to one target or, in
permutations, to many. Vectors are standardised by the training set. A penalty is the weight of the
squared coefficients beside the sum of losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    StratifiedGroupKFold,
    StratifiedKFold,
)
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.metrics import TaskType
from dmri_fm_lab.prediction.mlp import Examples, train_mlp
from dmri_fm_lab.prediction.ridge import PENALTIES, RidgeBasis

#: Penalties among which cross-validation chooses for two classes, the strongest first: it counts
#: where several predict equally well.
LOGISTIC_PENALTIES = tuple(10.0**k for k in range(5, -4, -1))

#: Penalty of the "unpenalised" logistic regression. Where a plane separates the classes there is
#: no solution without penalty; with this one the plane tends to that of the largest margin.
NO_PENALTY = 1e-6

#: Folds of the choice of a penalty, at most.
N_INNER = 5

#: Newton steps of logistic regression, at most; it needs about ten.
_NEWTON_STEPS = 200

_Array = NDArray[np.float64]


class Vectors(NamedTuple):
    """Vectors of the rows of a set: `values` (N, D), and `groups` (N,) that stay together."""

    values: _Array
    groups: NDArray[Any]


@dataclass(frozen=True)
class HeadSettings:
    """What heads are told beside vectors and target.

    Attributes
    ----------
    task
        Type of the target.
    is_weighted
        Whether both classes count alike in the loss, whatever their numbers.
    penalty
        Of the heads `ridge` and `logistic`.
    n_seeds
        Networks that are trained from different initial weights.
    seed
        Of all that is random.

    Raises
    ------
    ConfigError
        If the penalty is not positive, there are no seeds, or numbers have a weighted loss.
    """

    task: TaskType
    is_weighted: bool = False
    penalty: float = 1.0
    n_seeds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.penalty > 0 or self.n_seeds < 1:
            raise ConfigError(
                f"penalty {self.penalty:g}, {self.n_seeds} seeds", expected="more than zero"
            )
        if self.is_weighted and self.task == "regression":
            raise ConfigError("a weighted loss of numbers", expected="a target of two classes")


class Fitted(NamedTuple):
    """A fitted head.

    Attributes
    ----------
    predict
        From vectors (N, D) to predictions (K, N), K networks of different seeds, else one: of the
        standardised target, or probabilities of the positive class.
    about
        What was chosen or found: `penalty`, `epoch`, `is_min_norm`, `is_separable` (0 or 1).
    """

    predict: Callable[[_Array], _Array]
    about: dict[str, float]


#: Fits a prepared head to the targets of training and validation rows: standardised numbers, or
#: classes as bool.
Trainer = Callable[[NDArray[Any], NDArray[Any]], Fitted]

_Prepare = Callable[[Vectors, Vectors, HeadSettings], Trainer]


@dataclass(frozen=True)
class Head:
    """Record of a head.

    Attributes
    ----------
    title
        What it is, for tables and help.
    prepare
        From the vectors of training and validation rows to a trainer, by type of the target.
    uses_validation
        Whether it reads a validation set; a head that does not does not train on it either.
    """

    title: str
    prepare: dict[TaskType, _Prepare]
    uses_validation: bool = False


def prepare_head(name: str, train: Vectors, val: Vectors, settings: HeadSettings) -> Trainer:
    """Prepare a head for the vectors of a training set.

    Raises
    ------
    ConfigError
        If there is no such head, or it does not predict such a target.
    """
    if name not in HEADS:
        raise ConfigError(f"head {name!r}", expected=" or ".join(HEADS))
    if settings.task not in HEADS[name].prepare:
        able = [other for other, head in HEADS.items() if settings.task in head.prepare]
        raise ConfigError(
            f"head {name} for a target of {settings.task}", expected=" or ".join(able)
        )
    return HEADS[name].prepare[settings.task](train, val, settings)


def inner_folds(
    target: NDArray[Any], groups: NDArray[Any], *, seed: int
) -> list[tuple[NDArray[np.int_], NDArray[np.int_]]]:
    """Return training and test rows within a training set, groups together, classes in shares.

    Raises
    ------
    ConfigError
        If there are too few groups, or too few rows of a class.
    """
    has_classes = target.dtype == bool
    counts = [int(target.sum()), int((~target).sum())] if has_classes else []
    n_groups = len(np.unique(groups))
    n_folds = min(N_INNER, n_groups, *counts)
    if n_folds < 2:
        raise ConfigError(
            f"a training set of {len(target)} rows in {n_groups} groups"
            + (f", {min(counts)} of one class" if has_classes else ""),
            expected="two groups or more, and two rows or more of each class",
            advice="draw no more folds than the smaller class has rows (--folds), stratify them "
            "by the target (--stratify), or choose another target",
        )
    drawn = {"n_splits": n_folds, "shuffle": True, "random_state": seed}
    if not has_classes:
        return list(GroupKFold(**drawn).split(target, target, groups))
    if n_groups == len(groups):
        return list(StratifiedKFold(**drawn).split(target, target))
    parts = StratifiedGroupKFold(**drawn).split(target, target, groups)
    usable = [(a, b) for a, b in parts if len(np.unique(target[a])) == 2 and len(b)]
    if not usable:
        raise ConfigError("all rows of a class in one group", expected="two groups or more")
    return usable


class _Rotated:
    """Vectors along the singular vectors of a training set: the same L2 fits, fewer columns."""

    def __init__(self, train: _Array) -> None:
        self._basis = RidgeBasis.of(train)
        self.values: _Array = self._basis.u * self._basis.s

    def __call__(self, values: _Array) -> _Array:
        scaled = (values - self._basis.middle) / self._basis.spread
        return np.asarray(scaled @ self._basis.vt.T)


def _tuned_ridge(train: Vectors, _: Vectors, settings: HeadSettings) -> Trainer:
    if len(np.unique(train.groups)) < 2:
        raise ConfigError("a training set of one group", expected="two groups or more")
    basis = RidgeBasis.of(train.values)

    def fit(target: NDArray[Any], _: NDArray[Any]) -> Fitted:
        path = basis.fit(target)
        best = int(path.left_out(train.groups).argmin())
        return Fitted(lambda values: path.predict(values)[[best]], {"penalty": PENALTIES[best]})

    return fit


def _fixed_ridge(train: Vectors, _: Vectors, settings: HeadSettings) -> Trainer:
    basis, penalty = RidgeBasis.of(train.values), settings.penalty
    return lambda target, _: Fitted(
        basis.fit(target, penalties=(penalty,)).predict, {"penalty": penalty}
    )


def _least_squares(train: Vectors, _: Vectors, settings: HeadSettings) -> Trainer:
    scaler = StandardScaler().fit(train.values)
    values = scaler.transform(train.values)
    about = {"is_min_norm": float(values.shape[1] >= len(values))}

    def fit(target: NDArray[Any], _: NDArray[Any]) -> Fitted:
        model = LinearRegression().fit(values, target)
        return Fitted(lambda new: model.predict(scaler.transform(new))[None], about)

    return fit


def _logistic_regression(settings: HeadSettings, penalty: float) -> LogisticRegression:
    return LogisticRegression(
        C=1.0 / penalty,
        solver="newton-cholesky",
        max_iter=_NEWTON_STEPS,
        class_weight="balanced" if settings.is_weighted else None,
    )


def _logistic_of(train: Vectors, settings: HeadSettings, penalty: float | None) -> Trainer:
    """Return the trainer of a logistic regression; None: the penalty is chosen."""
    rotated = _Rotated(train.values)

    def fit(target: NDArray[Any], _: NDArray[Any]) -> Fitted:
        chosen = penalty or _choose_penalty(rotated.values, target, train.groups, settings)
        model = _logistic_regression(settings, chosen).fit(rotated.values, target)
        is_separable = float((model.predict(rotated.values) == target).all())
        return Fitted(
            lambda values: model.predict_proba(rotated(values))[None, :, 1],
            {"penalty": chosen, "is_separable": is_separable},
        )

    return fit


def _choose_penalty(
    values: _Array, target: NDArray[Any], groups: NDArray[Any], settings: HeadSettings
) -> float:
    """Return the penalty of the lowest cross-entropy in folds of a training set."""

    def score(model: LogisticRegression, x: _Array, y: NDArray[Any]) -> float:
        weights = compute_sample_weight("balanced", y) if settings.is_weighted else None
        probability = model.predict_proba(x)[:, 1]
        return -float(log_loss(y, probability, labels=[False, True], sample_weight=weights))

    search = GridSearchCV(
        _logistic_regression(settings, 1.0),
        {"C": [1.0 / penalty for penalty in LOGISTIC_PENALTIES]},
        scoring=score,
        cv=inner_folds(target, groups, seed=settings.seed),
        refit=False,
    ).fit(values, target)
    return LOGISTIC_PENALTIES[int(search.best_index_)]


def _mlp(train: Vectors, val: Vectors, settings: HeadSettings) -> Trainer:
    scaler = StandardScaler().fit(train.values)
    x = scaler.transform(train.values)
    x_val = scaler.transform(val.values) if len(val.values) else None

    def fit(target: NDArray[Any], val_target: NDArray[Any]) -> Fitted:
        if x_val is not None:
            own, check = Examples(x, target), Examples(x_val, val_target)
        else:
            rows, held_out = inner_folds(target, train.groups, seed=settings.seed)[0]
            own, check = (Examples(x[r], target[r]) for r in (rows, held_out))
        seeds = range(settings.seed, settings.seed + settings.n_seeds)
        networks = [
            train_mlp(own, check, is_weighted=settings.is_weighted, seed=seed) for seed in seeds
        ]
        return Fitted(
            lambda values: np.stack([n.predict(scaler.transform(values)) for n in networks]),
            {"epoch": float(np.mean([n.epoch for n in networks]))},
        )

    return fit


#: Heads by name; the first is the default.
HEADS = {
    "tuned": Head(
        "ridge or logistic regression, penalty by nested cross-validation",
        {
            "regression": _tuned_ridge,
            "classification": lambda train, _, settings: _logistic_of(train, settings, None),
        },
    ),
    "linear": Head(
        "linear or logistic regression without penalty (the published probe)",
        {
            "regression": _least_squares,
            "classification": lambda train, _, settings: _logistic_of(train, settings, NO_PENALTY),
        },
    ),
    "ridge": Head("ridge regression with the given penalty", {"regression": _fixed_ridge}),
    "logistic": Head(
        "logistic regression with the given penalty",
        {
            "classification": lambda train, _, settings: _logistic_of(
                train, settings, settings.penalty
            )
        },
    ),
    "mlp": Head(
        "one layer of units, best epoch of a validation set, several seeds",
        {"regression": _mlp, "classification": _mlp},
        uses_validation=True,
    ),
}
