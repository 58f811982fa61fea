"""Simulated cohorts: compensated effects, regions, nested regression, and the whole evaluation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import SMALL, DropeConfig
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError
from dmri_fm.normalise.grid import Grid
from dmri_fm.weights import save_weights
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate import cohorts
from dmri_fm_lab.evaluate.cohort_regions import brain_sizes, choose_parcels, regional_means
from dmri_fm_lab.evaluate.cohort_scores import PREDICTORS, format_cohort, score_cohort
from dmri_fm_lab.evaluate.cohorts import (
    CohortRequest,
    acquire_participant,
    draw_participants,
    evaluate_cohorts,
    with_more_csf,
)
from dmri_fm_lab.evaluate.galleries import noisy_scan
from dmri_fm_lab.evaluate.regression import (
    bootstrap_difference,
    explained,
    hold_out,
    hold_out_correlations,
    squared_errors,
)
from dmri_fm_lab.simulate.protocol import draw_shells
from dmri_fm_lab.simulate.subject import Tissue
from dmri_fm_lab.simulate.voxel_effects import (
    COMPENSATED_LOG_STICK_FRACTION,
    EFFECTS,
    LOG_STICK_FRACTION,
    more_crossing,
    with_compensated_effect,
    with_fa_effect,
)
from dmri_fm_lab.simulate.voxel_tissue import Geometry, tissue_signal
from dmri_fm_lab.train.runs import load_encoder

SIDE = 16
TINY = replace(SMALL, grid_shape=(SIDE,) * 3, dim=24, depth=1, heads=2)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
REQUEST = CohortRequest(n_participants=20, n_heads=4, n_directions=7)


@pytest.fixture(scope="module")
def head() -> Geometry:
    """A ball of white matter, half of it with one fibre and half with two, in a shell of grey."""
    rng = np.random.default_rng(0)
    index = np.indices((SIDE,) * 3)
    apart = np.linalg.norm(index - 7.5, axis=0)
    mask = apart < 7.5
    n, white = int(mask.sum()), apart[mask] < 6
    fractions = np.stack([0.9 * white, 0.9 * ~white, np.full(n, 0.1)], axis=1)
    axes = np.tile(np.linalg.qr(rng.normal(size=(3, 3)))[0], (n, 1, 1))
    shares = np.zeros((n, 3))
    shares[white] = [1.0, 0.0, 0.0]
    shares[white & (index[0][mask] > 7)] = [0.65, 0.35, 0.0]
    parts = (a.astype(np.float32) for a in (fractions, axes, shares))
    return Geometry(mask, AFFINE, *parts)


@pytest.fixture(scope="module")
def gtab():
    (gtab,) = draw_shells(np.random.default_rng(0), n_directions=12, bvals=(1000.0,))
    return gtab


@pytest.mark.parametrize("effect", [-1.5, 1.5])
def test_a_compensated_effect_leaves_fa_and_md_of_every_region(head, gtab, effect) -> None:
    tissue = Tissue()
    changed = with_compensated_effect(head, tissue, gtab, effect)
    assert changed.affected > 0.95
    signals = [
        tissue_signal(head, tissue, gtab),
        tissue_signal(changed.geometry, changed.tissue, gtab, fibres=changed.fibres),
    ]
    rng = np.random.default_rng(0)
    parcels = choose_parcels([head])
    regions = [
        regional_means(noisy_scan(head, s, gtab, snr=np.inf, rng=rng), head, parcels)
        for s in signals
    ]
    # The tolerance of a voxel is 2e-4.
    np.testing.assert_allclose(regions[1], regions[0], atol=2e-4)
    # The images differ all the same, and the tissue by what was asked for.
    weighted = ~gtab.is_b0
    relative = np.abs(signals[1] - signals[0])[:, weighted].max() / signals[0][:, weighted].mean()
    assert relative > 0.02
    np.testing.assert_array_equal(signals[1][:, ~weighted], signals[0][:, ~weighted])
    fraction = np.asarray(changed.fibres.stick_fraction)
    expected = tissue.stick_fraction * np.exp(COMPENSATED_LOG_STICK_FRACTION * effect)
    assert fraction[head.fractions[:, 0] > 0.8] == pytest.approx(expected, rel=1e-5)
    # Without compensation they would have changed by far more.
    plain = with_fa_effect(head, tissue, gtab, effect)
    signal = tissue_signal(plain.geometry, plain.tissue, gtab, fibres=plain.fibres)
    moved = regional_means(noisy_scan(head, signal, gtab, snr=np.inf, rng=rng), head, parcels)
    assert np.abs(moved - regions[0]).max() > 5e-3


def test_effects_may_differ_between_voxels(head, gtab) -> None:
    rng = np.random.default_rng(1)
    each = rng.uniform(-1.0, 1.0, int(head.mask.sum())).astype(np.float32)
    for name, change in EFFECTS.items():
        mixed, same = (change(head, Tissue(), gtab, e) for e in (each, np.full_like(each, 0.7)))
        whole = change(head, Tissue(), gtab, 0.7)
        for one, other in zip(same.fibres, whole.fibres, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4)
        np.testing.assert_allclose(same.geometry.shares, whole.geometry.shares, rtol=1e-5)
        # Voxel by voxel the stick fraction is what was asked for.
        white = head.fractions[:, 0] > 0.8
        size = {"fa-md": LOG_STICK_FRACTION, "compensated": COMPENSATED_LOG_STICK_FRACTION}[name]
        fraction = np.broadcast_to(mixed.fibres.stick_fraction, each.shape)[white]
        expected = Tissue().stick_fraction * np.exp(size * each[white])
        np.testing.assert_allclose(fraction, expected, rtol=1e-5)
    plain = tissue_signal(head, Tissue(), gtab)
    signal = tissue_signal(mixed.geometry, mixed.tissue, gtab, fibres=mixed.fibres)
    still = np.random.default_rng(0)
    parcels = choose_parcels([head])
    with_effect, without = (
        regional_means(noisy_scan(head, s, gtab, snr=np.inf, rng=still), head, parcels)
        for s in (signal, plain)
    )
    # The compensated effect is the last; the tolerance of a voxel is 2e-4.
    np.testing.assert_allclose(with_effect, without, atol=2e-4)


def test_no_effect_changes_nothing(head, gtab) -> None:
    plain = tissue_signal(head, Tissue(), gtab)
    for change in EFFECTS.values():
        same = change(head, Tissue(), gtab, 0.0)
        signal = tissue_signal(same.geometry, same.tissue, gtab, fibres=same.fibres)
        np.testing.assert_allclose(signal, plain, rtol=1e-5)


def test_crossing_fibres_keep_the_sum_of_the_shares() -> None:
    shares = np.array([[0.5, 0.3, 0.1], [1, 0, 0], [0, 0, 0]], dtype=np.float32)
    more = more_crossing(shares, 0.5)
    np.testing.assert_allclose(more.sum(axis=1), shares.sum(axis=1), rtol=1e-6)
    assert more[0, 1] / more[0, 0] == pytest.approx(0.6 * np.exp(0.5), rel=1e-5)
    np.testing.assert_array_equal(more[1:], shares[1:])


def test_sizes_of_a_brain(head) -> None:
    brain, white, grey, csf, ventricles = brain_sizes(head)
    assert brain == pytest.approx(head.mask.sum() * 0.008)
    # Sums of many numbers in single precision.
    assert white + grey + csf == pytest.approx(brain, rel=1e-4)
    assert ventricles == 0, "a ball of 15 mm has nothing at a depth of 22 mm"
    wider = with_more_csf(head, 0.5)
    np.testing.assert_allclose(wider.fractions.sum(axis=1), 1, rtol=1e-6)
    assert brain_sizes(wider)[3] > 1.4 * csf


def test_participants_differ_in_all_but_are_the_same_in_both_cohorts(head) -> None:
    people = draw_participants(CohortRequest(n_participants=400))
    effect, outcome = (np.array([getattr(p, k) for p in people]) for k in ("effect", "outcome"))
    # Standard errors of .02 and .05.
    assert np.corrcoef(effect, outcome)[0, 1] == pytest.approx(0.8, abs=0.07)
    assert abs(np.corrcoef([p.snr for p in people], outcome)[0, 1]) < 0.15
    assert {p.head for p in people} == set(range(12))
    scans = [acquire_participant(people[0], head, effect, REQUEST) for effect in EFFECTS]
    np.testing.assert_array_equal(scans[0][0].gtab.bvecs_ras, scans[1][0].gtab.bvecs_ras)
    np.testing.assert_array_equal(scans[0][2].signal, scans[1][2].signal)
    assert np.abs(scans[0][0].signal - scans[1][0].signal).max() > 1e-3
    with pytest.raises(ConfigError, match="3 participants"):
        CohortRequest(n_participants=3)


def test_nested_regression_finds_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 20))
    y = x[:, 0] + 0.5 * rng.normal(size=100)
    heads = np.arange(100) % 10
    good, noise = (squared_errors(f, y, heads) for f in (x, rng.normal(size=(100, 300))))
    assert explained(good, y) == pytest.approx(0.8, abs=0.1)
    assert explained(noise, y) < 0.1
    apart = bootstrap_difference(good, noise, y, rng)
    assert apart.value == pytest.approx(explained(good, y) - explained(noise, y))
    assert 0.3 < apart.low < apart.value < apart.high
    same = bootstrap_difference(good, good, y, rng)
    assert same == (0.0, 0.0, 0.0)


def test_what_a_head_shares_predicts_nothing() -> None:
    rng = np.random.default_rng(0)
    heads = np.arange(120) % 12
    # An outcome that is the head's own, and features that tell heads apart and nothing else.
    y = rng.normal(size=12)[heads] + 0.1 * rng.normal(size=120)
    x = rng.normal(size=(12, 40))[heads] + 0.1 * rng.normal(size=(120, 40))
    assert explained(squared_errors(x, y, heads), y) < 0.1
    assert explained(squared_errors(x, y, np.arange(120)), y) > 0.9, "heads in both folds"


def test_hold_outs_are_disjoint_inside_and_overlap_each_other() -> None:
    rng = np.random.default_rng(0)
    parts = [hold_out(rng, 40, (0.3, 0.35, 0.35)) for _ in range(2)]
    assert [len(p) for p in parts[0]] == [12, 14, 14]
    assert sorted(np.concatenate(parts[0])) == list(range(40))
    assert np.isin(parts[0][2], parts[1][2]).any()
    x, heads = rng.normal(size=(200, 3)), np.arange(200) % 8
    y = x @ np.array([1.0, 2.0, 3.0])
    found = hold_out_correlations(x, y, heads, (0.5, 0.25, 0.25))
    assert len(found) == 5
    assert min(found) > 0.99


def test_the_verdict_follows_the_intervals() -> None:
    rng = np.random.default_rng(0)
    outcome, heads = rng.normal(size=60), np.arange(60) % 6
    good = [np.array([y, 0.0]) for y in outcome]
    noise = list(rng.normal(size=(60, 2)))
    rows = dict.fromkeys(PREDICTORS, noise) | {"both": good, "regions": good}
    extra = dict.fromkeys(("regions_noiseless", "regions_unaffected", "affected"), noise)
    text = format_cohort("x", score_cohort({**rows, **extra}, outcome, heads))
    assert "cls + pooled: not inferior to regional FA and MD" in text
    assert "not shown to be better than: regional FA and MD\n" in f"{text}\n"
    rows |= {"both": noise}
    text = format_cohort("x", score_cohort({**rows, **extra}, outcome, heads))
    assert "NOT shown to be non-inferior" in text
    assert "better than: none;" in text


def test_the_command(head, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(DropeConfig, "grid", Grid((SIDE,) * 3, AFFINE))
    monkeypatch.setattr(cohorts, "brain_geometry", lambda *_, **__: head)
    weights, cache, out = tmp_path / "tiny.safetensors", tmp_path / "cache", tmp_path / "out.json"
    torch.manual_seed(0)
    save_weights(weights, Drope(TINY), name="drope", version="0", training={})
    options = ["--participants", "20", "--heads", "4", "--weights", str(weights)]
    options += ["--cache", str(cache), "--json", str(out)]
    assert main(["evaluate", "cohorts", *options]) == 0
    text = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert list(found["cohorts"]) == list(EFFECTS)
    for effect, cohort in found["cohorts"].items():
        assert list(cohort["predictors"]) == list(PREDICTORS)
        assert f"| cohort {effect} |" in text
        assert all(len(row["hold_outs"]) == 3 for row in cohort["predictors"].values())
    # What FA and MD of regions show, without noise.
    changes = {name: cohort["effect"]["fa_change"] for name, cohort in found["cohorts"].items()}
    assert changes["compensated"] < 2e-4 < changes["fa-md"]
    files = sorted(cache.rglob("*.npz"))
    assert len(files) == 4 + 2 * 20, "heads, and every participant of both cohorts"
    # The evaluation goes on from what there is.
    monkeypatch.setattr(cohorts, "compared_features", None)
    request = CohortRequest(20, 4)
    encoder, _ = load_encoder("drope", weights=weights)
    again = evaluate_cohorts(encoder, request, cache=cache, report=lambda _: None)
    assert again["cohorts"] == found["cohorts"]
