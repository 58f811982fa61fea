"""Both training runs, shrunk to a few steps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope import config as drope
from dmri_fm.encoders.drope import guided_mae
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import condition_number
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.tensor_networks.inputs import fit_least_squares
from dmri_fm.tensor_networks.refiner import RefinerConfig
from dmri_fm_lab.train import drope as drope_training
from dmri_fm_lab.train import masked_steps, readout
from dmri_fm_lab.train.config import DropePretraining, TensorTraining, read_training
from dmri_fm_lab.train.drope import build_autoencoder, hold_out, pretrain_drope
from dmri_fm_lab.train.masked_steps import ScanSource, choose_directions, draw_scan_tokens
from dmri_fm_lab.train.runs import load_autoencoder, load_start
from dmri_fm_lab.train.scan_cache import CachedScan
from dmri_fm_lab.train.tensor_training import (
    draw_n_b0,
    draw_tensor_batch,
    draw_training_protocol,
    train_tensor_network,
)

FEW = {"n_steps": 3, "warmup_steps": 1}


@pytest.fixture
def tiny_models(monkeypatch):
    """Put narrow networks in the registry's place."""
    encoder = replace(drope.SMALL, dim=24, depth=1, heads=2)
    monkeypatch.setitem(
        MODELS,
        "tensor-refiner",
        MODELS["tensor-refiner"]._replace(
            config=RefinerConfig(widths=(2, 4), encoder_blocks=(1, 1), decoder_blocks=(1,))
        ),
    )
    monkeypatch.setitem(MODELS, "drope", MODELS["drope"]._replace(config=encoder))
    monkeypatch.setitem(
        drope_training.MAE_CONFIGS,
        "drope",
        replace(guided_mae.SMALL_MAE, decoder_dim=24, decoder_depth=1, decoder_heads=2),
    )


def random_scan(number):
    """Return a few random patches, in place of a simulated brain."""
    rng = np.random.default_rng(number)
    angles = rng.uniform([0.5, 0, -3], [3, 3, 3], (8, 3))
    cells = np.indices((5, 2, 1)).reshape(3, -1).T + 5
    tokens = ScanTokens(
        patches=torch.from_numpy(rng.uniform(size=(8, 10, 512)).astype(np.float32)),
        qspace=torch.from_numpy(angles),
        positions=torch.from_numpy((8 * cells + 3.5).astype(np.float32)),
        brain=torch.ones(10, 512),
        index=np.arange(10),
    )
    return tokens


def test_protocols_are_usable():
    rng = np.random.default_rng(0)
    for share in (0.0, 1.0):
        for _ in range(5):
            gtab = draw_training_protocol(rng, spread_share=share, n_b0=draw_n_b0(rng))
            weighted = ~gtab.is_b0
            assert weighted.sum() == 6
            assert 1 <= gtab.is_b0.sum() <= 4
            assert 400 <= gtab.bvals[weighted].mean() <= 3000
            assert condition_number(gtab.bvecs_ras[weighted]) < 3


def test_batches_are_repeatable_and_in_range():
    first, second = (
        draw_tensor_batch(np.random.default_rng(4), batch=2, patch_voxels=8, spread_share=0.3)
        for _ in range(2)
    )
    assert first.inputs.ratios.shape == (2, 6, 8, 8, 8)
    assert first.truth.shape == (2, 6, 8, 8, 8)
    torch.testing.assert_close(first.inputs.ratios, second.inputs.ratios, atol=0, rtol=0)
    inside = first.inputs.mask[:, 0] > 0
    trace = first.truth[:, [0, 3, 5]].sum(dim=1)[inside]
    assert 0.3 < trace.median() / 3 < 3.2, "um^2/ms"


def test_some_batches_have_more_directions():
    batch = draw_tensor_batch(
        np.random.default_rng(0), batch=1, patch_voxels=8, spread_share=0.0, more_share=1.0
    )
    assert 7 <= batch.inputs.ratios.shape[1] == batch.inputs.q.shape[1] <= 16


