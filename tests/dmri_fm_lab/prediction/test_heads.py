from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from dmri_fm.errors import ConfigError
from dmri_fm_lab.commands import probe
from dmri_fm_lab.prediction import mlp
from dmri_fm_lab.prediction.heads import (
    HEADS,
    LOGISTIC_PENALTIES,
    HeadSettings,
    Vectors,
    inner_folds,
    prepare_head,
)
from dmri_fm_lab.prediction.published import PUBLISHED, PUBLISHED_TASKS

NUMBERS, CLASSES = (HeadSettings(task, n_seeds=2) for task in ("regression", "classification"))


def vectors(n: int, d: int, seed: int = 0) -> Vectors:
    return Vectors(np.random.default_rng(seed).normal(2.0, 3.0, (n, d)), np.arange(n))


NOBODY = Vectors(np.empty((0, 4)), np.empty(0))


def test_the_command_offers_all_heads_and_published_tasks() -> None:
    assert tuple(HEADS) == probe.HEADS
    assert tuple(PUBLISHED) == tuple(PUBLISHED_TASKS) == probe.PUBLISHED
    assert all(len(rows) == 9 for rows in PUBLISHED.values())


def test_the_published_probe_is_least_squares() -> None:
    train, new = vectors(50, 4), vectors(9, 4, seed=1).values
    rng = np.random.default_rng(2)
    y = train.values @ np.array([1.0, -2.0, 0.5, 0.0]) + rng.normal(size=50)
    fitted = prepare_head("linear", train, NOBODY, NUMBERS)(y, y[:0])
    design = np.column_stack([np.ones(50), train.values])
    beta = np.linalg.inv(design.T @ design) @ design.T @ y
    np.testing.assert_allclose(fitted.predict(new)[0], np.column_stack([np.ones(9), new]) @ beta)
    assert fitted.about == {"is_min_norm": 0.0}


def test_with_more_columns_than_rows_the_fit_is_exact_and_of_minimal_norm() -> None:
    train = vectors(12, 30)
    y = np.random.default_rng(1).normal(size=12)
    fitted = prepare_head("linear", train, NOBODY, NUMBERS)(y, y[:0])
    np.testing.assert_allclose(fitted.predict(train.values)[0], y, atol=1e-8)
    assert fitted.about == {"is_min_norm": 1.0}
    # Ridge tends to it as its penalty vanishes.
    ridge = prepare_head("ridge", train, NOBODY, HeadSettings("regression", penalty=1e-9))
    new = vectors(5, 30, seed=3).values
    np.testing.assert_allclose(ridge(y, y[:0]).predict(new), fitted.predict(new), atol=1e-5)


@pytest.mark.parametrize("shape", [(60, 5), (30, 80)])
def test_logistic_equals_a_fit_of_the_columns_themselves(shape) -> None:
    train = vectors(*shape)
    y = train.values[:, 0] > 2
    settings = HeadSettings("classification", penalty=0.5, is_weighted=True)
    fitted = prepare_head("logistic", train, NOBODY, settings)(y, y[:0])
    scaled = StandardScaler().fit(train.values)
    theirs = LogisticRegression(C=2.0, class_weight="balanced", tol=1e-8, max_iter=1000)
    theirs.fit(scaled.transform(train.values), y)
    new = vectors(9, shape[1], seed=1).values
    expected = theirs.predict_proba(scaled.transform(new))[:, 1]
    # Both stop at a gradient of 1e-4 or less.
    np.testing.assert_allclose(fitted.predict(new)[0], expected, atol=1e-3)


@pytest.mark.parametrize("settings", [NUMBERS, CLASSES], ids=lambda s: s.task)
def test_tuned_penalises_noise_more_than_signal(settings) -> None:
    train, rng = vectors(80, 20), np.random.default_rng(5)
    signal = train.values @ rng.normal(size=20) + rng.normal(size=80)
    noise = rng.normal(size=80)
    penalties = []
    for y in (signal, noise):
        target = y > np.median(y) if settings.task == "classification" else y - y.mean()
        fitted = prepare_head("tuned", train, NOBODY, settings)(target, target[:0])
        penalties.append(fitted.about["penalty"])
    assert penalties[0] < penalties[1] / 10


@pytest.mark.parametrize("settings", [NUMBERS, CLASSES], ids=lambda s: s.task)
def test_networks_stop_by_the_validation_set_and_differ_by_seed(settings, monkeypatch) -> None:
    monkeypatch.setattr(mlp, "EPOCHS", 60)
    train, val = vectors(60, 4), vectors(30, 4, seed=1)

    def target(v: Vectors) -> np.ndarray:
        y = np.tanh(v.values[:, 0] - 2)
        return y > 0 if settings.task == "classification" else y

    fitted = prepare_head("mlp", train, val, settings)(target(train), target(val))
    predicted = fitted.predict(val.values)
    assert predicted.shape == (settings.n_seeds, 30)
    assert np.ptp(predicted, axis=0).max() > 0
    assert np.corrcoef(predicted.mean(axis=0), target(val))[0, 1] > 0.7
    again = prepare_head("mlp", train, val, settings)(target(train), target(val))
    np.testing.assert_array_equal(again.predict(val.values), predicted)
    # Without a validation set, a part of training serves.
    alone = prepare_head("mlp", train, Vectors(val.values[:0], val.groups[:0]), settings)
    assert alone(target(train), target(train)[:0]).about["epoch"] >= 1


def test_groups_stay_together_in_the_choice_of_a_penalty() -> None:
    groups = np.repeat(np.arange(20), 3)
    y = np.arange(60) % 2 == 0
    for target in (y, y.astype(float)):
        for a, b in inner_folds(target, groups, seed=0):
            assert not set(groups[a]) & set(groups[b])
    with pytest.raises(ConfigError, match="1 of one class"):
        inner_folds(np.arange(9) == 0, np.arange(9), seed=0)
    with pytest.raises(ConfigError, match="in 1 groups"):
        inner_folds(np.arange(9.0), np.zeros(9), seed=0)


def test_requests_that_cannot_be_met() -> None:
    with pytest.raises(ConfigError, match="head ridge for a target of classification") as caught:
        prepare_head("ridge", vectors(9, 2), NOBODY, CLASSES)
    assert caught.value.expected == "tuned or linear or logistic or mlp"
    with pytest.raises(ConfigError, match="head 'forest'"):
        prepare_head("forest", vectors(9, 2), NOBODY, CLASSES)
    with pytest.raises(ConfigError, match="weighted loss of numbers"):
        HeadSettings("regression", is_weighted=True)
    with pytest.raises(ConfigError, match="penalty 0"):
        HeadSettings("regression", penalty=0)
    assert list(LOGISTIC_PENALTIES) == sorted(LOGISTIC_PENALTIES, reverse=True)
