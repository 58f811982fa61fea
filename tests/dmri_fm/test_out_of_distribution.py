import numpy as np
import pytest
import torch

from dmri_fm.out_of_distribution import (
    ScanSummary,
    fit_reference,
    fit_scan_reference,
    percentile_of,
    score_features,
    score_scan,
)

NAMES = ("a", "b", "c", "d")


def draw(rng, n, *, d=40):
    scale = np.concatenate([[5.0, 3.0, 1.0], np.full(d - 3, 0.1)])
    return rng.normal(size=(n, d)) * scale + 2.0


def test_like_scans_score_about_one_and_unlike_ones_beyond_all():
    rng = np.random.default_rng(0)
    statistics = fit_reference(draw(rng, 200), draw(rng, 100))
    scores = [score_features(row, statistics) for row in draw(rng, 100)]
    assert np.median(scores) == pytest.approx(1.0, abs=0.15)
    percentiles = [percentile_of(s, statistics) for s in scores]
    assert 35 < np.mean(percentiles) < 65
    strange = draw(rng, 1)[0]
    strange[20] += 3.0
    assert percentile_of(score_features(strange, statistics), statistics) == 100.0


def test_score_grows_with_distance():
    rng = np.random.default_rng(1)
    statistics = fit_reference(draw(rng, 50), draw(rng, 20))
    away = rng.normal(size=40)
    mean = statistics["mean"].numpy()
    scores = [score_features(mean + k * away, statistics) for k in range(4)]
    assert scores[0] == pytest.approx(0.0, abs=1e-3)
    assert scores == sorted(scores)


def test_features_without_variance_are_no_trouble():
    statistics = fit_reference(np.ones((8, 5)), np.ones((4, 5)))
    assert score_features(np.ones(5), statistics) == 0.0
    assert score_features(np.full(5, 2.0), statistics) > 1.0


def draw_scans(n: int, seed: int) -> list[ScanSummary]:
    rng = np.random.default_rng(seed)
    return [
        ScanSummary(rng.normal(size=30), dict(zip(NAMES, rng.normal(size=4), strict=True)))
        for _ in range(n)
    ]


def test_the_largest_indicator_is_the_score() -> None:
    statistics = fit_scan_reference(draw_scans(60, 0), draw_scans(60, 1))
    scans = draw_scans(200, 2)
    percentiles = [score_scan(s, statistics).percentile for s in scans]
    assert 35 < np.mean(percentiles) < 65
    odd = scans[0]._replace(indicators=dict(zip(NAMES, [0.0, 8.0, 0.0, np.nan], strict=True)))
    score, percentile, indicators = score_scan(odd, statistics)
    assert percentile == 100
    assert indicators["b"] == max(s for s in indicators.values() if s is not None)
    assert score == pytest.approx(indicators["b"], abs=1e-3)
    assert list(indicators) == ["tokens", *NAMES]
    assert indicators["d"] is None, "unknown"


def test_a_distance_that_does_not_count_is_reported_alone() -> None:
    uncounted = [s._replace(counts_distance=False) for s in draw_scans(240, 4)]
    statistics = fit_scan_reference(uncounted[:60], uncounted[60:120])
    percentiles = [score_scan(s, statistics).percentile for s in uncounted[120:]]
    assert 35 < np.mean(percentiles) < 65
    far = uncounted[120]._replace(code=np.full(30, 50.0, dtype=np.float32))
    assert score_scan(far, statistics).score == score_scan(uncounted[120], statistics).score
    assert score_scan(far, statistics).indicators["tokens"] > 10
    assert score_scan(far._replace(counts_distance=True), statistics).percentile == 100


def test_indicators_that_no_scan_has_are_ignored() -> None:
    unknown = [s._replace(indicators=dict.fromkeys(NAMES, np.nan)) for s in draw_scans(40, 3)]
    statistics = fit_scan_reference(unknown[:20], unknown[20:])
    assert all(torch.isfinite(t).all() for t in statistics.values())
    assert np.isfinite(score_scan(unknown[0], statistics).score)


def test_no_reference_no_score() -> None:
    score, percentile, indicators = score_scan(draw_scans(1, 0)[0], None)
    assert np.isnan([score, percentile]).all()
    assert not indicators
