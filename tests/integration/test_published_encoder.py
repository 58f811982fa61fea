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
from dmri_fm_lab.__main__ import main
from tests.dmri_fm.encoders.drope.authors_state import draw_state_dict

RunApp = Callable[..., tuple[int, str]]

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

#: On the published grid, but narrow and of one block.
NARROW = replace(PAPER, dim=24, depth=1, heads=2)


def write_random(path: Path, config: DropeConfig) -> Path:
    """Write random weights."""
    torch.manual_seed(0)
    return save_weights(path, Drope(config), name="drope-paper", version="0", training={})


def convert_theirs(path: Path, config: DropeConfig) -> Path:
    """Write random weights as the authors' code saves them, and convert the file."""
    checkpoint = path.with_suffix(".pth")
    torch.save(draw_state_dict(dim=config.dim, depth=config.depth, patch=config.patch), checkpoint)
    assert main(["convert", str(checkpoint), str(path), "--heads", str(config.heads)]) == 0
    return path


@pytest.mark.parametrize(
    ("write", "config"),
    [(write_random, NARROW), (convert_theirs, NARROW), (write_random, PAPER)],
    ids=["narrow", "authors", "published"],
)
def test_features_of_the_published_crop(
    run_app: RunApp,
    data_dir: Path,
    tmp_path: Path,
    write: Callable[[Path, DropeConfig], Path],
    config: DropeConfig,
) -> None:
    """The published network takes 24 TFLOP, about five minutes."""
    weights = write(tmp_path / "random.safetensors", config)
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
    weights = write_random(tmp_path / "random.safetensors", NARROW)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    arguments = [data_dir / "ds-vendors", tmp_path / "out", "participant"]
    arguments += ["--participant-label", "umr", "--sloppy"]
    arguments += ["--models", "drope-paper", "--weights", f"drope-paper={weights}"]
    code, text = run_app(*arguments)
    assert code == 2
    assert "sha256" in text
