import numpy as np
import pytest

from dmri_fm.out_of_distribution import fit_familiarity, percentile_of, score_features


def draw(rng, n, *, d=40):
    scale = np.concatenate([[5.0, 3.0, 1.0], np.full(d - 3, 0.1)])
    return rng.normal(size=(n, d)) * scale + 2.0


def test_like_scans_score_about_one_and_unlike_ones_beyond_all():
    rng = np.random.default_rng(0)
    statistics = fit_familiarity(draw(rng, 200), draw(rng, 100))
    scores = [score_features(row, statistics) for row in draw(rng, 100)]
    assert np.median(scores) == pytest.approx(1.0, abs=0.15)
    percentiles = [percentile_of(s, statistics) for s in scores]
    assert 35 < np.mean(percentiles) < 65
    strange = draw(rng, 1)[0]
    strange[20] += 3.0
    assert percentile_of(score_features(strange, statistics), statistics) == 100.0


def test_score_grows_with_distance():
    rng = np.random.default_rng(1)
    statistics = fit_familiarity(draw(rng, 50), draw(rng, 20))
    away = rng.normal(size=40)
    mean = statistics["mean"].numpy()
    scores = [score_features(mean + k * away, statistics) for k in range(4)]
    assert scores[0] == pytest.approx(0.0, abs=1e-3)
    assert scores == sorted(scores)


def test_features_without_variance_are_no_trouble():
    statistics = fit_familiarity(np.ones((8, 5)), np.ones((4, 5)))
    assert score_features(np.ones(5), statistics) == 0.0
    assert score_features(np.full(5, 2.0), statistics) > 1.0
