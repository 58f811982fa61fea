"""Indicators of out-of-distribution scans."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import SMALL
from dmri_fm.encoders.drope.masked_directions import prediction_errors
from dmri_fm.encoders.drope.scan_indicators import scan_indicators
from dmri_fm.encoders.drope.template_patches import template_tissue
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.encoders.patches import unpatchify
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate import spread_directions


@pytest.fixture(scope="module")
def scan() -> ScanTokens:
    return draw_scan(np.full(12, 1000.0))


def draw_scan(bvals: np.ndarray) -> ScanTokens:
    """A head whose signal follows the template's tissue, little noise."""
    rng = np.random.default_rng(0)
    gtab = GradientTable(bvals, spread_directions(rng, len(bvals)))
    tissue = template_tissue(SMALL).permute(2, 0, 1)[None]
    wm, gm = unpatchify(tissue, SMALL.patch, SMALL.patch_grid)[0].numpy()
    mask = wm + gm > 0.3
    along = (gtab.bvecs_ras @ np.array([1.0, 0, 0])) ** 2
    b = bvals / 1000.0
    white = np.exp(-b * (0.6 + 0.2 * along))
    signal = wm[..., None] * white + np.exp(-0.8 * b) * gm[..., None]
    signal = signal + 0.02 * rng.normal(size=signal.shape)
    return tokenise(signal.astype(np.float32), gtab, mask, SMALL)


def indicate(tokens: ScanTokens) -> dict[str, float]:
    return scan_indicators(tokens, SMALL, prediction_errors(tokens))


def test_a_scan_like_the_template(scan: ScanTokens) -> None:
    indicators = indicate(scan)
    assert indicators["missing"] < 0.1
    assert indicators["anatomy"] < 0.5
    assert all(np.isfinite(v) for v in indicators.values())


def test_what_is_missing_shows_in_its_octant(scan: ScanTokens) -> None:
    low = scan.positions[:, 2] < scan.positions[:, 2].quantile(0.7)
    cut = scan.select_patches(np.flatnonzero(low.numpy()))
    assert indicate(cut)["missing"] > 0.3


def test_other_anatomy_is_not_explained(scan: ScanTokens) -> None:
    order = torch.randperm(len(scan.index), generator=torch.Generator().manual_seed(0))
    shuffled = replace(scan, patches=scan.patches[:, order], brain=scan.brain[order])
    intact, spoilt = (indicate(s)["anatomy"] for s in (scan, shuffled))
    assert spoilt > intact + 0.1


def test_a_volume_that_lost_signal_stands_out(scan: ScanTokens) -> None:
    patches = scan.patches.clone()
    patches[3] *= 0.7
    intact, spoilt = (indicate(s)["volumes"] for s in (scan, replace(scan, patches=patches)))
    assert spoilt > intact + 1.0


@pytest.mark.parametrize(
    "bvals",
    [
        np.repeat([1000.0, 2500.0], 6),
        np.tile([1000.0, 2500.0], 6),
        np.array([1000.0] * 11 + [2500.0]),
    ],
    ids=["blocks", "in turn", "one apart"],
)
def test_several_shells_are_no_contradiction(scan: ScanTokens, bvals: np.ndarray) -> None:
    one, several = (indicate(s)["volumes"] for s in (scan, draw_scan(bvals)))
    spoilt = replace(scan, patches=scan.patches.clone())
    spoilt.patches[3] *= 0.7
    assert several < one + 0.3 * (indicate(spoilt)["volumes"] - one)


def test_patches_without_brain_are_left_out(scan: ScanTokens) -> None:
    padded = replace(scan, brain=scan.brain.clone())
    padded.brain[0] = 0.0
    assert all(np.isfinite(v) for v in indicate(padded).values())


def test_few_directions_contradict_nothing(scan: ScanTokens) -> None:
    indicators = indicate(scan.select(np.arange(5)))
    unknown = [name for name, value in indicators.items() if np.isnan(value)]
    assert unknown == ["volumes", "evenness"]
