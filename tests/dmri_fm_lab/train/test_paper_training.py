"""Training of `drope-paper` on slabs of a brain at 1 mm."""

import csv
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope import config as drope
from dmri_fm.encoders.drope.mae import MaskedAutoencoder
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.registry import MODELS
from dmri_fm_lab.simulate import draw_batch, draw_protocol
from dmri_fm_lab.train import drope as drope_training
from dmri_fm_lab.train.config import DropePretraining, read_training
from dmri_fm_lab.train.drope import build_autoencoder, pretrain_drope
from dmri_fm_lab.train.masked_steps import step_losses

#: First slice of the slab on the encoder's grid: the middle of the brain.
FIRST = 88


@pytest.fixture(scope="module")
def slab():
    """Four slices of a simulated brain at 1 mm, 15 directions."""
    rng = np.random.default_rng(0)
    gtab = draw_protocol(rng, scheme="shell", n_directions=15, bvals=1000, n_b0=1)
    affine = drope.PAPER.grid.affine.copy()
    affine[2, 3] += FIRST
    grid = Grid((192, 224, 4), affine)
    drawn = draw_batch(
        torch.Generator().manual_seed(0),
        [gtab],
        shape=grid.shape,
        affine=torch.tensor(grid.affine, dtype=torch.float32),
        with_truth=False,
    )
    images, mask = drawn.signal[0].movedim(0, 3).numpy(), drawn.mask[0].numpy()
    signal = normalise_b0(images, gtab, mask=mask).signal[..., ~gtab.is_b0]
    weighted = gtab.select(np.flatnonzero(~gtab.is_b0))
    return tokenise(signal, weighted, mask, drope.PAPER, origin=(0, 0, FIRST))


@pytest.fixture
def shallow(monkeypatch):
    """The published network with two blocks in place of ten, and one in place of three."""
    encoder = replace(drope.PAPER, depth=2)
    monkeypatch.setitem(MODELS, "drope-paper", MODELS["drope-paper"]._replace(config=encoder))
    paper = drope_training.MAE_CONFIGS["drope-paper"]
    monkeypatch.setitem(drope_training.MAE_CONFIGS, "drope-paper", replace(paper, decoder_depth=1))


def read_settings(**changes):
    """Return the shipped settings for two steps that mask patches, then directions."""
    few = {"n_steps": 2, "warmup_steps": 1, **changes}
    settings = read_training(DropePretraining, "drope-paper", optimisation=few)
    return replace(settings, steps_per_epoch=1)


def read_log(folder):
    with (folder / "log.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_shipped_settings_are_the_published_ones():
    settings = read_training(DropePretraining, "drope-paper")
    optimisation, epoch = settings.optimisation, settings.steps_per_epoch
    n_trained = 1065 - int(settings.held_out_share * 1065)
    assert (epoch - 1) * settings.batch < n_trained <= epoch * settings.batch
    assert optimisation.n_steps == 300 * epoch
    assert optimisation.warmup_steps == 40 * epoch
    assert (settings.batch, settings.slab_slices) == (4, 4)
    assert settings.min_directions == settings.max_directions == 15
    assert (optimisation.learning_rate, optimisation.final_learning_rate) == (5e-5, 1e-6)
    assert (optimisation.weight_decay, optimisation.final_weight_decay) == (0.04, 0.4)
    assert optimisation.beta2 == 0.999
    mae = drope_training.MAE_CONFIGS["drope-paper"]
    assert (mae.spatial_ratio, mae.diffusion_ratio, mae.decoder_depth) == (0.75, 0.5, 3)


def check_log(folder):
    first, second = read_log(folder)
    assert float(first["masked_spatial"]) > 0
    assert float(second["masked_diffusion"]) > 0
    assert all(np.isfinite(float(row["loss"])) for row in (first, second))


def check_resuming(slab, folder):
    """Stop after the first step, go on, and compare with a run that was not stopped."""
    settings = read_settings()
    whole = pretrain_drope(settings, folder / "whole", draw=lambda _: [slab])
    limited = replace(settings, optimisation=replace(settings.optimisation, max_minutes=1e-9))
    assert pretrain_drope(limited, folder / "parts", draw=lambda _: [slab]).steps == 1
    # What saves memory may change on the way: results are equal.
    saving = replace(settings, checkpoint_blocks=True)
    resumed = pretrain_drope(saving, folder / "parts", draw=lambda _: [slab])
    assert resumed.steps == whole.steps == 2
    torch.manual_seed(settings.optimisation.seed)
    before = build_autoencoder("drope-paper").state_dict()
    for name, tensor in whole.model.state_dict().items():
        # Recomputed activations are equal to rounding; AdamW's step of 5e-5 keeps its sign.
        torch.testing.assert_close(resumed.model.state_dict()[name], tensor, atol=2e-6, rtol=0)
        assert not torch.equal(before[name], tensor), name
    check_log(folder / "parts")


def test_steps_of_the_published_shape(shallow, slab, tmp_path):
    """Width, attention heads, patches, slab and directions as published, fewer blocks."""
    assert slab.patches.shape == (15, 672, 256)
    assert pretrain_drope(read_settings(), tmp_path, draw=lambda _: [slab]).steps == 2
    check_log(tmp_path)


@pytest.mark.slow
def test_steps_of_the_published_network(slab, tmp_path):
    """The whole network, stopped and resumed."""
    check_resuming(slab, tmp_path)


def test_a_run_resumes(tiny, slab, tmp_path):
    check_resuming(few_patches(slab), tmp_path)


def few_patches(slab, *, n_directions=6):
    """Return 24 patches of the slab's middle, of which most hold brain."""
    rows = np.flatnonzero(slab.brain.mean(dim=1).numpy() > 0.5)[:24]
    return slab.select(np.arange(n_directions)).select_patches(rows)


@pytest.fixture
def tiny(monkeypatch):
    """A narrow network of the published kind."""
    encoder = replace(drope.PAPER, dim=24, depth=2, heads=2)
    monkeypatch.setitem(MODELS, "drope-paper", MODELS["drope-paper"]._replace(config=encoder))
    paper = drope_training.MAE_CONFIGS["drope-paper"]
    changed = replace(paper, decoder_dim=24, decoder_depth=2, decoder_heads=2)
    monkeypatch.setitem(drope_training.MAE_CONFIGS, "drope-paper", changed)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_checkpointing_leaves_gradients_as_they_are(tiny, slab, precision):
    torch.manual_seed(0)
    network, scan = build_autoencoder("drope-paper"), few_patches(slab)
    assert isinstance(network, MaskedAutoencoder)
    runs = []
    for is_wanted in (False, True):
        network.checkpoint_blocks(is_wanted)
        network.zero_grad()
        calls = []
        handle = network.encoder.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))  # noqa: B023
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            losses = step_losses(network, read_settings(), network, [scan], 0)
        losses["loss"].backward()
        handle.remove()
        runs.append({n: p.grad.clone() for n, p in network.named_parameters()})
        assert len(calls) == (2 if is_wanted else 1), "the backward pass computes a block again"
    for name, expected in runs[0].items():
        torch.testing.assert_close(runs[1][name], expected, atol=1e-7, rtol=1e-5)
    assert any(gradient.any() for gradient in runs[0].values())


