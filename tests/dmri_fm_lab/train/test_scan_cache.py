"""Real scans on disk, laid on the encoder's grid."""

import os
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from dmri_fm.encoders.drope.config import SMALL
from dmri_fm.errors import InputError
from dmri_fm.gradients import GradientTable
from dmri_fm.registry import find_model
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.train import scan_cache
from dmri_fm_lab.train.scan_cache import CachedScan, cache_scans, mirrored

SHAPE = SMALL.grid_shape


def grid_scan(n=8, seed=0):
    """Return a scan whose signal is that of one left-right fibre on its right side."""
    rng = np.random.default_rng(seed)
    gtab = GradientTable(np.full(n, 1000.0), spread_directions(rng, n))
    mask = np.zeros(SHAPE, dtype=bool)
    mask[20:70, 30:80, 30:60] = True
    along = gtab.bvecs_ras @ np.array([0.8, 0.6, 0.0])
    signal = np.zeros((*SHAPE, n), dtype=np.float32)
    signal[mask] = 0.6
    signal[50:70, 30:80, 30:60] = np.exp(-1.5 * along**2)
    return GridScan("sub-01", "raw", signal, gtab, mask, np.eye(4), np.zeros(SHAPE, np.float32))


def test_a_scan_is_read_as_it_was_written(tmp_path):
    scan = grid_scan()
    back = CachedScan.write(scan, tmp_path / "sub-01")
    assert back.name == "sub-01"
    np.testing.assert_allclose(back.gtab.bvecs_ras, scan.gtab.bvecs_ras)
    assert [p.name for p in tmp_path.iterdir()] == ["sub-01"], "nothing half-written is left"


def test_what_is_drawn_is_the_scan_moved_or_mirrored(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_cache, "NOISY_SHARE", 0.0)
    scan = CachedScan.write(grid_scan(), tmp_path / "sub-01")
    sides = set()
    for seed in range(12):
        tokens = scan.draw(np.random.default_rng(seed), SMALL, n_directions=5)
        assert tokens.patches.shape[0] == tokens.qspace.shape[0] == 5
        assert not tokens.patches[:, tokens.brain == 0].any()
        # The fibre is where the signal varies over directions; its axis fits the table there.
        moving = tokens.patches.std(dim=0) > 0.01
        centre = tokens.positions[moving.any(dim=1)].mean(dim=0)
        is_right = bool(centre[0] > tokens.positions[:, 0].mean())
        sides.add(is_right)
        theta, phi = tokens.qspace[:, 1], tokens.qspace[:, 2]
        x, y = theta.sin() * phi.cos(), theta.sin() * phi.sin()
        along = (0.8 if is_right else -0.8) * x + 0.6 * y
        values = tokens.patches[:, moving].median(dim=1).values
        np.testing.assert_allclose(values, np.exp(-1.5 * along.numpy() ** 2), atol=2e-3)
    assert sides == {True, False}


def test_a_mirrored_table_mirrors_its_axes():
    gtab = GradientTable([1000.0], [[0.6, 0.8, 0.0]])
    np.testing.assert_allclose(mirrored(gtab).bvecs_ras, [[-0.6, 0.8, 0.0]])


def test_a_dataset_is_laid_on_the_grid_once(tmp_path, monkeypatch):
    calls = []
    series = tmp_path / "series.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.float32), np.eye(4)), series)

    def find(name):
        image = nibabel.load(series)
        return SimpleNamespace(name=name, dwi=SimpleNamespace(image=image))

    def place(scan, grid):
        calls.append(scan.name)
        if scan.name == "sub-02":
            return None
        return replace(grid_scan(4 if scan.name == "sub-03" else 8), name=scan.name)

    names = ["sub-01", "sub-02", "sub-03"]
    monkeypatch.setattr(scan_cache, "find_scans", lambda *_, **__: map(find, names))
    monkeypatch.setattr(scan_cache, "place_scan", place)
    first = cache_scans(tmp_path, tmp_path / "scans", SMALL)
    assert [s.name for s in first] == ["sub-01"], "without weighted volumes, or too few: left out"
    calls.clear()
    assert [s.name for s in cache_scans(tmp_path, tmp_path / "scans", SMALL)] == ["sub-01"]
    assert calls == ["sub-02"], "what is on disk is not computed again"
    calls.clear()
    os.utime(series, ns=(0, 0))
    assert [s.name for s in cache_scans(tmp_path, tmp_path / "scans", SMALL)] == ["sub-01"]
    assert calls == names, "the file has changed"
    calls.clear()
    cache_scans(tmp_path, tmp_path / "scans", find_model("drope-paper").config)
    assert calls == names, "the grid has changed"
    names[:] = ["sub-03"]
    with pytest.raises(InputError, match="no scan to train on"):
        cache_scans(tmp_path, tmp_path / "scans", SMALL)
