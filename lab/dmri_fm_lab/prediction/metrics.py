"""Scores of predictions: of numbers, and of two classes."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    roc_auc_score,
)

#: A target is a number, or one of two classes.
TaskType = Literal["regression", "classification"]

#: Scores of each type of task, the first the one by which heads are compared and permuted.
SCORES: dict[TaskType, tuple[str, ...]] = {
    "regression": ("rho", "mse", "r2", "mae"),
    "classification": ("auroc", "acc", "balanced_accuracy", "auprc", "prevalence", "brier"),
}

#: Scores of which less is better.
LOWER_IS_BETTER = ("mse", "mae", "brier")

#: Titles of scores in tables.
TITLES = {
    "rho": "rho",
    "mse": "MSE (z)",
    "r2": "R²",
    "mae": "MAE",
    "auroc": "AUROC",
    "acc": "ACC %",
    "balanced_accuracy": "BA %",
    "auprc": "AUPRC",
    "prevalence": "prevalence",
    "brier": "Brier",
}

#: Scores that tables give in percent.
PERCENT = ("acc", "balanced_accuracy")

#: Standard deviation relative to the largest value up to which numbers count as constant.
_CONSTANT = 1e-12

_Array = NDArray[np.float64]


class Summary(NamedTuple):
    """Mean and standard deviation (n - 1) over folds, and the number of folds with a score."""

    mean: float
    sd: float
    n: int


def regression_metrics(
    observed: _Array, predicted: _Array, *, scale: float = 1.0
) -> dict[str, float]:
    """Score predictions of a number.

    Parameters
    ----------
    observed, predicted
        Shape (N,), in the unit of the target.
    scale
        Standard deviation of the target in the training set: the mean squared error is given of
        targets that were standardised by it, as published.

    Returns
    -------
    dict
        `rho`: Pearson correlation, NaN where either is constant; `mse`: of the standardised
        target; `r2`: 1 - squared errors over those of the mean of `observed`, NaN where that is
        constant; `mae`: mean absolute error in the unit of the target.

    Examples
    --------
    >>> scores = regression_metrics(np.array([1.0, 2, 3]), np.array([1.0, 2, 4]), scale=2.0)
    >>> {name: round(score, 3) for name, score in scores.items()}
    {'rho': 0.982, 'mse': 0.083, 'r2': 0.5, 'mae': 0.333}
    """
    observed, predicted = (np.asarray(v, dtype=np.float64) for v in (observed, predicted))
    errors = predicted - observed
    varies = not _is_constant(observed)
    rho = r2 = float("nan")
    if varies:
        r2 = 1 - float((errors**2).sum() / ((observed - observed.mean()) ** 2).sum())
    if varies and not _is_constant(predicted):
        rho = float(np.corrcoef(observed, predicted)[0, 1])
    mse = float((errors**2).mean()) / scale**2
    return {"rho": rho, "mse": mse, "r2": r2, "mae": float(np.abs(errors).mean())}


def classification_metrics(
    observed: NDArray[np.bool_], probability: _Array, *, threshold: float = 0.5
) -> dict[str, float]:
    """Score predictions of two classes.

    Parameters
    ----------
    observed
        Shape (N,): True for the positive class.
    probability
        Shape (N,): of the positive class, 0 to 1.
    threshold
        Probability from which the positive class is predicted.

    Returns
    -------
    dict
        `auroc`, `acc`, `balanced_accuracy`, `auprc` (average precision), the `prevalence` of the
        positive class, which is the AUPRC of a prediction that knows nothing, and the `brier`
        score. With one class alone, only `acc`, `prevalence` and `brier` are numbers.

    Examples
    --------
    >>> scores = classification_metrics(np.array([1, 1, 0, 0], bool), np.array([0.9, 0.4, 0.6, 0]))
    >>> {name: round(score, 3) for name, score in scores.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'auroc': 0.75, 'acc': 0.5, 'balanced_accuracy': 0.5, 'auprc': 0.833, 'prevalence': 0.5,
     'brier': 0.182}
    """
    observed = np.asarray(observed, dtype=bool)
    called = np.asarray(probability) >= threshold
    scores = dict.fromkeys(SCORES["classification"], float("nan"))
    if 0 < observed.sum() < len(observed):
        scores["auroc"] = float(roc_auc_score(observed, probability))
        scores["balanced_accuracy"] = float(balanced_accuracy_score(observed, called))
        scores["auprc"] = float(average_precision_score(observed, probability))
    scores["acc"] = float((called == observed).mean())
    scores["prevalence"] = float(observed.mean())
    scores["brier"] = float(brier_score_loss(observed, probability, pos_label=True))
    return scores


def summarise(scores: list[float]) -> Summary:
    """Return mean and spread of a score over folds; NaN, where it is undefined, is not counted.

    Examples
    --------
    >>> summarise([1.0, 3.0, float("nan")])
    Summary(mean=2.0, sd=1.4142135623730951, n=2)
    """
    known = np.array([s for s in scores if np.isfinite(s)])
    mean = float(known.mean()) if len(known) else float("nan")
    sd = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    return Summary(mean, sd, len(known))


def format_summary(name: str, summary: Summary) -> str:
    """Return mean ± standard deviation of a score as a cell of a table.

    Examples
    --------
    >>> format_summary("acc", Summary(0.746, 0.029, 5))
    '74.6 ± 2.9'
    >>> format_summary("rho", Summary(0.887, 0.01, 5))
    '0.887 ± 0.010'
    """
    if not summary.n:
        return "n/a"
    factor, digits = (100.0, 1) if name in PERCENT else (1.0, 3)
    mean = f"{factor * summary.mean:.{digits}f}"
    return mean if summary.n < 2 else f"{mean} ± {factor * summary.sd:.{digits}f}"


def _is_constant(values: _Array) -> bool:
    return bool(np.ptp(values) <= _CONSTANT * np.abs(values).max())