def test_batches_hold_the_tensors_that_least_squares_finds():
    """Frames and units: averaged over voxels, noise and compartments conceal little."""
    batch = draw_tensor_batch(
        np.random.default_rng(1), batch=4, patch_voxels=16, spread_share=0.0, more_share=1.0
    )
    found = fit_least_squares(batch.inputs.ratios, batch.inputs.q)
    inside = ((batch.inputs.mask[:, 0] > 0) & (batch.csf < 0.2)).expand(6, -1, -1, -1, -1)
    a, b = found.movedim(1, 0)[inside], batch.truth.movedim(1, 0)[inside]
    assert (
        np.corrcoef(a.reshape(6, -1)[[1, 2, 4]].ravel(), b.reshape(6, -1)[[1, 2, 4]].ravel())[0, 1]
        > 0.5
    )


def test_tensor_training(tiny_models, tmp_path):
    settings = replace(
        read_training(TensorTraining, "tensor-refiner", optimisation=FEW),
        patch_voxels=8,
        batch=1,
        n_reference=3,
        n_held_out=2,
    )
    runs = [
        train_tensor_network(settings, tmp_path / name, weights=tmp_path / f"{name}.safetensors")
        for name in ("a", "b")
    ]
    assert runs[0].steps == 3
    # The same seed, the same bytes.
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = load_weights(tmp_path / "a.safetensors", model="tensor-refiner")
    assert loaded.training["steps"] == 3
    assert loaded.training["scans"] == []
    assert loaded.training["data"].endswith("drawn on the fly; no real brain")
    assert json.dumps(loaded.normalisation)
    assert loaded.statistics["width_factor"].shape == (2,)
    assert (loaded.statistics["width_factor"] > 0).all()
    assert loaded.statistics["mean"].shape == (4,)


def test_published_recipe(tmp_path):
    """The squared loss, and a network without intervals, through the same command."""
    settings = replace(
        read_training(TensorTraining, "qcg-dti-ablation", optimisation=FEW),
        patch_voxels=8,
        batch=1,
    )
    assert settings.loss == "squared"
    path = tmp_path / "x.safetensors"
    run = train_tensor_network(settings, tmp_path / "run", weights=path)
    assert set(run.last) == {"loss", "tensor"}
    assert not load_weights(path).statistics


def test_unknown_loss_is_refused(tmp_path):
    settings = replace(read_training(TensorTraining, "tensor-refiner"), loss="cubic")
    with pytest.raises(ConfigError, match="cubic"):
        train_tensor_network(settings, tmp_path)


def random_pairs(rng, encoder):
    """Return pairs that share their first feature and nothing else."""
    pairs = torch.from_numpy(rng.normal(size=(400, 2, encoder.config.n_features)))
    pairs[:, 1, 0] = pairs[:, 0, 0]
    return pairs.float()


@pytest.fixture
def drawn_in_no_time(monkeypatch):
    """Draw noise in place of simulated heads."""
    monkeypatch.setattr(
        masked_steps,
        "draw_scan_tokens",
        lambda rng, config, *, n_directions: random_scan(int(rng.integers(1000))),
    )
    monkeypatch.setattr(readout, "draw_pairs", random_pairs)


