"""Real scans on disk, laid on the encoder's grid."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from dmri_fm.encoders.drope.config import SMALL
from dmri_fm.errors import InputError, LayoutError
from dmri_fm.gradients import GradientTable
from dmri_fm.participants import hash_participant
from dmri_fm.registry import feature_grid
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.simulate import spread_directions
from dmri_fm_lab.train import dataset_cache, scan_variation
from dmri_fm_lab.train.dataset_cache import cache_scans, hash_participants
from dmri_fm_lab.train.scan_cache import CachedScan
from dmri_fm_lab.train.scan_variation import mirrored
from dmri_fm_workflows.outputs.root import DERIVATIVES

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


def write(scan, folder, **origin):
    return CachedScan.write(folder, scan.signal, scan.mask, scan.gtab, origin=origin)


def test_a_scan_is_read_as_it_was_written(tmp_path):
    scan = grid_scan()
    back = write(scan, tmp_path / "sub-01", file="x.nii.gz")
    assert (back.name, back.participant, back.origin) == ("sub-01", "sub-01", {"file": "x.nii.gz"})
    np.testing.assert_allclose(back.gtab.bvecs_ras, scan.gtab.bvecs_ras)
    stored = np.load(back.folder / "signal.npy")
    # Half precision: 11 bits.
    np.testing.assert_allclose(np.moveaxis(stored, 0, 3), scan.signal, rtol=5e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "sub-01"], (
        "nothing half-written is left"
    )


def test_an_earlier_scan_is_replaced_unless_it_is_the_same(tmp_path):
    first = write(grid_scan(), tmp_path / "sub-01", mtime=1)
    before = (first.folder / "signal.npy").stat().st_ino
    write(grid_scan(), tmp_path / "sub-01", mtime=1)
    assert (first.folder / "signal.npy").stat().st_ino == before
    write(grid_scan(), tmp_path / "sub-01", mtime=2)
    assert (first.folder / "signal.npy").stat().st_ino != before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "sub-01"]


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.train.scan_cache import CachedScan

folder, name = Path(sys.argv[1]), sys.argv[2]
gtab = GradientTable(np.full(3, 1000.0), np.eye(3))
mask = np.ones((8, 8, 4), bool)
limit = time.monotonic() + 120
for k in range(24):
    (folder / f"ready-{k}{name}").touch()
    while len(list(folder.glob(f"ready-{k}[ab]"))) < 2:
        time.sleep(0.0001)
        assert time.monotonic() < limit, "the other writer is gone"
    signal = np.full((*mask.shape, 3), k / 24, np.float32)
    scan = CachedScan.write(folder / f"brain-{k}", signal, mask, gtab)
    found = np.load(scan.folder / "signal.npy", mmap_mode="r")
    assert (found == np.float16(k / 24)).all()
"""


def test_processes_write_the_same_scans_at_the_same_time(tmp_path):
    """As two runs do that share their simulated brains."""
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [
        subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in "ab"
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=240)
        assert writer.returncode == 0, errors
    found = {p.name for p in tmp_path.iterdir() if not p.name.startswith(("ready", ".lock"))}
    assert found == {f"brain-{k}" for k in range(24)}


def test_what_is_drawn_is_the_scan_moved_or_mirrored(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_variation, "NOISY_SHARE", 0.0)
    scan = write(grid_scan(), tmp_path / "sub-01")
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


def test_voxels_are_those_of_the_volumes(twins):
    """The same random numbers give the same directions, changes and noise."""
    shape = twins.read_mask().shape
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    is_mirrored = set()
    for seed in range(8):
        whole = twins.draw_volumes(np.random.default_rng(seed), n_directions=7)
        values, inside, gtab = twins.draw_voxels(
            np.random.default_rng(seed), voxels, n_directions=7
        )
        np.testing.assert_array_equal(inside, whole.mask)
        np.testing.assert_array_equal(values[:, inside], whole.volumes[:, inside])
        np.testing.assert_array_equal(gtab.bvecs_ras, whole.gtab.bvecs_ras)
        is_mirrored.add(bool(values[0, 8, 20, 15] > values[0, 24, 20, 15]))
    assert is_mirrored == {True, False}
    beyond = np.array([[-1, 20, 15], [16, 40, 15], [16, 20, 15]])
    _, inside, _ = twins.draw_voxels(np.random.default_rng(0), beyond, n_directions=7)
    assert inside.tolist() == [False, False, True]