def test_half_precision_is_an_option(tiny, slab, tmp_path):
    changed = read_settings(precision="bf16-mixed")
    scan = few_patches(slab)
    run = pretrain_drope(changed, tmp_path / "half", draw=lambda _: [scan])
    full = pretrain_drope(read_settings(), tmp_path / "full", draw=lambda _: [scan])
    # bfloat16 keeps 8 bits: losses of a few percent apart, not equal.
    assert run.last["loss"] == pytest.approx(full.last["loss"], rel=0.05)
    assert run.last["loss"] != full.last["loss"]


def test_two_processes_train_it_together(tmp_path, slab):
    """Each sees a slab of its own; both end with the same weights, and go on after a stop."""
    torch.save(few_patches(slab), tmp_path / "scan.pt")
    script = tmp_path / "train.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    folder = tmp_path / "run"
    for minutes in ("1e-9", "0"):
        subprocess.run(
            [sys.executable, script, tmp_path / "scan.pt", folder, minutes],
            check=True,
            env=environment,
            timeout=240,
        )
    first, second = (torch.load(folder / f"{m}.pt", weights_only=True) for m in (True, False))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [row["step"] for row in read_log(folder)] == ["1", "2"]


TWO_PROCESSES = """
import sys
from dataclasses import replace
import torch
from dmri_fm.encoders.drope.config import PAPER
from dmri_fm.registry import MODELS
from dmri_fm_lab.train import drope
from dmri_fm_lab.train.config import DropePretraining, read_training
from dmri_fm_lab.train.loop import Hardware

scan, folder, minutes = sys.argv[1:]
scan = torch.load(scan, weights_only=False)
encoder = replace(PAPER, dim=24, depth=1, heads=2)
MODELS["drope-paper"] = MODELS["drope-paper"]._replace(config=encoder)
mae = drope.MAE_CONFIGS["drope-paper"]
mae = replace(mae, decoder_dim=24, decoder_depth=1, decoder_heads=2)
drope.MAE_CONFIGS["drope-paper"] = mae
few = {"n_steps": 2, "warmup_steps": 1, "max_minutes": float(minutes)}
settings = read_training(DropePretraining, "drope-paper", optimisation=few)
settings = replace(settings, steps_per_epoch=1, checkpoint_blocks=True)
run = drope.pretrain_drope(
    settings,
    folder,
    hardware=Hardware(devices=2),
    draw=lambda number: [replace(scan, patches=scan.patches.roll(number, 0)), scan],
)
torch.save(run.model.state_dict(), f"{folder}/{run.is_main}.pt")
"""
