"""The readers under damaged files: a short run here, a long one among the slow tests."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.fuzz.run import run_target
from tests.fuzz.targets import make_targets

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def targets():
    return make_targets()


def run(n_inputs: int, seed: int) -> dict[str, list[int]]:
    """Run the script within its limit of memory; inputs, refused, accepted, failures by target."""
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", str(n_inputs), "--seed", str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", done.stdout)
    return {name: list(map(int, numbers)) for name, *numbers in rows}


def check(found: dict[str, list[int]], n_inputs: int) -> None:
    assert set(found) == {"images", "gradients", "sidecars", "weights"}
    assert sum(row[0] for row in found.values()) == n_inputs
    for n_all, n_refused, n_accepted, n_failures in found.values():
        assert n_failures == 0
        # Both happen: inputs that are all refused at the door test nothing behind it.
        assert min(n_refused, n_accepted) > 0.02 * n_all


def test_damaged_files_are_refused_or_possible() -> None:
    check(run(4000, seed=1), 4000)


@pytest.mark.slow
def test_a_hundred_thousand_damaged_files_are_refused_or_possible() -> None:
    check(run(100_000, seed=2), 100_000)


def test_same_seed_gives_the_same_inputs(targets, tmp_path) -> None:
    one, other = (
        run_target(targets["gradients"], n_inputs=50, seed=3, folder=tmp_path) for _ in range(2)
    )
    assert (one.n_refused, one.n_accepted) == (other.n_refused, other.n_accepted)
    assert one.n_inputs == 50


@pytest.mark.parametrize("name", ["images", "sidecars"])
def test_readers_without_our_checks_fail(targets, tmp_path, name) -> None:
    """The fuzz finds what it looks for: bare nibabel and json are full of it."""

    def read_image(folder):
        path = max(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
        image = nib.load(path)
        return np.asanyarray(image.dataobj).astype(np.float32), np.asarray(image.affine)

    def read_sidecar(folder):
        return json.loads((folder / "sub-01_dwi.json").read_text())

    bare = {"images": read_image, "sidecars": read_sidecar}[name]
    target = replace(targets[name], read=bare, judge=lambda found: None)
    tally = run_target(target, n_inputs=200, seed=0, folder=tmp_path)
    assert len(tally.failures) > 10


def test_damage_that_a_checksum_would_show_counts_as_a_failure(targets, tmp_path) -> None:
    """A reader that stops before the trailer returns wrong voxels, and is told so."""

    def read_short(folder):
        path = max(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns)
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as stream:
            return (np.frombuffer(stream.read(400)[352:], np.uint8),)

    target = replace(targets["images"], read=read_short, judge=lambda found: None)
    tally = run_target(target, n_inputs=400, seed=0, folder=tmp_path)
    assert any("damage was not noticed" in failure for failure in tally.failures)
