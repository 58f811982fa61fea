"""Pretraining of the artefact-removal U-Net, from the settings to features of a scan."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmri_fm.encoders.artefact_unet.encoder import UnetEncoder, template_brain
from dmri_fm.errors import ConfigError, InputError
from dmri_fm.gradients import GradientTable
from dmri_fm.participants import hash_participant, seen_participants
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.shell_resampling import fixed_directions
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.train.artefact_unet import draw_step, pretrain_unet, read_shell, select_usable
from dmri_fm_lab.train.brain_source import BRAIN_VALIDATION, HOLD_OUT, STEP, BrainSource
from dmri_fm_lab.train.config import Optimisation, UnetPretraining, read_pretraining
from dmri_fm_lab.train.loop import HELD_OUT, REFERENCE
from dmri_fm_lab.train.loop import TRAINING as TRAIN
from dmri_fm_lab.train.scan_cache import CachedScan
from tests.dmri_fm.encoders.artefact_unet.narrow import NARROW

TRAINING = UnetPretraining(
    model="artefact-unet",
    optimisation=Optimisation(
        n_steps=4,
        warmup_steps=0,
        learning_rate=1e-3,
        final_learning_rate=1e-3,
        weight_decay=0.0,
        final_weight_decay=0.0,
        average_decay=0.5,
    ),
    slab_slices=8,
    validation_steps=2,
    n_validation=2,
    n_brains=2,
    scan_directions=48,
    n_reference=4,
    n_held_out=3,
)


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = MODELS["artefact-unet"]._replace(config=NARROW)
    monkeypatch.setitem(MODELS, "artefact-unet", changed)


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("unet_brains")


def write_scan(folder: Path, n_directions: int, dataset: Path, *, label: str = "01") -> CachedScan:
    """Write a scan whose signal is 0.5 + 0.3 (g_z^2 - 1/3), a harmonic of order 2."""
    axes = fixed_directions(n_directions)
    gtab = GradientTable(np.full(n_directions, 1000.0), axes)
    mask = template_brain(NARROW)
    signal = mask[..., None] * (0.5 + 0.3 * (axes[:, 2] ** 2 - 1 / 3))
    origin = {"file": str(dataset / f"sub-{label}" / "dwi" / f"sub-{label}_dwi.nii.gz")}
    return CachedScan.write(folder, signal.astype(np.float32), mask, gtab, origin=origin)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> CachedScan:
    dataset = tmp_path_factory.mktemp("study")
    (dataset / "sub-01" / "dwi").mkdir(parents=True)
    (dataset / "dataset_description.json").write_text('{"Name": "Study of one"}')
    return write_scan(tmp_path_factory.mktemp("cache") / "sub-01", 30, dataset)


def read_log(folder: Path, name: str = "log.csv") -> list[dict[str, str]]:
    with (folder / name).open() as stream:
        return list(csv.DictReader(stream))


def test_a_shell_is_read_on_the_fixed_directions(scan: CachedScan) -> None:
    slab = read_shell(np.random.default_rng(0), scan, NARROW, n_slices=8)
    assert slab.signal.shape == (16, 24, 24, 8)
    assert slab.bval == 1000.0
    expected = 0.5 + 0.3 * (fixed_directions(16)[:, 2] ** 2 - 1 / 3)
    inside = slab.signal[:, slab.brain].numpy()
    # Scans are kept in half precision.
    np.testing.assert_allclose(inside, np.repeat(expected[:, None], inside.shape[1], 1), atol=2e-3)
    assert not slab.signal[:, ~slab.brain].any()


def test_a_step_depends_on_its_number_alone(brains: Path, scan: CachedScan) -> None:
    source = BrainSource(NARROW, TRAINING, brains, scans=[scan])
    first, again, other = (draw_step(NARROW, source, n) for n in (4, 4, 5))
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.signal, other.signal)
    assert first.signal.shape == first.target.shape == (1, 16, 24, 24, 8)
    assert not torch.equal(first.signal, first.target)
    plain = replace(source, training=replace(TRAINING, objective="autoencoder"))
    same = draw_step(NARROW, plain, 4)
    assert torch.equal(same.signal, same.target)


def test_validation_has_brains_and_draws_of_its_own() -> None:
    purposes = (TRAIN, REFERENCE, HELD_OUT, STEP, HOLD_OUT, BRAIN_VALIDATION)
    # Steps append a zero, which numpy does not tell from none.
    states = {
        tuple(np.random.SeedSequence([0, purpose, 5, *rest]).generate_state(2))
        for purpose, rest in [*((p, ()) for p in purposes if p != STEP), (STEP, (0,))]
    }
    assert len(states) == len(purposes)


def test_a_run_writes_weights_that_encode(brains: Path, scan: CachedScan, tmp_path: Path) -> None:
    path = tmp_path / "unet.safetensors"
    settings = replace(TRAINING, scan_share=0.5)
    run = pretrain_unet(settings, tmp_path / "run", scans=[scan], brains=brains, weights=path)
    validations = read_log(tmp_path / "run", "validation.csv")
    errors = {int(row["step"]): float(row["error"]) for row in validations}
    assert list(errors) == [2, 4]
    assert run.best_step == min(errors, key=lambda step: errors[step])
    assert list(read_log(tmp_path / "run")[0])[4:] == ["loss", "over_input"]
    loaded = load_weights(path, model="artefact-unet")
    assert loaded.training["validation"]["step"] == run.best_step
    assert seen_participants(loaded) == {hash_participant("Study of one", "01")}
    assert UnetEncoder(loaded).reference is not None
    assert loaded.statistics["mean"].shape == (5,)


def test_held_out_participants_are_seen(scan: CachedScan, tmp_path: Path) -> None:
    dataset = Path(scan.origin["file"]).parents[2]
    other = write_scan(tmp_path / "cache" / "sub-02", 30, dataset, label="02")
    steps = replace(TRAINING.optimisation, n_steps=1)
    settings = replace(
        TRAINING,
        optimisation=steps,
        validation_steps=1,
        scan_share=1.0,
        held_out_share=0.5,
        n_reference=2,
        n_held_out=2,
    )
    path = tmp_path / "unet.safetensors"
    pretrain_unet(settings, tmp_path / "run", scans=[scan, other], weights=path)
    loaded = load_weights(path, model="artefact-unet")
    assert len(loaded.training["scans"]) == len(loaded.training["held_out"]) == 1
    both = {hash_participant("Study of one", label) for label in ("01", "02")}
    assert seen_participants(loaded) == both


def test_a_network_learns(brains: Path, tmp_path: Path) -> None:
    steps = replace(TRAINING.optimisation, n_steps=60, learning_rate=1e-2)
    settings = replace(TRAINING, optimisation=steps, validation_steps=30)
    pretrain_unet(settings, tmp_path / "run", brains=brains)
    losses = [float(row["loss"]) for row in read_log(tmp_path / "run")]
    assert np.mean(losses[-15:]) < 0.6 * np.mean(losses[:3])


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    assert isinstance(read_pretraining("artefact-unet"), UnetPretraining)
    for change, message in (
        ({"objective": "colours"}, "objective 'colours'"),
        ({"strength": "weak"}, "strength 'weak'"),
        ({"slab_slices": 12}, "slabs of 12 slices"),
        ({"scan_directions": 30}, "simulated scans of 30 directions"),
    ):
        with pytest.raises(ConfigError, match=message):
            pretrain_unet(replace(TRAINING, **change), tmp_path / "run")  # type: ignore[arg-type]


def test_scans_of_few_directions_are_left_out_and_named(
    scan: CachedScan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few = write_scan(tmp_path / "sub-02", 12, tmp_path)
    assert select_usable([few, scan]) == [scan]
    assert "sub-02: left out" in caplog.text
    with pytest.raises(InputError, match="none of 1 scans"):
        select_usable([few])


def test_the_command_trains_the_control(
    brains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "short.toml"
    settings.write_text(
        'model = "artefact-unet"\nslab_slices = 8\nn_brains = 2\nscan_directions = 48\n'
        "n_validation = 1\n[optimisation]\nn_steps = 2\nwarmup_steps = 0\n"
        "learning_rate = 1e-3\nfinal_learning_rate = 1e-3\n"
    )
    arguments = ["pretrain", str(settings), str(tmp_path / "run"), "--brains", str(brains)]
    assert main([*arguments, "--objective", "autoencoder"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run")
    assert {row["over_input"] for row in read_log(tmp_path / "run")} == {"nan"}
    assert main([*arguments, "--start", "drope"]) == 1
    assert "--start" in capsys.readouterr().err
    assert main(["pretrain", "drope", str(tmp_path / "d"), "--objective", "autoencoder"]) == 1
    assert "--objective with drope" in capsys.readouterr().err
