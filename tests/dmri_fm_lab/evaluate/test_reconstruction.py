from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope import mae
from dmri_fm.encoders.drope.config import SMALL
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.qspace import condition_number
from dmri_fm_lab import grid_scans
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.evaluate.masked_scans import (
    choose_directions,
    draw_direction_mask,
    reconstruct,
)
from dmri_fm_lab.evaluate.reconstruction import (
    ReconstructionRequest,
    format_scan,
    score_scan,
    score_scans,
)
from dmri_fm_lab.evaluate.reconstruction_baselines import DIRECTION_BASELINES
from dmri_fm_lab.grid_scans import GridScan, embed
from dmri_fm_lab.train.runs import load_autoencoder
from tests.dmri_fm_lab.evaluate.tiny_drope import SIDE, TINY, TINY_MAE, middle_of_the_brain


@pytest.fixture
def scan(grid_scan):
    return grid_scan


@pytest.fixture
def network(tiny_network):
    return tiny_network


def test_a_simulated_scan_knows_its_truth(scan) -> None:
    assert scan.signal.shape == (SIDE, SIDE, SIDE, 16)
    assert [round(s.bval) for s in scan.gtab.shells] == [1000, 2500]
    error = scan.floor_rmse(np.arange(16), scan.mask)
    # SNR 12 to 50 in white matter, whose b=0 is darker than CSF's.
    assert 0.01 < error < 0.2
    far = np.corrcoef(scan.signal[scan.mask].ravel(), scan.clean[scan.mask].ravel())[0, 1]
    assert far > 0.85
    assert not scan.signal[~scan.mask].any()


def test_a_network_that_knows_everything_makes_no_error(scan, network, monkeypatch) -> None:
    """Patches return to where they were, and only the network's own output is scored as its."""
    monkeypatch.setattr(network, "forward", lambda patches, *_: patches)
    record = score_scan(network, scan, ReconstructionRequest((12,), 1))
    for masking in ("diffusion", "spatial"):
        found = record["results"]["12"][masking]
        assert found["rows"]["network"]["all"]["rmse"] < 1e-6
        assert found["rows"]["network"]["all"]["ssim"] == pytest.approx(1.0, abs=1e-5)
        assert found["authors"]["network"]["all"]["authors_ms_ssim"] == pytest.approx(1, abs=1e-5)
        assert found["rows"]["mean"]["all"]["rmse"] > 0.01
        # It has reconstructed the noise, too.
        assert found["tensors"]["network"] == pytest.approx(found["tensors"]["floor"], rel=1e-4)
        floor = found["rows"]["floor"]["all"]["rmse"]
        assert found["rows"]["network"]["all"]["rmse_truth"] == pytest.approx(floor, rel=1e-4)


def test_rows_of_a_scan(scan, network) -> None:
    record = score_scan(network, scan, ReconstructionRequest((12, 99), 2))
    assert list(record["results"]) == ["12"]
    found = record["results"]["12"]
    rows = found["diffusion"]["rows"]
    assert set(rows["network"]) == {"all", "1000", "2500"}
    for baseline in DIRECTION_BASELINES:
        assert 0 < rows["floor"]["all"]["rmse_truth"] + rows[baseline]["all"]["rmse_truth"] < 0.5
    assert rows["floor"]["all"]["rmse"] < rows["tensor"]["all"]["rmse"]
    # An untrained network is no baseline.
    assert rows["network"]["all"]["rmse"] > rows["mean"]["all"]["rmse"]
    assert set(found["diffusion"]["authors"]["network"]) == {"all", "1000", "2500"}
    patches = found["spatial"]["rows"]
    assert set(patches) == {"network", "mean", "convolution", "harmonic", "floor"}
    assert patches["harmonic"]["all"]["rmse"] < patches["mean"]["all"]["rmse"]
    apart = found["spatial-per-direction"]["rows"]
    assert apart["directions"]["all"]["rmse"] < apart["mean"]["all"]["rmse"]
    text = format_scan(record)
    assert "| Gaussian process, b 2500 |" in text
    assert "authors' PSNR" in text
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("kind", ["spatial", "diffusion"])
def test_masked_data_reach_no_reconstruction(scan, network, kind) -> None:
    """Other values in masked patches and directions change no reconstruction of them."""
    chosen = tokenise(scan.signal, scan.gtab, scan.mask, TINY)
    rng = np.random.default_rng(0)
    mask = mae.draw_mask(rng, TINY_MAE, kind=kind, n_directions=16, n_patches=len(chosen.index))
    patches = chosen.patches.clone()
    patches[mask.masked(16, len(chosen.index))[0]] = 1.0
    first = reconstruct(network, scan, chosen, mask)
    second = reconstruct(network, scan, replace(chosen, patches=patches), mask)
    np.testing.assert_array_equal(first, second)


