"""Signs of an unusual scan."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.network import SMALL
from dmri_fm.encoders.drope.patches import unpatchify
from dmri_fm.encoders.drope.template_patches import template_tissue
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.encoders.out_of_distribution import (
    SIGNS,
    ScanCode,
    fit_unusual,
    judge_scan_code,
    plain_signs,
    scaled_signs,
)
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate import spread_directions

MISSING, ANATOMY, VOLUMES, EVENNESS = range(4)


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


def test_a_sound_scan(scan: ScanTokens) -> None:
    signs = plain_signs(scan, SMALL)
    assert signs[MISSING] < 0.1
    assert signs[ANATOMY] < 0.5
    assert np.isfinite(signs).all()


def test_what_is_missing_shows_in_its_octant(scan: ScanTokens) -> None:
    low = scan.positions[:, 2] < scan.positions[:, 2].quantile(0.7)
    cut = scan.select_places(np.flatnonzero(low.numpy()))
    assert plain_signs(cut, SMALL)[MISSING] > 0.3


def test_other_anatomy_is_not_explained(scan: ScanTokens) -> None:
    order = torch.randperm(len(scan.index), generator=torch.Generator().manual_seed(0))
    shuffled = replace(scan, patches=scan.patches[:, order], brain=scan.brain[order])
    sound, spoilt = (plain_signs(s, SMALL)[ANATOMY] for s in (scan, shuffled))
    assert spoilt > sound + 0.1


def test_a_volume_that_lost_signal_stands_out(scan: ScanTokens) -> None:
    patches = scan.patches.clone()
    patches[3] *= 0.7
    sound, spoilt = (
        plain_signs(s, SMALL)[VOLUMES] for s in (scan, replace(scan, patches=patches))
    )
    assert spoilt > sound + 1.0


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
    one, several = (plain_signs(s, SMALL)[VOLUMES] for s in (scan, draw_scan(bvals)))
    spoilt = replace(scan, patches=scan.patches.clone())
    spoilt.patches[3] *= 0.7
    assert several < one + 0.3 * (plain_signs(spoilt, SMALL)[VOLUMES] - one)


def test_places_without_brain_are_left_out(scan: ScanTokens) -> None:
    padded = replace(scan, brain=scan.brain.clone())
    padded.brain[0] = 0.0
    assert np.isfinite(plain_signs(padded, SMALL)).all()


def test_few_directions_contradict_nothing(scan: ScanTokens) -> None:
    signs = plain_signs(scan.select(np.arange(5)), SMALL)
    assert np.isnan(signs[VOLUMES:]).all()
    assert np.isfinite(signs[:VOLUMES]).all()


def draw_codes(n: int, seed: int) -> list[ScanCode]:
    rng = np.random.default_rng(seed)
    empty = np.zeros(0, np.float32)
    return [
        ScanCode(empty, empty, rng.normal(size=30), rng.normal(size=4).astype(np.float32))
        for _ in range(n)
    ]


def test_the_largest_sign_is_the_score() -> None:
    statistics = fit_unusual(draw_codes(60, 0), draw_codes(60, 1))
    codes = draw_codes(200, 2)
    percentiles = [judge_scan_code(c, statistics)[1] for c in codes]
    assert 35 < np.mean(percentiles) < 65
    odd = codes[0]._replace(signs=np.array([0.0, 8.0, 0.0, np.nan], np.float32))
    score, percentile, signs = judge_scan_code(odd, statistics)
    assert percentile == 100
    assert signs["anatomy"] == max(s for s in signs.values() if s is not None)
    assert score == pytest.approx(signs["anatomy"], abs=1e-3)
    assert list(signs) == list(SIGNS)
    assert np.isnan(scaled_signs(odd, statistics)[4])
    assert signs["evenness"] is None, "what is not known is said to be so"


def test_signs_that_no_scan_has_are_left_out() -> None:
    unknown = [c._replace(signs=np.full(4, np.nan, np.float32)) for c in draw_codes(40, 3)]
    statistics = fit_unusual(unknown[:20], unknown[20:])
    assert all(torch.isfinite(t).all() for t in statistics.values())
    assert np.isfinite(judge_scan_code(unknown[0], statistics)[0])
