"""What networks are trained to predict: a number, or one of two classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.metrics import (
    TaskType,
    classification_metrics,
    regression_metrics,
)
from dmri_fm_lab.scan_tables import listed


@dataclass(frozen=True)
class Outcome:
    """A target by participant.

    Attributes
    ----------
    name
        Column of the table of participants.
    task
        "regression" or "classification".
    values
        By participant: numbers, or 1 for the positive class and 0 for the other.
    classes
        Negative and positive class; empty for numbers.
    """

    name: str
    task: TaskType
    values: Mapping[str, float]
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, column: pd.Series, *, positive: str | None = None) -> Outcome:
        """Read a target: text and numbers of two values are classes, other numbers numbers.

        Parameters
        ----------
        column
            Index `participant_id`, without missing values.
        positive
            The positive class; the second in order if None.

        Raises
        ------
        ConfigError
            If the target is constant or has more than two classes, or none is called `positive`.
        """
        name, levels = str(column.name), sorted(column.unique())
        is_text = not pd.api.types.is_numeric_dtype(column)
        if len(levels) < 2 or (is_text and len(levels) > 2):
            raise ConfigError(
                f"{name} has {'one value' if len(levels) == 1 else f'{len(levels)} classes'} "
                f"({listed([_level(v) for v in levels])}) in {len(column)} participants",
                expected="a number that varies, or two classes",
            )
        if positive is None and (len(levels) > 2):
            return cls(name, "regression", {str(p): float(v) for p, v in column.items()})
        texts = [_level(v) for v in levels]
        if len(levels) > 2 or (positive is not None and positive not in texts):
            raise ConfigError(
                f"no positive class {positive!r} of {name}", expected=f"one of {listed(texts)}"
            )
        chosen = texts[1] if positive is None else positive
        other = next(t for t in texts if t != chosen)
        values = {str(p): float(_level(v) == chosen) for p, v in column.items()}
        return cls(name, "classification", values, (other, chosen))

    def scale_of(self, names: Sequence[str], fold: str) -> tuple[float, float]:
        """Return mean and standard deviation in a training set; 0 and 1 for classes.

        Raises
        ------
        ConfigError
            If the training set has one class, or a constant target.
        """
        own = np.array([self.values[name] for name in names])
        if not np.ptp(own) > 0:
            raise ConfigError(
                f"fold {fold}: {self.name} is the same in all {len(own)} training participants",
                expected="numbers that vary, or both classes",
            )
        is_class = self.task == "classification"
        return (0.0, 1.0) if is_class else (float(own.mean()), float(own.std()))

    def prediction(self, output: float) -> float:
        """Return an output as a prediction: of a class, the logistic function of a logit."""
        if self.task == "regression":
            return output
        return 0.5 * (1.0 + math.tanh(0.5 * output))

    def score(self, predictions: Mapping[str, float], *, scale: float) -> dict[str, float]:
        """Return the scores of :mod:`dmri_fm_lab.prediction.metrics` of a test set."""
        observed = np.array([self.values[name] for name in predictions])
        predicted = np.array(list(predictions.values()))
        if self.task == "regression":
            return regression_metrics(observed, predicted, scale=scale)
        return classification_metrics(observed == 1.0, predicted)


def _level(value: object) -> str:
    """Return a class as text; 1.0 as 1, as tables have it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
