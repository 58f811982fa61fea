"""Winners, ties, site leakage and retrieval, on vectors whose content is known."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm_lab.encoder_comparison.scores import (
    best_probe,
    best_share,
    probe_errors,
    retrieval_hits,
    site_hits,
)
from dmri_fm_lab.evaluate.regression import explained, squared_errors

N = 120
HEADS = np.arange(N) % 6


@pytest.fixture
def outcome() -> np.ndarray:
    return np.random.default_rng(0).normal(size=N)


def noisy(outcome: np.ndarray, size: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns = [outcome + size * rng.normal(size=N), rng.normal(size=N)]
    return np.stack(columns, axis=1)


def test_a_probe_is_trained_on_the_first_protocol_alone(outcome: np.ndarray) -> None:
    good = noisy(outcome, 0.1)
    errors = probe_errors({"A": good, "B": -good}, outcome, HEADS)
    np.testing.assert_array_equal(errors["A"], squared_errors(good, outcome, HEADS))
    assert explained(errors["A"], outcome) > 0.95
    # What is learnt from A has the wrong sign for B.
    assert explained(errors["B"], outcome) < -1


def test_the_winner_is_named_and_ties_are_said(outcome: np.ndarray) -> None:
    def errors(size: float, seed: int) -> np.ndarray:
        return squared_errors(noisy(outcome, size, seed), outcome, HEADS)

    rows = {"a": errors(1.0, 2), "b": errors(0.1, 3), "c": errors(0.1, 4)}
    verdict = best_probe(rows, outcome)
    assert {verdict.best, *verdict.ties} == {"b", "c"}
    assert "tie with" in str(verdict)
    clear = best_probe({"a": rows["a"], "b": rows["b"]}, outcome)
    assert clear.best == "b"
    assert clear.ties == ()
    assert clear.lead is not None
    assert 0 < clear.lead.low < clear.lead.value < clear.lead.high


def test_nobody_wins_where_nothing_is_predicted(outcome: np.ndarray) -> None:
    noise = np.random.default_rng(5).normal(size=(N, 3))
    verdict = best_probe({"a": squared_errors(noise, outcome, HEADS)}, outcome)
    assert verdict.best is None
    assert "nobody is better than chance" in str(verdict)


def test_shares_are_best_high_or_low() -> None:
    rng = np.random.default_rng(0)
    rows = {"often": (rng.random(N) < 0.9) * 1.0, "seldom": (rng.random(N) < 0.4) * 1.0}
    assert best_share(rows, chance=0.3).best == "often"
    assert best_share(rows, lowest=True).best == "seldom"
    assert best_share({"seldom": rows["seldom"]}, chance=0.5).best is None
    assert best_share({"a": rows["often"], "b": rows["often"]}).ties == ("b",)


def test_sites_are_told_from_vectors_that_hold_them() -> None:
    sites = (np.arange(N) // 6 + HEADS) % 3
    rng = np.random.default_rng(0)
    offset = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    leaking = offset[sites] + 0.3 * rng.normal(size=(N, 2))
    assert site_hits(leaking, sites, HEADS).mean() > 0.95
    assert site_hits(rng.normal(size=(N, 2)), sites, HEADS).mean() < 0.5


def test_retrieval_is_within_protocols_that_differ_by_an_offset() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(30, 20))
    assert retrieval_hits(first, 5 + 2 * first + 0.1 * rng.normal(size=(30, 20))).mean() > 0.95
    assert retrieval_hits(first, rng.normal(size=(30, 20))).mean() < 0.3
