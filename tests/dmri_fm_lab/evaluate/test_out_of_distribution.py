"""Corrupted scans, and the out-of-distribution score of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.encoder import encode_tokens
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.out_of_distribution import fit_scan_reference
from dmri_fm.weights import Weights
from dmri_fm_lab.evaluate.corruptions import CORRUPTIONS, SEVERITIES
from dmri_fm_lab.evaluate.out_of_distribution import (
    _sets,
    auroc,
    format_corruptions,
    score_corruptions,
)
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.simulate import spread_directions

CONFIG = DropeConfig((24, 28, 24), 2.0, (4, 4, 4), dim=24, depth=1, heads=2)


def intact(seed=0, n=14):
    """Return an ellipsoid of two tissues with little noise."""
    rng = np.random.default_rng(seed)
    gtab = GradientTable(np.full(n, 1000.0), spread_directions(rng, n))
    offset = np.indices(CONFIG.grid_shape) - np.array([11.5, 13.5, 11.5])[:, None, None, None]
    radius = np.linalg.norm(offset / np.array([8.0, 11.0, 9.0])[:, None, None, None], axis=0)
    mask = radius < 1
    along = (gtab.bvecs_ras @ np.array([1.0, 0, 0])) ** 2
    white = np.exp(-(0.3 + 1.2 * along))
    signal = np.where((radius < 0.6)[..., None], white, 0.45) * mask[..., None]
    signal = signal + 0.01 * rng.normal(size=signal.shape) * mask[..., None]
    empty = np.zeros(mask.shape, np.float32)
    return GridScan(f"scan {seed}", "raw", signal.astype(np.float32), gtab, mask, np.eye(4), empty)


@pytest.fixture
def loaded():
    """Return an untrained encoder with statistics of intact scans."""
    torch.manual_seed(0)
    network = Drope(CONFIG).eval().requires_grad_(False)
    codes = []
    for seed in range(100, 140):
        (scan,) = _sets(intact(seed), CONFIG.gamma)
        tokens = tokenise(scan.signal, scan.gtab, scan.mask, CONFIG)
        codes.append(encode_tokens(network, tokens).summary)
    statistics = fit_scan_reference(codes[:24], codes[24:])
    return Weights("drope", "1", "0", CONFIG, network, statistics, {}, {})


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_corruption_changes_the_brain_and_nothing_else(name):
    scan = intact()
    before = scan.signal.copy()
    corrupted = CORRUPTIONS[name](scan, np.random.default_rng(0))
    assert name in SEVERITIES
    assert corrupted.signal.shape == scan.signal.shape
    assert corrupted.signal.dtype == np.float32
    assert not corrupted.signal[~corrupted.mask].any()
    assert np.abs(corrupted.signal - before).max() > 0.1
    np.testing.assert_array_equal(scan.signal, before, "the intact scan stays")
    again = CORRUPTIONS[name](scan, np.random.default_rng(0))
    np.testing.assert_array_equal(again.signal, corrupted.signal)


def test_a_turned_brain_keeps_its_size_and_its_middle():
    scan = intact()
    turned = CORRUPTIONS["wrong orientation"](scan, np.random.default_rng(0))
    assert turned.mask.sum() == pytest.approx(scan.mask.sum(), rel=0.05)
    widths = [np.ptp(np.argwhere(m.mask), axis=0) for m in (scan, turned)]
    np.testing.assert_allclose(widths[1], widths[0][[0, 2, 1]], atol=1)


def test_a_slab_is_missing_at_the_top():
    scan = intact()
    cut = CORRUPTIONS["missing slab"](scan, np.random.default_rng(0))
    level = [np.flatnonzero(m.mask.any(axis=(0, 1))) for m in (scan, cut)]
    assert level[1].min() == level[0].min()
    assert len(level[1]) == len(level[0]) - round(0.3 * len(level[0]))


def test_corrupted_scans_score_higher(loaded):
    found = score_corruptions(loaded, [intact(k) for k in range(4)])
    assert len(found["scans"]) == 4, "14 directions make one set of twelve"
    assert set(found["auroc"]) == set(CORRUPTIONS)
    assert found["auroc"]["non-brain"] == 1.0
    assert found["auroc"]["noise"] == 1.0
    assert np.median(found["percentiles"]["clean"]) < 100
    assert "AUROC" in format_corruptions(found)
    assert len(score_corruptions(loaded, [intact(0, n=24), intact(1)])["scans"]) == 3


def test_what_is_missing_is_said(loaded):
    with pytest.raises(ConfigError, match="1 intact"):
        score_corruptions(loaded, [intact()])
    with pytest.raises(WeightsError, match="statistics"):
        score_corruptions(replace(loaded, statistics={}), [intact(), intact(1)])


def test_auroc_of_equal_scores_is_one_half():
    assert auroc([1.0, 1.0], [1.0, 1.0]) == 0.5
