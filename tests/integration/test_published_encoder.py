"""The app with `drope-paper`: weights from a file, features of the published crop at 1 mm."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from dmri_fm.encoders.drope.config import PAPER, DropeConfig
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.weights import save_weights

RunApp = Callable[..., tuple[int, str]]

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

#: On the published grid, but narrow and of one block.
NARROW = replace(PAPER, dim=24, depth=1, heads=2)


@pytest.mark.parametrize("config", [NARROW, PAPER], ids=["narrow", "published"])
def test_features_of_the_published_crop(
    run_app: RunApp, data_dir: Path, tmp_path: Path, config: DropeConfig
) -> None:
    """Random weights; the published network takes 24 TFLOP, about five minutes."""
    torch.manual_seed(0)
    weights = save_weights(
        tmp_path / "random.safetensors",
        Drope(config),
        name="drope-paper",
        version="0",
        training={},
    )
    arguments = [data_dir / "ds-vendors", tmp_path / "out", "participant"]
    arguments += ["--participant-label", "umr", "--sloppy"]
    arguments += ["--models", "drope-paper", "--weights", f"drope-paper={weights}"]
    code, text = run_app(*arguments)
    assert code == 0, text[-3000:]
    tables = list((tmp_path / "out" / "sub-umr").rglob("*_features.tsv"))
    assert tables
    for table in tables:
        with table.open(encoding="utf-8") as stream:
            (row,) = csv.DictReader(stream, delimiter="\t")
        assert len([c for c in row if c.startswith("cls")]) == config.dim
        assert len([c for c in row if c.startswith("pooled")]) == 2 * config.dim
        assert int(row["n_directions"]) == 12
        described = json.loads(table.with_suffix(".json").read_text(encoding="utf-8"))
        assert described["Model"]["SHA256"] == sha256(weights.read_bytes()).hexdigest()
        assert described["RegionSlices"] == [64, 119]
        assert described["DirectionChoice"] == "random"
        assert len(described["Volumes"]) == 12
        assert isinstance(described["Seed"], int)


def test_damaged_weights_are_refused(run_app: RunApp, data_dir: Path, tmp_path: Path) -> None:
    weights = save_weights(
        tmp_path / "random.safetensors",
        Drope(NARROW),
        name="drope-paper",
        version="0",
        training={},
    )
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    arguments = [data_dir / "ds-vendors", tmp_path / "out", "participant"]
    arguments += ["--participant-label", "umr", "--sloppy"]
    arguments += ["--models", "drope-paper", "--weights", f"drope-paper={weights}"]
    code, text = run_app(*arguments)
    assert code == 2
    assert "sha256" in text
