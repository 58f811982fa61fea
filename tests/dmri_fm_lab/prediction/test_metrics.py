from __future__ import annotations

import math

import numpy as np
import pytest

from dmri_fm_lab.prediction.metrics import (
    SCORES,
    Summary,
    classification_metrics,
    format_summary,
    regression_metrics,
    summarise,
)


def test_scores_of_numbers_follow_their_definitions() -> None:
    rng = np.random.default_rng(0)
    observed = rng.normal(50, 10, 200)
    predicted = observed + rng.normal(0, 5, 200)
    scores = regression_metrics(observed, predicted, scale=10.0)
    assert tuple(scores) == SCORES["regression"]
    assert scores["rho"] == pytest.approx(np.corrcoef(observed, predicted)[0, 1])
    assert scores["mse"] == pytest.approx(np.mean(((predicted - observed) / 10) ** 2))
    # The scaled error does not depend on the unit of the target.
    months = regression_metrics(12 * observed, 12 * predicted, scale=120.0)
    assert months["mse"] == pytest.approx(scores["mse"])
    assert months["mae"] == pytest.approx(12 * scores["mae"])


def test_the_mean_has_no_correlation_and_explains_nothing() -> None:
    observed = np.array([1.0, 2.0, 3.0])
    scores = regression_metrics(observed, np.full(3, 2.0))
    assert math.isnan(scores["rho"])
    assert scores["r2"] == 0
    alone = regression_metrics(np.ones(3), observed)
    assert math.isnan(alone["rho"])
    assert math.isnan(alone["r2"])


def test_a_prediction_that_knows_nothing_has_the_prevalence_as_auprc() -> None:
    rng = np.random.default_rng(0)
    observed = rng.random(20_000) < 0.3
    scores = classification_metrics(observed, rng.random(20_000))
    assert tuple(scores) == SCORES["classification"]
    # Four standard errors, about .004 each.
    assert scores["auroc"] == pytest.approx(0.5, abs=0.016)
    assert scores["auprc"] == pytest.approx(scores["prevalence"], abs=0.016)
    always = classification_metrics(observed, np.zeros(20_000))
    assert always["acc"] == pytest.approx(1 - observed.mean())
    assert always["balanced_accuracy"] == 0.5


def test_one_class_has_no_area() -> None:
    scores = classification_metrics(np.ones(3, bool), np.array([0.2, 0.6, 0.9]))
    assert math.isnan(scores["auroc"])
    assert math.isnan(scores["balanced_accuracy"])
    assert scores["acc"] == pytest.approx(2 / 3)


def test_undefined_scores_are_counted_out() -> None:
    assert summarise([math.nan]).n == 0
    assert format_summary("rho", summarise([math.nan])) == "n/a"
    assert summarise([0.5, math.nan]).n == 1
    assert format_summary("mse", Summary(0.5, math.nan, 1)) == "0.500"
