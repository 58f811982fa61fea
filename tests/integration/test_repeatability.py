"""One command, one result: with any number of processes and threads, interrupted or not."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from dmri_fm_workflows.outputs.differences import EQUAL, compare_outputs
from dmri_fm_workflows.outputs.manifest import verify_outputs

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]

#: Kills of the run that is killed at random moments.
N_KILLS = 20


@dataclass(frozen=True)
class Request:
    """A dataset with options; where the outputs go and how many processors work comes with each
    run of it."""

    bids: Path
    options: tuple[str, ...]

    def start(self, out: Path, *, n_procs: int, n_threads: int) -> subprocess.Popen[str]:
        """Start the app in a session of its own; its words go to `out` with the ending `.log`."""
        command = [
            *(sys.executable, "-m", "dmri_fm_workflows", str(self.bids), str(out), "participant"),
            *("--nprocs", str(n_procs), "--omp-nthreads", str(n_threads), "--keep-work"),
            # Engines of our own, whatever else this machine has.
            *("--denoise", "mppca", "--hmc", "builtin"),
            *("--skip-bids-validation", *self.options),
        ]
        with out.with_suffix(".log").open("a") as log:
            return subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'workflows'}:{ROOT / 'lab'}"},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )


def digests(out: Path) -> dict[str, str]:
    """Return the checksums of all outputs but the page, which shows command and folders."""
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and not {"log", "logs", "work"} & {*p.relative_to(out).parts}
        if p.suffix != ".html"
    }


def results(out: Path) -> dict[Path, int]:
    """Return the nodes that have finished, and when they did, ns.

    Without those that write outputs: they always run, and leave files alone that are the same.
    """
    found = [p for p in (out / "work").rglob("result_*.pklz") if p.parent.name[:3] != "ds_"]
    return {p: p.stat().st_mtime_ns for p in found}


@pytest.fixture(scope="module")
def slab(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Request:
    """One series of a slab, whose registration is ill determined; coarse settings."""
    bids = tmp_path_factory.mktemp("slab") / "bids"
    source = data_dir / "ds-vendors"
    (bids / "sub-umr" / "dwi").mkdir(parents=True)
    shutil.copy(source / "dataset_description.json", bids)
    for path in (source / "sub-umr" / "dwi").glob("*acq-rot*"):
        shutil.copy(path, bids / "sub-umr" / "dwi")
    return Request(bids, ("--sloppy", "--sdc", "none"))


@dataclass(frozen=True)
class Undisturbed:
    """Outputs of a run that was never interrupted, and its time, s."""

    out: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(slab: Request, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The slab by one process with one thread."""
    out, started = tmp_path_factory.mktemp("alone") / "out", time.monotonic()
    assert slab.start(out, n_procs=1, n_threads=1).wait() == 0
    return Undisturbed(out, time.monotonic() - started)


@pytest.fixture
def alone(undisturbed: Undisturbed) -> Path:
    """Outputs of the slab by one process with one thread, never interrupted."""
    return undisturbed.out


@pytest.mark.parametrize(("n_procs", "n_threads"), [(2, 1), (2, 2)])
def test_processes_and_threads_change_no_byte(
    slab: Request, alone: Path, tmp_path: Path, n_procs: int, n_threads: int
) -> None:
    assert slab.start(tmp_path / "out", n_procs=n_procs, n_threads=n_threads).wait() == 0
    expected = digests(alone)
    assert len(expected) > 70
    assert digests(tmp_path / "out") == expected


def test_whole_scan_is_the_same_with_two_threads(data_dir: Path, tmp_path: Path) -> None:
    scan = Request(data_dir / "ds-vendors", ("--participant-label", "umr"))
    for n in (1, 2):
        assert scan.start(tmp_path / str(n), n_procs=n, n_threads=n).wait() == 0
    expected = digests(tmp_path / "1")
    assert len(expected) > 170
    assert digests(tmp_path / "2") == expected


@pytest.mark.parametrize("n_procs", [1, 2])
def test_interrupted_run_goes_on_and_ends_alike(
    slab: Request, alone: Path, tmp_path: Path, n_procs: int
) -> None:
    """Ended while reading, denoising, in ANTs and while writing; then left to finish."""
    out, log = tmp_path / "out", tmp_path / "out.log"
    log.touch()
    for stage in ("drope-bidsapp 0", "denoise: denoise", "align acpc", "tensor: fit tensor"):
        before, n_said = results(out), log.read_text().count(stage)
        process = slab.start(out, n_procs=n_procs, n_threads=1)
        while log.read_text().count(stage) == n_said:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        time.sleep(0.3)
        told = time.monotonic()
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 130, log.read_text()
        assert time.monotonic() - told < 20
        assert log.read_text().splitlines()[-1] == (
            "drope-bidsapp: interrupted; the same command goes on from here"
        )
        # Nodes that had finished are as they were.
        assert before.items() <= results(out).items()
    before = results(out)
    assert len(before) > 10
    assert slab.start(out, n_procs=n_procs, n_threads=1).wait() == 0, log.read_text()
    assert before.items() <= results(out).items()
    assert digests(out) == digests(alone)
    assert "failed" not in log.read_text()
    left = [p.name for p in out.rglob("*")]
    assert not [n for n in left if n.startswith(("crash", ".drope")) or n.endswith(".part")]


@pytest.mark.timeout(3600)
def test_run_killed_at_random_moments_ends_alike(
    slab: Request, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """`kill -9` of the main process; a run that is done before its kill is begun anew."""
    out, rng, n_kills = tmp_path / "out", random.Random(0), 0
    while n_kills < N_KILLS:
        process = slab.start(out, n_procs=1, n_threads=1)
        try:
            code = process.wait(rng.uniform(0, 0.6 * undisturbed.seconds))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(60)
            n_kills += 1
        else:
            assert code == 0, out.with_suffix(".log").read_text()
            assert digests(out) == digests(undisturbed.out)
            shutil.rmtree(out)
    assert slab.start(out, n_procs=1, n_threads=1).wait() == 0, out.with_suffix(".log").read_text()
    assert {d.state for d in compare_outputs(out, undisturbed.out)} <= set(EQUAL)
    assert digests(out) == digests(undisturbed.out)
    assert verify_outputs(out)[1] == []
    assert not [p for p in out.rglob("*") if p.name.endswith(".part")]
