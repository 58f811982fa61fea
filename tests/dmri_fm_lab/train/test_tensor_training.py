"""Training of tensor networks, shrunk to a few steps."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.errors import ConfigError
from dmri_fm.qspace import condition_number
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.tensor_networks.inputs import fit_least_squares
from dmri_fm.tensor_networks.refiner import RefinerConfig
from dmri_fm_lab.train.config import TensorTraining, read_training
from dmri_fm_lab.train.tensor_training import (
    draw_n_b0,
    draw_tensor_batch,
    draw_training_protocol,
    train_tensor_network,
)

FEW = {"n_steps": 3, "warmup_steps": 1}


@pytest.fixture
def tiny_models(monkeypatch):
    """Put a narrow network in the registry's place."""
    monkeypatch.setitem(
        MODELS,
        "tensor-refiner",
        MODELS["tensor-refiner"]._replace(
            config=RefinerConfig(widths=(2, 4), encoder_blocks=(1, 1), decoder_blocks=(1,))
        ),
    )


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


def test_ablation_recipe(tmp_path):
    """A network that starts from the fit and has no calibration, through the same command."""
    full = FEW | {"precision": "32-true"}
    settings = replace(
        read_training(TensorTraining, "qcg-dti-ablation", optimisation=full),
        patch_voxels=8,
        batch=1,
    )
    fixed = read_training(TensorTraining, "qcg-dti-ablation-fixed")
    assert (settings.directions, fixed.directions) == ("flexible", "fixed")
    path = tmp_path / "x.safetensors"
    run = train_tensor_network(settings, tmp_path / "run", weights=path)
    assert "interval" in run.last
    half = replace(settings, optimisation=replace(settings.optimisation, precision="bf16-mixed"))
    with pytest.raises(ConfigError, match="32-true"):
        train_tensor_network(half, tmp_path / "half")
    assert not load_weights(path).statistics


def test_unknown_loss_is_refused(tmp_path):
    settings = replace(read_training(TensorTraining, "tensor-refiner"), loss="cubic")
    with pytest.raises(ConfigError, match="cubic"):
        train_tensor_network(settings, tmp_path)


def test_the_wrong_family_of_model_is_refused(tmp_path):
    tensor = read_training(TensorTraining, "tensor-refiner")
    with pytest.raises(ConfigError, match="no tensor network"):
        train_tensor_network(replace(tensor, model="drope"), tmp_path)
    with pytest.raises(ConfigError, match="multiple of 4"):
        train_tensor_network(replace(tensor, patch_voxels=30), tmp_path)
