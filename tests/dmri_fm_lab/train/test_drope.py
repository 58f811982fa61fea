"""Pretraining runs, from the settings to the weights."""

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.mae import MaskedAutoencoder
from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.participants import hash_participant, seen_participants
from dmri_fm.registry import load_weights
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.train.brain_source import hold_out
from dmri_fm_lab.train.config import DropePretraining, read_training
from dmri_fm_lab.train.drope import build_autoencoder, pretrain_drope
from dmri_fm_lab.train.loop import _parameter_groups
from dmri_fm_lab.train.masked_steps import ScanSource, step_losses
from dmri_fm_lab.train.runs import list_seen, load_autoencoder, load_encoder, load_start
from dmri_fm_lab.train.scan_cache import CachedScan


def read_log(folder):
    with (folder / "log.csv").open() as stream:
        return list(csv.DictReader(stream))


def assert_equal(first, second):
    for (name, a), b in zip(first.items(), second.values(), strict=True):
        assert torch.equal(a, b), name


@pytest.fixture
def run(tiny_drope, training, brains, twins, tmp_path):
    """Return a function that pretrains on simulated brains and one real scan."""

    def pretrain(name, *, scans=(twins,), steps=None, **changes):
        settings = replace(training, **changes)
        if steps is not None:
            settings = replace(settings, optimisation=replace(settings.optimisation, **steps))
        return lambda **more: pretrain_drope(
            settings, tmp_path / name, scans=scans, brains=brains, **more
        )

    return pretrain


def test_a_run_writes_log_weights_and_statistics(run, tmp_path, training):
    path = tmp_path / "drope.safetensors"
    result = run("run")(weights=path)
    assert result.steps == 4
    rows = read_log(tmp_path / "run")
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert list(rows[0])[4:] == [
        "loss",
        "visible",
        "masked_spatial",
        "masked_diffusion",
        "over_mean",
    ]
    # An epoch of two steps masks patches, the next one directions.
    assert [row["masked_diffusion"] == "nan" for row in rows] == [True, True, False, False]
    assert [row["masked_spatial"] == "nan" for row in rows] == [False, False, True, True]
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
    assert loaded.statistics["mean"].shape == (4 * 24,)
    assert loaded.training["scans"] == ["sub-01"]
    assert loaded.training["data"].endswith("and 1 real scan (25 % of the samples)")
    assert seen_participants(loaded) == {hash_participant("Study of twins", "01")}
    # The decoder came along, and is that of the run's checkpoint, but for half precision.
    shipped, checkpoint = load_autoencoder(path), load_autoencoder(tmp_path / "run")
    for name, value in checkpoint.state_dict().items():
        assert torch.equal(shipped.state_dict()[name], value.half().float()), name
    assert_equal(checkpoint.state_dict(), result.model.state_dict())
    encoder, origin = load_encoder(folder=tmp_path / "run")
    assert torch.equal(encoder.cls_token, checkpoint.encoder.cls_token)
    assert origin == {"model": "drope", "run": str(tmp_path / "run")}
    assert load_encoder(weights=path)[1]["sha256"] == loaded.sha256


def test_a_run_with_the_name_of_the_model_is_not_mistaken_for_its_weights(
    run, tmp_path, monkeypatch
):
    result = run("drope", scans=())()
    monkeypatch.chdir(tmp_path)
    for load in (load_autoencoder, load_start, list_seen):
        with pytest.raises(ConfigError, match="names the packaged weights and a run"):
            load("drope")
    assert_equal(
        load_autoencoder(Path("drope").absolute()).state_dict(), result.model.state_dict()
    )


def test_a_network_learns(run, tmp_path):
    steps = {"n_steps": 30, "warmup_steps": 5, "learning_rate": 5e-3}
    run("run", steps=steps, steps_per_epoch=5)()
    losses = [float(row["loss"]) for row in read_log(tmp_path / "run")]
    # Slabs differ, and a part of them is noisy: errors of the last third are far from zero.
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:2])


