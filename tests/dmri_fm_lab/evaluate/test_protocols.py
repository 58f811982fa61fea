from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import SMALL, DropeConfig
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid
from dmri_fm.weights import save_weights
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate import galleries, protocols
from dmri_fm_lab.evaluate.galleries import (
    acquire_tissue,
    draw_gallery,
)
from dmri_fm_lab.evaluate.protocols import (
    ProtocolRequest,
    compare_directions,
    evaluate_gallery,
    format_agreement,
    format_gallery,
)
from dmri_fm_lab.evaluate.reliability import PARTS
from dmri_fm_lab.evaluate.representations import (
    FEATURES,
    encode,
    known_columns,
    with_untrained,
)
from dmri_fm_lab.evaluate.retrieval import (
    agreement,
    probe,
    rank_one,
    retrieve,
    retrieve_linked,
)
from dmri_fm_lab.feature_cache import FeatureCache
from dmri_fm_lab.simulate.protocol import draw_shells
from dmri_fm_lab.simulate.subject import Tissue
from dmri_fm_lab.simulate.voxel_tissue import FACTORS, INTENSITY, Geometry, tissue_signal
from dmri_fm_lab.train.drope import start_autoencoder

SIDE = 16
TINY = replace(SMALL, grid_shape=(SIDE,) * 3, dim=24, depth=1, heads=2)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


@pytest.fixture(scope="module")
def geometry():
    """A ball of crossing fibres in white matter, with a shell of grey matter and CSF."""
    rng = np.random.default_rng(0)
    apart = np.linalg.norm(np.indices((SIDE,) * 3) - 7.5, axis=0)
    mask = apart < 7.5
    n, radius = int(mask.sum()), apart[mask]
    fractions = np.stack([radius < 5, (radius >= 5) & (radius < 6.5), radius >= 6.5], 1)
    axes = rng.normal(size=(n, 3, 3))
    axes /= np.linalg.norm(axes, axis=2, keepdims=True)
    shares = np.zeros((n, 3))
    shares[radius < 5] = [0.7, 0.3, 0.0]
    parts = (a.astype(np.float32) for a in (fractions, axes, shares))
    return Geometry(mask, AFFINE, *parts)