def test_a_slab_is_part_of_the_scan(tmp_path, monkeypatch):
    """Where the fibre is, the table fits, in slabs as in the whole."""
    monkeypatch.setattr(scan_variation, "NOISY_SHARE", 0.0)
    scan = write(grid_scan(), tmp_path / "sub-01")
    for seed in range(8):
        slab = scan.draw(np.random.default_rng(seed), SMALL, n_directions=6, n_slices=4)
        (height,) = slab.positions[:, 2].unique().tolist()
        assert 26 <= height - 1.5 <= 59, "slabs hold a tenth of the brain or more"
        theta, phi = slab.qspace[:, 1], slab.qspace[:, 2]
        x, y = theta.sin() * phi.cos(), theta.sin() * phi.sin()
        moving = slab.patches.std(dim=0) > 0.01
        values = slab.patches[:, moving].median(dim=1).values
        fits = [np.exp(-1.5 * (s * 0.8 * x + 0.6 * y).numpy() ** 2) for s in (1, -1)]
        assert min(np.abs(values.numpy() - fit).max() for fit in fits) < 2e-3


def test_noise_is_added_to_some(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_variation, "NOISY_SHARE", 1.0)
    monkeypatch.setattr(scan_variation, "SNR_RANGE", (20.0, 20.0000001))
    scan = write(grid_scan(), tmp_path / "sub-01")
    noisy = scan.draw(np.random.default_rng(0), SMALL, n_directions=6)
    still = (noisy.brain > 0) & (noisy.patches.mean(dim=0) - 0.6 < 0.3)
    flat = noisy.patches[0][still]
    flat = flat[(flat - 0.6).abs() < 0.2]
    assert flat.std().item() == pytest.approx(0.05, rel=0.1)


def test_participants_are_hashed_by_the_dataset_of_their_files(tmp_path):
    for name, words in (("raw", "My study"), ("out", f"My study{DERIVATIVES}"), ("b", "Other")):
        (tmp_path / name / "sub-01" / "dwi").mkdir(parents=True)
        text = json.dumps({"Name": words})
        (tmp_path / name / "dataset_description.json").write_text(text)
    # A folder of links, as of participants of several datasets.
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "sub-01").symlink_to(tmp_path / "raw" / "sub-01")
    gtab = GradientTable([1000.0], [[1, 0, 0]])

    def of(name):
        path = tmp_path / name / "sub-01" / "dwi" / "sub-01_dwi.nii.gz"
        return CachedScan("sub-01", tmp_path, gtab, {"file": str(path)})

    expected = hash_participant("My study", "01")
    assert [hash_participants([of(n)]) for n in ("raw", "out", "links")] == [[expected]] * 3
    other = hash_participant("Other", "01")
    assert hash_participants([of("raw"), of("b"), of("out")]) == sorted([expected, other])
    assert hash_participants([CachedScan("simulated", tmp_path, gtab)]) == []
    (tmp_path / "b" / "dataset_description.json").unlink()
    with pytest.raises(InputError, match="dataset_description"):
        hash_participants([of("b")])
    with pytest.raises(LayoutError, match="no participant's folder"):
        hash_participants([CachedScan("x", tmp_path, gtab, {"file": str(tmp_path / "x.nii")})])


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
    monkeypatch.setattr(dataset_cache, "find_scans", lambda *_, **__: map(find, names))
    monkeypatch.setattr(dataset_cache, "place_scan", place)
    first = cache_scans(tmp_path, tmp_path / "scans", SMALL.grid)
    assert [s.name for s in first] == ["sub-01"], "without weighted volumes, or too few: left out"
    calls.clear()
    assert [s.name for s in cache_scans(tmp_path, tmp_path / "scans", SMALL.grid)] == ["sub-01"]
    assert calls == ["sub-02"], "what is on disk is not computed again"
    calls.clear()
    os.utime(series, ns=(0, 0))
    assert [s.name for s in cache_scans(tmp_path, tmp_path / "scans", SMALL.grid)] == ["sub-01"]
    assert calls == names, "the file has changed"
    calls.clear()
    cache_scans(tmp_path, tmp_path / "scans", feature_grid("drope-paper"))
    assert calls == names, "the grid has changed"
    names[:] = ["sub-03"]
    with pytest.raises(InputError, match="no scan to train on"):
        cache_scans(tmp_path, tmp_path / "scans", SMALL.grid)