def test_pretraining(tiny_models, drawn_in_no_time, tmp_path):
    settings = replace(
        read_training(DropePretraining, "drope", optimisation={**FEW, "n_steps": 4}),
        n_reuse=2,
        steps_per_epoch=2,
        n_readout=2,
        n_reference=6,
        n_held_out=4,
    )
    path = tmp_path / "drope.safetensors"
    run = pretrain_drope(settings, tmp_path / "run", weights=path, draw=random_scan)
    assert run.steps == 4
    loaded = load_weights(path, model="drope")
    assert set(loaded.statistics) == {
        "mean",
        "components",
        "variance",
        "residual_variance",
        "quantiles",
        "middle",
        "scale",
    }
    assert loaded.statistics["mean"].shape == (3 * 24,)
    # What two scans of one tissue share passes, and nothing else.
    kept = loaded.model.readout.weight.diagonal()
    assert kept[0] > 0.8
    assert kept[1:].max() < 0.25
    in_folder = load_autoencoder(tmp_path / "run").encoder.readout
    torch.testing.assert_close(loaded.model.readout.weight, in_folder.weight, atol=1e-3, rtol=1e-2)
    # The decoder came along, and is the one that the run's checkpoint holds.
    shipped, checkpoint = load_autoencoder(path), load_autoencoder(tmp_path / "run")
    torch.testing.assert_close(
        shipped.correction.weight, checkpoint.correction.weight, atol=1e-3, rtol=1e-2
    )
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert log[0].split(",")[4:] == [
        "loss",
        "visible",
        "masked_spatial",
        "masked_diffusion",
        "gain",
    ]


def test_pretraining_in_mixed_precision(tiny_models, tmp_path):
    changes = {**FEW, "n_steps": 4, "precision": "bf16-mixed"}
    settings = read_training(DropePretraining, "drope", optimisation=changes)
    settings = replace(settings, n_starting=1, steps_per_epoch=2)
    run = pretrain_drope(settings, tmp_path, draw=random_scan)
    assert np.isfinite(list(run.last.values())).all()


def test_the_decoder_is_trained_alone(tiny_models, drawn_in_no_time, tmp_path):
    settings = replace(
        read_training(DropePretraining, "drope", optimisation=FEW),
        n_starting=1,
        n_readout=1,
        n_reference=6,
        n_held_out=4,
    )
    path = tmp_path / "first.safetensors"
    first = pretrain_drope(settings, tmp_path / "first", weights=path, draw=random_scan)
    assert first.steps == 3
    start = load_start(path)
    assert start.origin["steps"] == 3
    assert load_start(tmp_path / "first").origin["scans"] == []
    before = {k: v.clone() for k, v in start.network.state_dict().items()}
    alone = replace(settings, part="decoder")
    with pytest.raises(ConfigError, match="--start"):
        pretrain_drope(alone, tmp_path / "none", draw=random_scan)
    start = replace(start, origin={**start.origin, "scans": ["sub-01"]})
    # An encoder that is trained further leaves the readout of the old one behind.
    further = replace(settings, n_readout=0)
    pretrain_drope(further, tmp_path / "further", start=load_start(path), draw=random_scan)
    assert not load_autoencoder(tmp_path / "further").encoder.readout.is_fitted
    more = {"start": start, "draw": random_scan}
    path = tmp_path / "second.safetensors"
    run = pretrain_drope(alone, tmp_path / "second", weights=path, **more)
    written = load_weights(path)
    assert written.training["scans"] == ["sub-01"], "what the start has seen"
    assert written.training["data"].endswith("and 1 real scan (in the run before)")
    assert written.training["start"]["sha256"] == start.origin["sha256"]
    torch.testing.assert_close(
        written.model.readout.weight, before["encoder.readout.weight"], atol=1e-3, rtol=1e-2
    )
    with pytest.raises(ConfigError, match="other settings"):
        pretrain_drope(settings, tmp_path / "second", **more)
    after = run.model.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert not any(k.startswith("encoder.") for k in changed)
    assert {k.split(".")[0] for k in changed} >= {"decoder", "decoder_pred", "refiner"}


def test_a_run_goes_on_with_its_own_settings_alone(tiny_models, tmp_path):
    settings = replace(read_training(DropePretraining, "drope", optimisation=FEW), n_starting=1)
    pretrain_drope(settings, tmp_path, draw=random_scan)
    for changed in ({"scan_share": 0.9}, {"masking": "spatial"}):
        with pytest.raises(ConfigError, match="other settings"):
            pretrain_drope(replace(settings, **changed), tmp_path, draw=random_scan)
    # What is done when training is over may change.
    pretrain_drope(replace(settings, n_reference=7), tmp_path, draw=random_scan)
    with pytest.raises(WeightsError, match="a checkpoint of drope"):
        load_autoencoder(tmp_path, model="drope-ablation")


