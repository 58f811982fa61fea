"""Pretraining of SSDiff by input dropout, from the settings to features of a scan."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dmri_fm.encoders.ssdiff.encoder import SsdiffEncoder
from dmri_fm.errors import ConfigError, InputError, WeightsError
from dmri_fm.participants import hash_participant, seen_participants
from dmri_fm.registry import MODELS, load_weights
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.train.brain_source import BrainSource
from dmri_fm_lab.train.config import (
    DropePretraining,
    SsdiffPretraining,
    read_pretraining,
)
from dmri_fm_lab.train.runs import list_seen, load_encoder
from dmri_fm_lab.train.scan_cache import CachedScan
from dmri_fm_lab.train.ssdiff import draw_step, pretrain_ssdiff, read_scan
from tests.dmri_fm.encoders.ssdiff.narrow import NARROW
from tests.dmri_fm_lab.train import conftest as drope

TRAINING = SsdiffPretraining(
    model="ssdiff",
    optimisation=replace(drope.TRAINING.optimisation, n_steps=3),
    batch=2,
    min_directions=6,
    max_directions=8,
    n_brains=3,
    scan_directions=12,
    n_reuse=2,
    n_reference=6,
    n_held_out=4,
)


@pytest.fixture
def tiny_ssdiff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "ssdiff", MODELS["ssdiff"]._replace(config=NARROW))


def read_log(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.usefixtures("tiny_ssdiff")
def test_a_run_writes_weights_that_encode(brains: Path, twins: CachedScan, tmp_path: Path) -> None:
    path = tmp_path / "ssdiff.safetensors"
    settings = replace(TRAINING, scan_share=1.0)
    run = pretrain_ssdiff(settings, tmp_path / "run", scans=[twins], brains=brains, weights=path)
    assert run.steps == 3
    rows = read_log(tmp_path / "run")
    assert list(rows[0])[4:] == ["loss", "over_mean"]
    loaded = load_weights(path, model="ssdiff")
    assert loaded.training["scans"] == ["sub-01"]
    assert seen_participants(loaded) == {hash_participant("Study of twins", "01")}
    assert SsdiffEncoder(loaded).reference is not None
    assert loaded.statistics["mean"].shape == (2 * 24,), "class token and mean of the volumes"
    # Evaluations of D-RoPE refuse it, and learn whom it has seen.
    for source in ({"weights": path}, {"folder": tmp_path / "run"}):
        with pytest.raises(ConfigError, match="ssdiff is no D-RoPE encoder"):
            load_encoder("ssdiff", **source)
    for seen in (list_seen(path, model="ssdiff"), list_seen(tmp_path / "run", model="ssdiff")):
        assert seen == seen_participants(loaded)
    with pytest.raises(WeightsError, match="a checkpoint of ssdiff"):
        list_seen(tmp_path / "run")


@pytest.mark.usefixtures("tiny_ssdiff")
def test_a_network_learns(brains: Path, tmp_path: Path) -> None:
    steps = replace(
        TRAINING.optimisation, n_steps=60, warmup_steps=5, learning_rate=1e-2, checkpoint_minutes=9
    )
    pretrain_ssdiff(replace(TRAINING, optimisation=steps), tmp_path / "run", brains=brains)
    losses = [float(row["loss"]) for row in read_log(tmp_path / "run")]
    assert np.mean(losses[-15:]) < 0.6 * np.mean(losses[:3])


def test_a_step_depends_on_its_number_alone(brains: Path, twins: CachedScan) -> None:
    def draw(number: int) -> Any:
        return draw_step(NARROW, BrainSource(NARROW, TRAINING, brains, scans=[twins]), number)

    first, again, next_ = draw(4), draw(4), draw(5)
    for a, b in zip(first, again, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)
    assert first.signal.shape != next_.signal.shape or not torch.allclose(
        first.signal, next_.signal, equal_nan=True
    )
    assert first.signal.shape[:2] == first.bvals.shape == first.directions.shape[:2]
    assert first.signal.shape[0] == 2
    # Twins are one direction: no vector of a scan comes twice, but for its sign.
    for scan in first.directions[:, :, 0]:
        cosines = (scan @ scan.T).abs() - torch.eye(len(scan))
        same_b = first.bvals[0][:, None] == first.bvals[0][None]
        assert cosines[same_b].max() < np.cos(np.radians(5))


def test_b0_volumes_are_trained_on_where_they_are_read_at_use(
    brains: Path, twins: CachedScan
) -> None:
    config = replace(NARROW, reads_b0=True)
    numbers = set()
    for number in range(4):
        batch = draw_step(config, BrainSource(config, TRAINING, brains), number)
        is_b0 = batch.bvals == 0
        assert is_b0.any(dim=1).all()
        assert is_b0.sum(dim=1).unique().numel() == 1
        assert batch.directions[is_b0].eq(torch.tensor([1.0, 0, 0])).all(), "as at use"
        assert not batch.directions[~is_b0].eq(torch.tensor([1.0, 0, 0])).all(dim=-1).any()
        assert batch.signal[is_b0].nanmedian() == pytest.approx(1.0, abs=0.05)
        assert batch.signal[~is_b0].nanmedian() < 0.8
        numbers.add(int(is_b0[0].sum()))
    assert len(numbers) > 1
    none = draw_step(NARROW, BrainSource(NARROW, TRAINING, brains), 0)
    assert none.bvals.min() > 300
    with pytest.raises(InputError, match=r"sub-01: a scan .* without its b=0 volumes"):
        read_scan(np.random.default_rng(0), twins, config, n_directions=6, n_b0=1)


def test_scans_without_b0_volumes_are_named_before_the_training(
    monkeypatch: pytest.MonkeyPatch, twins: CachedScan, tmp_path: Path
) -> None:
    changed = MODELS["ssdiff"]._replace(config=replace(NARROW, reads_b0=True))
    monkeypatch.setitem(MODELS, "ssdiff", changed)
    old = [replace(twins, name=name, b0_bvals=()) for name in ("sub-08", "sub-09")]
    settings = replace(TRAINING, scan_share=0.5)
    with pytest.raises(InputError, match="2 of 2 scans without b=0 volumes: sub-08, sub-09"):
        pretrain_ssdiff(settings, tmp_path / "run", scans=old)
    assert not (tmp_path / "run").exists()


def test_half_of_the_scans_turn_directions_from_place_to_place(brains: Path) -> None:
    source = BrainSource(NARROW, TRAINING, brains)
    turned = []
    for number in range(10):
        for scan in draw_step(NARROW, source, number).directions:
            cosines = (scan * scan[:, :1]).sum(dim=-1).clamp(-1, 1)
            turned.append(float(torch.rad2deg(cosines.acos()).max()))
    assert 4 <= sum(t < 0.1 for t in turned) <= 16
    assert 3 < max(turned) < 45


def test_settings_are_those_of_the_model() -> None:
    assert isinstance(read_pretraining("ssdiff"), SsdiffPretraining)
    assert isinstance(read_pretraining("drope"), DropePretraining)
    published = read_pretraining("ssdiff-paper")
    assert (published.batch, published.optimisation.learning_rate) == (64, 1e-4)
    with pytest.raises(ConfigError, match="unknown"):
        read_pretraining("drope", model="ssdiff")


@pytest.mark.usefixtures("tiny_ssdiff")
def test_the_command_trains_ssdiff(
    brains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "short.toml"
    settings.write_text(
        'model = "ssdiff"\nbatch = 1\nmin_directions = 6\nmax_directions = 6\nn_brains = 2\n'
        "scan_directions = 12\n[optimisation]\nn_steps = 2\n"
        "warmup_steps = 1\nlearning_rate = 1e-4\nfinal_learning_rate = 1e-6\n"
    )
    arguments = ["pretrain", str(settings), str(tmp_path / "run"), "--brains", str(brains)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run")
    assert len(read_log(tmp_path / "run")) == 2
    assert main([*arguments, "--start", "drope"]) == 1
    assert "--start" in capsys.readouterr().err