def test_the_signal_of_one_fibre_by_hand() -> None:
    one = Geometry(
        np.ones((1, 1, 2), dtype=bool),
        AFFINE,
        np.array([[1, 0, 0], [0, 0.5, 0.5]], dtype=np.float32),
        np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)),
        np.array([[1, 0, 0], [0, 0, 0]], dtype=np.float32),
    )
    gtab = GradientTable([0, 1000, 1000], [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    tissue = Tissue()
    f, white = tissue.stick_fraction, INTENSITY[0]
    along = f * np.exp(-1000 * tissue.stick) + (1 - f) * np.exp(-1000 * tissue.parallel)
    across = f + (1 - f) * np.exp(-1000 * tissue.radial)
    rest = 0.5 * (
        INTENSITY[1] * np.exp(-1000 * tissue.grey) + INTENSITY[2] * np.exp(-1000 * tissue.csf)
    )
    b0 = 0.5 * (INTENSITY[1] + INTENSITY[2])
    np.testing.assert_allclose(
        tissue_signal(one, tissue, gtab),
        [[white, white * along, white * across], [b0, rest, rest]],
        rtol=1e-5,
    )


def test_members_share_b0_and_differ_in_the_factors(geometry) -> None:
    rng = np.random.default_rng(0)
    members = draw_gallery(rng, 50)
    spread = [np.std([np.log(getattr(m, name)) for m in members]) for name in FACTORS]
    np.testing.assert_allclose(spread, 0.1, rtol=0.4)
    (gtab,) = draw_shells(rng, n_directions=8, bvals=(1000.0,))
    first, second = (tissue_signal(geometry, m, gtab) for m in members[:2])
    # Shares add up to one to within single precision.
    np.testing.assert_allclose(first[:, gtab.is_b0], second[:, gtab.is_b0], rtol=1e-4)
    assert np.abs(first - second)[:, ~gtab.is_b0].max() > 1e-3
    scans = [acquire_tissue(geometry, members[0], gtab, snr=25, rng=rng) for _ in range(2)]
    assert (scans[0].signal != scans[1].signal)[scans[0].mask].any()
    with pytest.raises(ConfigError, match="gallery of 1"):
        draw_gallery(rng, 1)


def test_protocols_have_directions_of_their_own() -> None:
    tables = draw_shells(np.random.default_rng(0), n_directions=12, bvals=(1000.0, 2000.0))
    first, second = (t.bvecs_ras[~t.is_b0] for t in tables)
    assert np.abs(first @ second.T).max() < np.cos(np.deg2rad(0.1))
    assert [t.bvals.max() for t in tables] == [1000, 2000]


def test_rank_one_by_hand() -> None:
    # From the first protocol the second brain is missed, from the second it is retrieved.
    distances = np.array([[0.1, 0.5, 0.6], [0.2, 0.3, 0.9], [0.7, 0.8, 0.4]])
    assert rank_one(distances) == pytest.approx((2 + 3) / 6)
    assert rank_one(np.zeros((4, 4))) == 0.0


def test_a_shift_of_the_protocol_is_forgiven_when_centred() -> None:
    rng = np.random.default_rng(0)
    brains = rng.normal(size=(40, 6))
    other = 2.0 * brains + 30.0 * rng.normal(size=6)
    found = retrieve(brains, other)
    assert found["centred"] == 1.0
    assert found["raw"] < 0.2
    assert found["chance"] == 1 / 40
    assert retrieve(brains, brains)["raw"] == 1.0
    assert retrieve(brains, rng.normal(size=(40, 6)))["centred"] < 0.2


def test_brains_of_both_protocols_link_them() -> None:
    rng = np.random.default_rng(0)
    tissue = rng.normal(size=(100, 4))
    # Each protocol mixes what there is in a way of its own, with noise in many more features.
    first, second = (tissue @ rng.normal(size=(4, 60)) for _ in range(2))
    first, second = (x + 0.1 * rng.normal(size=x.shape) for x in (first, second))
    assert retrieve(first, second)["centred"] < 0.2
    assert retrieve_linked(first, second) > 0.9


def test_brains_without_common_features_are_retrieved_by_chance() -> None:
    found = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        found.append(retrieve_linked(*rng.normal(size=(2, 100, 200)), seed=seed))
    # 800 looks at a chance of .01: three standard errors.
    assert np.mean(found) < 0.01 + 3 * np.sqrt(0.01 / 800)


def test_agreement_of_vectors_at_a_right_angle() -> None:
    found = agreement(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert found == pytest.approx({"cosine": 0.0, "relative_distance": np.sqrt(2)})


def test_the_probe_finds_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 10))
    y = x @ rng.normal(size=(10, 2))
    noisy = x + 0.01 * rng.normal(size=x.shape)
    raw, centred = probe([x, noisy, x + 5.0], y)
    assert raw.shape == (3, 2)
    assert raw[0].min() > 0.99
    assert raw[1].min() > 0.98
    # A shifted protocol is wrong with raw features, and right when centred.
    assert raw[2].max() < 0.5
    assert centred[2].min() > 0.99
    # More features than brains, and nothing to be found: the folds are honest.
    assert probe([rng.normal(size=(120, 300))], y)[0].max() < 0.2


def test_a_gallery_end_to_end(geometry, tmp_path) -> None:
    torch.manual_seed(0)
    encoder = Drope(TINY).eval()
    request = ProtocolRequest(n_brains=12, n_directions=8, n_drawn=4, n_draws=3)
    found = evaluate_gallery(encoder, geometry, request, cache=tmp_path)
    assert list(found["retrieval"]) == list(FEATURES)
    for by_pair in found["retrieval"].values():
        assert set(by_pair) == {"A-B", "A-C"}
        assert all(0 <= v <= 1 for scores in by_pair.values() for v in scores.values())
    # The mean image of many voxels tells these brains apart.
    assert found["retrieval"]["mean"]["A-B"]["raw"] > 0.5
    assert set(found["probe"]["maps"]) == set(FACTORS)
    text = format_gallery(found)
    assert "| encoder of random weights, cls, stick |" in text
    assert "A-C, b 1000 and 2000" in text
    json.dumps(found, allow_nan=False)
    (reliability,) = found["reliability"]["protocols"].values()
    assert len(reliability["scans"]) == 4
    assert reliability["shared"] == 0, "three draws of eight out of sixty"
    lengths = {part: len(values) for part, values in reliability["icc"].items()}
    assert lengths == dict.fromkeys(PARTS, TINY.dim)
    assert "ICC(1,1), gallery, b 1000: 4 scans x 3 draws of 8 directions, 0 % of" in text
    assert len(list(tmp_path.rglob("[ABC]-00*.npz"))) == 36


def test_impossible_galleries_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 brains"):
        ProtocolRequest(n_brains=3)
    with pytest.raises(ConfigError, match="1 draws from each of 20"):
        ProtocolRequest(n_draws=1)
    with pytest.raises(ConfigError, match="20 brains"):
        ProtocolRequest(n_brains=10)


def test_features_unknown_in_a_scan_are_left_out_with_a_message(geometry, caplog) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    (gtab,) = draw_shells(rng, n_directions=12, bvals=(1000.0,))
    scan = acquire_tissue(geometry, Tissue(), gtab, snr=25, rng=rng)
    encoder = Drope(TINY).eval()
    # One shell and five terms: with six directions the noise is unknown.
    rows = [encode(encoder, scan.select(np.arange(n)))["pooled"] for n in (12, 6)]
    known = known_columns("pooled", rows)
    assert known.tolist() == [True] * TINY.dim + [False] * TINY.dim
    assert "encoder, pooled: 24 of 48 features are left out" in caplog.text


def test_an_encoder_or_request_has_a_cache_of_its_own(tmp_path) -> None:
    encoders = [Drope(TINY), Drope(TINY)]
    requests = [ProtocolRequest(), ProtocolRequest(seed=1)]
    caches = [FeatureCache.of(tmp_path, e, r) for e in encoders for r in requests]
    assert len({cache.folder for cache in caches}) == 4
    assert FeatureCache.of(tmp_path, encoders[0], requests[0]) == caches[0]
    plain = Drope(replace(encoders[0].config, rotary="none"))
    plain.load_state_dict(encoders[0].state_dict())
    assert FeatureCache.of(tmp_path, plain, requests[0]) != caches[0], "same weights, no rotation"
    caches[0].get("scan", lambda: {"x": np.arange(3)})
    assert caches[0].get("scan", lambda: {})["x"].tolist() == [0, 1, 2]
    assert FeatureCache.of(None, encoders[0], requests[0]).get("scan", dict) == {}


def test_untrained_twins_are_others_and_leave_the_random_state_alone() -> None:
    encoder = Drope(TINY)
    state = torch.random.get_rng_state()
    same, start, random = with_untrained(encoder, seed=3).values()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert same is encoder
    for twin in (start, random):
        assert twin.config == encoder.config
        assert not torch.equal(twin.cls_token, encoder.cls_token)


def test_one_twin_is_the_encoder_that_pretraining_starts_from() -> None:
    expected = start_autoencoder("drope-ablation", seed=3).encoder
    twins = with_untrained(expected, seed=3)
    found, random = (twins[k].state_dict() for k in ("start_", "untrained_"))
    assert all(torch.equal(found[k], v) for k, v in expected.state_dict().items())
    assert not torch.equal(random["patch_mlp.weight"], found["patch_mlp.weight"])


def test_two_sets_of_directions_of_a_scan(geometry) -> None:
    rng = np.random.default_rng(0)
    (gtab,) = draw_shells(rng, n_directions=10, bvals=(1000.0,))
    scans = [
        acquire_tissue(geometry, m, gtab, snr=1e6, rng=rng, name=f"brain {k}")
        for k, m in enumerate(draw_gallery(rng, 3))
    ]
    # Each direction of a scan that measured five twice counts once.
    twice = scans[0].select(np.array([0, 1, 2, 3, 4, 4, 3, 2, 1, 0]))
    torch.manual_seed(0)
    found = compare_directions(Drope(TINY).eval(), [*scans, replace(twice, name="twice")])
    assert list(found) == [name for name in FEATURES if name not in ("mean", "maps")]
    rows = found["cls"]["scans"]
    assert list(rows) == ["brain 0, 2 x 5", "brain 1, 2 x 5", "brain 2, 2 x 5", "twice, 2 x 2"]
    assert 0 <= found["both"]["rank_one"] <= 1
    assert "| different scans |" in format_agreement(found)


def test_the_benchmark_of_patch_sizes_probes_every_factor(geometry, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    benchmark = importlib.import_module("drope_patches")
    monkeypatch.setattr(benchmark, "brain_geometry", lambda _grid: geometry)
    encoders = {((8, 8, 4), epoch): Drope(TINY).eval() for epoch in (1, 2)}
    found = benchmark.score(encoders, 10)
    assert list(found) == list(encoders)
    for by_feature in found.values():
        assert list(by_feature) == ["cls", "pooled"]
        assert all(np.isfinite(row).all() and len(row) == 5 for row in by_feature.values())


def test_the_command(geometry, tmp_path, monkeypatch, capsys) -> None:
    grid = Grid((SIDE,) * 3, AFFINE)
    monkeypatch.setattr(DropeConfig, "grid", grid)
    monkeypatch.setattr(protocols, "brain_geometry", lambda *_, **__: geometry)
    weights = tmp_path / "tiny.safetensors"
    torch.manual_seed(0)
    save_weights(
        weights,
        Drope(TINY),
        name="drope",
        version="0",
        training={},
    )
    out = tmp_path / "found.json"
    options = ["--gallery", "10", "--directions", "7", "--drawn", "2", "--draws", "2"]
    options += ["--weights", str(weights)]
    assert main(["evaluate", "protocols", *options, "--json", str(out)]) == 0
    assert "| blurred FA and MD maps |" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert len(found["encoder"]["sha256"]) == 64
    assert found["gallery"]["request"]["n_brains"] == 10
    assert main(["evaluate", "protocols", "--gallery", "0"]) == 1
    assert "nothing to evaluate" in capsys.readouterr().err
    assert main(["evaluate", "protocols", *options[:2], "--model", "tensor-refiner"]) == 1
    assert "no encoder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_real_geometry_fills_the_grid() -> None:
    found = galleries.brain_geometry(SMALL.grid)
    assert 150_000 < found.mask.sum() < 300_000
    np.testing.assert_allclose(found.fractions.sum(axis=1), 1.0, atol=1e-4)
    lengths = np.linalg.norm(found.axes, axis=2)
    np.testing.assert_allclose(lengths[found.shares > 0], 1.0, atol=1e-4)
    # White matter has fibres.
    assert found.shares.sum(axis=1)[found.fractions[:, 0] > 0.9].mean() > 0.8