def test_participants_are_held_out_whole():
    settings = replace(read_training(DropePretraining, "drope"), held_out_share=0.2)
    gtab = GradientTable(np.full(6, 1000.0), np.eye(3)[[0, 1, 2, 0, 1, 2]])
    scans = [
        CachedScan(f"sub-{p:02}_dir-{d}", Path("none"), gtab)
        for p in range(11)
        for d in ("AP", "PA")
    ]
    held_out = hold_out(scans, settings)
    assert len(held_out) == 4
    assert len({scan.participant for scan in held_out}) == 2
    assert [s.name for s in hold_out(scans[::-1], settings)] == [s.name for s in held_out][::-1]
    assert not hold_out(scans[:8], settings), "a fifth of four participants is none"


def test_steps_choose_among_the_last_scans(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        masked_steps,
        "draw_scan_tokens",
        lambda rng, config, *, n_directions: drawn.append(1) or random_scan(len(drawn)),
    )
    training = replace(read_training(DropePretraining, "drope"), n_reuse=3, n_at_hand=4)
    source = ScanSource(drope.SMALL, training)
    for step in range(60):
        source.get(step)
        assert len(source._drawn) <= 4
    assert 15 <= len(drawn) <= 20, "a scan for every three steps"


def test_a_jittered_shell_is_one():
    training = replace(read_training(DropePretraining, "drope"), shell_share=1.0)
    rho = np.repeat([0.99, 0.995, 1.0, 1.005, 1.01], 6)
    assert choose_directions(np.random.default_rng(0), rho, training)[1] is None


def test_one_shell_is_hidden_from_another():
    rng = np.random.default_rng(0)
    training = replace(read_training(DropePretraining, "drope"), shell_share=0.5)
    rho = np.repeat([1.0, 2.0, 3.0], 10)
    found = [choose_directions(rng, rho, training) for _ in range(200)]
    split = [(rho[c[k]], np.delete(rho[c], k)) for c, k in found if k is not None]
    assert 70 < len(split) < 130
    assert all(len(np.unique(a)) == len(np.unique(b)) == 1 for a, b in split)
    assert all(a[0] != b[0] for a, b in split)
    assert all(6 <= len(c) <= 18 for c, _ in found)
    assert choose_directions(rng, np.ones(30), training)[1] is None


def test_the_published_encoder_has_the_published_autoencoder():
    assert isinstance(build_autoencoder("drope"), guided_mae.GuidedAutoencoder)
    with pytest.raises(ConfigError, match="no encoder"):
        build_autoencoder("tensor-refiner")


def test_the_wrong_family_of_model_is_refused(tmp_path):
    tensor = read_training(TensorTraining, "tensor-refiner")
    with pytest.raises(ConfigError, match="no tensor network"):
        train_tensor_network(replace(tensor, model="drope"), tmp_path)
    with pytest.raises(ConfigError, match="multiple of 4"):
        train_tensor_network(replace(tensor, patch_voxels=30), tmp_path)
    with pytest.raises(ConfigError, match="no encoder"):
        pretrain_drope(
            replace(read_training(DropePretraining, "drope"), model="tensor-refiner"), tmp_path
        )


@pytest.mark.slow
def test_simulated_scans_fill_the_encoders_grid():
    scan = draw_scan_tokens(np.random.default_rng(0), drope.SMALL, n_directions=6)
    assert scan.qspace.shape == (6, 3)
    n_places = scan.positions.shape[0]
    assert 400 < n_places < 900
    assert scan.patches.shape == (6, n_places, 512)
    assert 0.1 < scan.patches[:, scan.brain.bool()].median() < 0.9
    assert not scan.patches[:, ~scan.brain.bool()].any()
