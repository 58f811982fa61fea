"""Slabs of a scan against the whole of it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.errors import ConfigError
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate.slabs import compare_slabs, cut_slabs, format_slabs, score_slabs
from tests.dmri_fm_lab.evaluate.tiny_drope import SIDE, TINY


def test_every_patch_is_in_one_slab(grid_scan, tiny_network) -> None:
    tokens = tokenise(grid_scan.signal, grid_scan.gtab, grid_scan.mask, TINY)
    for n_slices in (4, 8):
        slabs = cut_slabs(tokens, tiny_network, n_slices=n_slices)
        assert sorted(np.concatenate(slabs).tolist()) == list(range(len(tokens.index)))
        for number, slab in enumerate(slabs):
            z = tokens.positions[slab, 2].numpy()
            assert (z // n_slices == number).all()
    for n_slices in (0, 6):
        with pytest.raises(ConfigError, match="multiple of 4"):
            cut_slabs(tokens, tiny_network, n_slices=n_slices)


def test_a_slab_of_all_slices_is_the_whole_scan(grid_scan, tiny_network) -> None:
    row, _ = score_slabs(tiny_network, grid_scan, n_slices=SIDE)
    assert row["rmse_slabs"] == row["rmse_whole"]
    assert row["tokens"] == row["cls"] == 0


def test_an_autoencoder_without_error_makes_none_in_slabs(
    grid_scan, tiny_network, monkeypatch
) -> None:
    monkeypatch.setattr(tiny_network, "forward", lambda patches, *_: patches)
    row, _ = score_slabs(tiny_network, grid_scan, n_slices=4)
    assert row["rmse_slabs"] < 1e-6
    assert row["rmse_whole"] < 1e-6
    assert row["rmse_mean"] > 0.01


def test_slabs_and_scans_are_apart(grid_scan, tiny_network) -> None:
    scans = [grid_scan, grid_scan.select(np.arange(16)[::-1])]
    record = compare_slabs(tiny_network, scans[:1], n_slices=4)
    (row,) = record["scans"].values()
    assert row["tokens"] > 0
    assert row["cls"] > 0
    assert record["between"] is None
    # The same scan with its volumes in another order: no distance but for rounding.
    record = compare_slabs(tiny_network, scans, n_slices=4, n_directions=16)
    assert record["between"]["tokens"] < 1e-5
    assert record["between"]["cls"] < 1e-5
    assert "grid of 2 mm, patches of 8 x 8 x 4 voxels" in format_slabs(record)
    assert "| two whole scans |" in format_slabs(record)
    with pytest.raises(ConfigError, match="no scan"):
        compare_slabs(tiny_network, scans, n_slices=4, n_directions=17)


def test_the_command(run, tmp_path, capsys) -> None:
    out = tmp_path / "slabs.json"
    options = ["--simulated", "2", "--json", str(out)]
    assert main(["evaluate", "slabs", str(run), *options]) == 0
    printed = capsys.readouterr().out
    assert "slabs of 4 slices against whole brains" in printed
    assert "| two whole scans |" in printed
    assert json.loads(out.read_text())["grid_mm"] == 2