def test_a_direction_that_was_measured_twice_counts_once(scan, caplog) -> None:
    twice = scan.select(np.repeat(np.arange(16), 2))
    assert choose_directions(twice, 17, gamma=0.5) is None
    assert "skipped with 17 directions, it has 16 distinct ones" in caplog.text
    chosen = choose_directions(twice, 16, gamma=0.5)
    np.testing.assert_array_equal(chosen.signal, scan.signal)
    assert len(choose_directions(twice, 12, gamma=0.5).gtab) == 12


def test_visible_directions_determine_a_tensor(scan, network) -> None:
    part = scan.gtab.select(np.flatnonzero(scan.gtab.bvals < 1500))
    for seed in range(5):
        mask = draw_direction_mask(np.random.default_rng(seed), network, scan.gtab, n_patches=4)
        assert mask.kept.shape == (1, 8)
        assert condition_number(scan.gtab.bvecs_ras[mask.kept[0].numpy()]) < 4
    assert len(part) == 8


def test_real_scans_have_an_estimated_floor(scan, network) -> None:
    real = replace(scan, clean=None)
    record = score_scan(network, real, ReconstructionRequest((12,), 1))
    row = record["results"]["12"]["diffusion"]["rows"]["floor"]["all"]
    assert row["rmse"] > 0
    assert row["ssim"] is None
    assert not record["has_truth"]


def test_too_few_directions_are_an_error(scan, network) -> None:
    with pytest.raises(ConfigError, match="no scan to score"):
        score_scans(network, [scan], ReconstructionRequest((40,)))
    with pytest.raises(ConfigError, match="1"):
        ReconstructionRequest((1,))


def test_embedding_moves_by_whole_voxels() -> None:
    grid = middle_of_the_brain()
    image = np.arange(8.0, dtype=np.float32).reshape(2, 2, 2)
    affine = grid.affine.copy()
    affine[:3, 3] += [6.4, -2.0, 0]
    found = embed(image, affine, grid)
    # Three voxels along x; the first along y falls outside.
    np.testing.assert_array_equal(found[3:5, 0, :2], image[:, 1])
    assert found.sum() == image[:, 1].sum()
    with pytest.raises(ConfigError, match="voxels"):
        embed(image, np.diag([3.0, 3, 3, 1]), grid)


def test_a_run_is_read_back(run, tmp_path) -> None:
    network = load_autoencoder(run)
    average = torch.load(run / "last.ckpt", weights_only=True)["average"]
    torch.testing.assert_close(
        network.decoder.mask_token.data, average["module.decoder.mask_token"]
    )
    assert not network.training
    with pytest.raises(WeightsError, match="cannot be read"):
        load_autoencoder(tmp_path)
    (tmp_path / "last.ckpt").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_autoencoder(tmp_path)
    with pytest.raises(ConfigError, match="no encoder"):
        load_autoencoder(run, model="tensor-refiner")


def test_the_command(run, tmp_path, capsys) -> None:
    out = tmp_path / "scores.json"
    options = ["--simulated", "1", "--directions", "8", "--masks", "1", "--json", str(out)]
    assert main(["evaluate", "reconstruction", str(run), *options]) == 0
    printed = capsys.readouterr().out
    assert "| harmonic inpainting |" in printed
    assert str(out) in printed
    found = json.loads(out.read_text())
    assert found["scans"][0]["origin"] == "training generator"
    assert "fid" in found["notes"]
    assert main(["evaluate", "reconstruction", str(run)]) == 1
    assert "no scan" in capsys.readouterr().err
    assert main(["evaluate", "reconstruction", str(tmp_path / "none"), *options]) == 1
    assert "last.ckpt" in capsys.readouterr().err


@pytest.mark.slow
def test_brains_of_the_other_generator_lie_on_the_grid() -> None:
    grid = SMALL.grid
    (found,) = grid_scans.other_generator_scans(grid, 1, n_directions=6)
    assert isinstance(found, GridScan)
    assert found.mask.shape == tuple(grid.shape)
    assert 150_000 < found.mask.sum() < 300_000
    error = found.floor_rmse(np.arange(6), found.mask)
    assert 0.01 < error < 0.1
