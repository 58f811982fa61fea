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
from dmri_fm_lab.prediction.targets import read_target


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
    def of(cls, column: pd.Series, *, classes: Sequence[str] = ()) -> Outcome:
        """Read a target.

        Parameters
        ----------
        column
            Index `participant_id`, without missing values.
        classes
            See :func:`.targets.read_target`, whose errors are raised.
        """
        values, task, names = read_target(column, classes)
        by_participant = zip(map(str, column.index), values.astype(float).tolist(), strict=True)
        return cls(str(column.name), task, dict(by_participant), names)

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
        return (0.0, 1.0) if is_class else (float(own.mean()), float(own.std(ddof=1)))

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
