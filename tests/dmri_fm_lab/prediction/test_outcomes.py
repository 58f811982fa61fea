"""Targets: numbers and two classes."""

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.outcomes import Outcome


def column(values, name="y"):
    return pd.Series(values, index=[f"sub-{i}" for i in range(len(values))], name=name)


def test_numbers_are_scaled_by_a_training_set():
    outcome = Outcome.of(column([1.0, 3.0, 8.0]))
    assert outcome.task == "regression"
    assert outcome.scale_of(["sub-0", "sub-1"], "1") == (2.0, 2.0**0.5)
    scores = outcome.score({"sub-0": 1.0, "sub-1": 4.0, "sub-2": 8.0}, scale=2.0)
    assert scores["mse"] == pytest.approx(1 / 3 / 4)


@pytest.mark.parametrize("values", [["CN", "MCI", "CN"], [0.0, 1.0, 0.0]])
def test_two_values_are_classes(values):
    outcome = Outcome.of(column(values))
    assert outcome.classes == (("CN", "MCI") if values[0] == "CN" else ("0", "1"))
    assert list(outcome.values.values()) == [0, 1, 0]
    assert outcome.scale_of(list(outcome.values), "1") == (0.0, 1.0)
    other = Outcome.of(column(values), classes=outcome.classes[::-1])
    assert list(other.values.values()) == [1, 0, 1]


@pytest.mark.parametrize("logit", [-1000.0, -2.0, 0.0, 3.0, 1000.0])
def test_a_logit_is_a_probability(logit):
    with np.errstate(over="ignore"):
        expected = 1 / (1 + np.exp(-logit))
    outcome = Outcome.of(column(["a", "b"]))
    assert outcome.prediction(logit) == pytest.approx(expected, abs=1e-12)


def test_targets_that_cannot_be_predicted():
    with pytest.raises(ConfigError, match="y has 3 classes: a, b, c"):
        Outcome.of(column(["a", "b", "c"]))
    with pytest.raises(ConfigError, match="y is 2 for all of 2 rows"):
        Outcome.of(column([2.0, 2.0]))
    with pytest.raises(ConfigError, match="fold 7: y is the same in all 2"):
        Outcome.of(column(["a", "a", "b"])).scale_of(["sub-0", "sub-1"], "7")