def test_the_command_trains_a_run_further(run, tmp_path, brains, capsys):
    run("first", scans=())()
    before = load_autoencoder(tmp_path / "first").state_dict()
    settings = tmp_path / "further.toml"
    settings.write_text(
        'model = "drope"\nbatch = 1\nmin_directions = 6\nmax_directions = 6\nn_brains = 2\n'
        "n_reference = 0\n[optimisation]\nn_steps = 2\nwarmup_steps = 1\n"
        "learning_rate = 1e-6\nfinal_learning_rate = 1e-6\n"
    )
    folder = tmp_path / "further"
    options = ["--start", str(tmp_path / "first"), "--brains", str(brains), "--steps", "1"]
    assert main(["pretrain", str(settings), str(folder), *options]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == str(folder)
    assert not (folder / "brains").exists()
    after = load_autoencoder(folder).state_dict()
    # One step of at most 1e-6 for every weight, and decay.
    assert all((after[k] - v).abs().max() < 1e-4 for k, v in before.items())
    assert not all(torch.equal(after[k], v) for k, v in before.items())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_an_interrupted_run_ends_with_the_same_weights(run, tmp_path, precision, monkeypatch):
    steps = {"precision": precision, "checkpoint_minutes": 0.0, "n_steps": 6}
    late = {"whole_from": 0.5, "whole_directions": 6, "steps_per_epoch": 1}
    whole = run("whole", steps=steps, **late)()
    forward, calls = MaskedAutoencoder.forward, []

    def interrupted(self, *inputs):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return forward(self, *inputs)

    with monkeypatch.context() as patch:
        patch.setattr(MaskedAutoencoder, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("parts", steps=steps, **late)()
    # Two slabs a step; from the fourth step on, whole brains, one a step.
    assert len(read_log(tmp_path / "parts")) == 4
    resumed = run("parts", steps=steps, **late)()
    assert_equal(whole.model.state_dict(), resumed.model.state_dict())
    assert np.isfinite(list(resumed.last.values())).all()
    losses = [[r["loss"] for r in read_log(tmp_path / n)] for n in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_bfloat16_layers_keep_the_result_close(run):
    """Half the digits in the layers: the first step's loss is that of single precision to 1 %."""
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        steps = {"precision": precision, "n_steps": 1}
        losses[precision] = run(precision, steps=steps)().last["loss"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.01)
    assert losses["bf16-mixed"] != losses["32-true"]


def test_a_run_starts_from_another(run, tmp_path, training):
    path = tmp_path / "first.safetensors"
    run("first")(weights=path)
    hashed = [hash_participant("Study of twins", "01")]
    start = load_start(path)
    assert (start.origin["steps"], start.origin["participants"]) == (4, hashed)
    before = {k: v.clone() for k, v in start.network.state_dict().items()}
    nothing = {"n_steps": 1, "learning_rate": 0.0, "final_learning_rate": 0.0}
    second = tmp_path / "second.safetensors"
    same = run("second", scans=(), steps=nothing)(start=start, weights=second)
    assert_equal(before, same.model.state_dict())
    written = load_weights(second)
    assert written.training["scans"] == ["sub-01"], "what the start has seen"
    assert written.training["data"].endswith("and 1 real scan (in the run before)")
    assert written.training["start"]["sha256"] == start.origin["sha256"]
    assert seen_participants(written) == set(hashed)
    changed = run("third", scans=())(start=load_start(path)).model.state_dict()
    assert not all(torch.equal(before[k], changed[k]) for k in before)
    with pytest.raises(ConfigError, match="other settings"):
        run("third", scans=())()


def test_a_run_lists_its_participants_and_those_of_its_start(run, tmp_path):
    run("first")()
    hashed = hash_participant("Study of twins", "01")
    start = load_start(tmp_path / "first")
    assert start.origin["scans"] == ["sub-01"]
    assert start.origin["participants"] == [hashed]
    assert list_seen(tmp_path / "first") == {hashed}
    run("second", scans=())(start=start)
    assert list_seen(tmp_path / "second") == {hashed}
    # Scans of which none is drawn have not been seen.
    run("unseen", scan_share=0.0)()
    assert list_seen(tmp_path / "unseen") == frozenset()
    checkpoint = tmp_path / "first" / "last.ckpt"
    state = torch.load(checkpoint, weights_only=True)
    del state["settings"]["participants"]
    torch.save(state, checkpoint)
    assert list_seen(tmp_path / "first") is None
    with pytest.raises(WeightsError, match="does not list its participants"):
        load_start(tmp_path / "first")


def test_a_run_goes_on_with_its_own_settings_alone(run, tmp_path):
    run("run")()
    for changes in ({"scan_share": 0.9}, {"masking": "spatial"}, {"slab_slices": 8}):
        with pytest.raises(ConfigError, match="other settings"):
            run("run", **changes)()
    with pytest.raises(ConfigError, match="other settings"):
        run("run", scans=())()
    # What is done when training is over may change.
    assert run("run", n_reference=7)().steps == 4
    with pytest.raises(WeightsError, match="a checkpoint of drope"):
        load_autoencoder(tmp_path / "run", model="drope-ablation")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_autoencoder(tmp_path / "none")


def test_participants_are_held_out_whole(training):
    settings = replace(training, held_out_share=0.2)
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


def test_other_models_are_refused(tmp_path, training):
    with pytest.raises(ConfigError, match="no encoder"):
        build_autoencoder("tensor-refiner")
    with pytest.raises(ConfigError, match="no encoder"):
        pretrain_drope(replace(training, model="tensor-refiner"), tmp_path)


def test_ablations_are_small_and_equal_in_all_but_what_they_compare():
    full, plain = (build_autoencoder(f"drope-ablation{row}") for row in ("", "-plain"))
    sizes = [sum(p.numel() for p in network.parameters()) for network in (full, plain)]
    assert sizes[0] == sizes[1] <= 1_000_000
    settings = read_training(DropePretraining, "drope-ablation")
    assert settings.steps_per_epoch == 100


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

import torch
import conftest
from dmri_fm.encoders.drope import mae
from dmri_fm.registry import MODELS
from dmri_fm_lab.train import drope as drope_training
from dmri_fm_lab.train.loop import Hardware
from dmri_fm_lab.train import masked_steps

MODELS["drope"] = MODELS["drope"]._replace(config=conftest.TINY)
drope_training.MAE_CONFIGS["drope"] = replace(
    mae.SMALL_MAE, decoder_dim=24, decoder_depth=1, decoder_heads=2
)
gradients = {}
clip = torch.nn.utils.clip_grad_norm_

def watched(parameters, *arguments, **more):
    parameters = list(parameters)
    gradients.setdefault("first", [p.grad.clone() for p in parameters])
    return clip(parameters, *arguments, **more)

torch.nn.utils.clip_grad_norm_ = watched
run = drope_training.pretrain_drope(
    conftest.TRAINING, sys.argv[1], brains=sys.argv[2], hardware=Hardware(devices=2)
)
path = Path(sys.argv[1]) / f"{run.is_main}.pt"
torch.save({"model": run.model.state_dict(), "gradients": gradients["first"]}, path)
"""


@pytest.mark.slow
def test_two_processes_see_slabs_of_their_own_and_share_gradients(
    tiny_drope, training, brains, tmp_path
):
    """Each passes two slabs through the network before one backward pass."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    here = str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([here, *sys.path])}
    folder = tmp_path / "run"
    command = [sys.executable, str(script), str(folder), str(brains)]
    subprocess.run(command, check=True, env=environment, timeout=400)
    first, second = (torch.load(folder / f"{m}.pt", weights_only=True) for m in (True, False))
    assert_equal(first["model"], second["model"])
    assert len(read_log(folder)) == 4
    # One process with what both have seen: slabs, and a mask for each.
    torch.manual_seed(training.optimisation.seed)
    model = build_autoencoder("drope")
    source = ScanSource(model.encoder.config, training, brains, devices=2)
    seen = [*source.get(0), *source.get(1)]
    step_losses(model, training, model, seen, 0)["loss"].backward()
    # Gradients are clipped in the order of the optimiser's groups.
    ordered = [p for group in _parameter_groups(model) for p in group["params"]]
    for gradient, parameter in zip(first["gradients"], ordered, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-5, rtol=1e-3)
