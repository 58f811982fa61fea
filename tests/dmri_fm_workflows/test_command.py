"""The command itself, in a folder full of traps, ended by a scheduler: one run, many answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi

ROOT = Path(__file__).parents[2]

#: Its folder has a module that Python imports at the start of every process.
WATCH = ROOT / "tests" / "network_watch"

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{WATCH}:{ROOT}:{ROOT / 'workflows'}:{ROOT / 'lab'}"}


def write_noise(bids: Path) -> None:
    """Write a dataset of one series whose denoising takes long enough to be interrupted."""
    folder = bids / "sub-01" / "dwi"
    folder.mkdir(parents=True)
    (bids / "dataset_description.json").write_text('{"Name": "noise", "BIDSVersion": "1.10.0"}')
    rng = np.random.default_rng(0)
    bvecs = rng.normal(size=(13, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvecs[0] = 0
    gtab = GradientTable(1000.0 * (np.arange(13) > 0), bvecs)
    data = rng.uniform(50, 100, (40, 40, 40, 13))
    Dwi.from_arrays(data, np.diag([-2.0, 2, 2, 1]), gtab).save(folder / "sub-01_dwi")


@pytest.fixture(scope="module")
def interrupted(traps: Any) -> subprocess.CompletedProcess[str]:
    """Start the command on one processor, and end it in its first long step."""
    write_noise(traps.folder.parent / "bids")
    log = traps.folder.parent / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "dmri_fm_workflows", "../bids", "../out", "participant"),
                *("--nprocs", "1", "--models", "none", "--skip-bids-validation"),
            ],
            cwd=traps.folder,
            env={**ENVIRONMENT, "NETWORK_WATCH": str(traps.folder.parent / "network")},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    latest = time.monotonic() + 240
    while "denoise\n" not in log.read_text() and process.poll() is None:
        assert time.monotonic() < latest, log.read_text()
        time.sleep(0.05)
    # As Slurm does: to every process of the job.
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(30)
    return subprocess.CompletedProcess(process.args, process.returncode, log.read_text())


@pytest.mark.timeout(400)
def test_interrupted_run_ends_with_its_code_and_last_line(
    interrupted: subprocess.CompletedProcess[str], traps: Any
) -> None:
    assert interrupted.returncode == 130, interrupted.stdout
    assert interrupted.stdout.splitlines()[-1] == (
        "drope-bidsapp: interrupted; the same command goes on from here"
    )
    assert "failed" not in interrupted.stdout
    assert "Traceback" not in interrupted.stdout
    left = [p.name for p in (traps.folder.parent / "out").rglob("*") if p.is_file()]
    assert "result_validate0.pklz" in left or "result_validate.pklz" in left
    assert not [n for n in left if n.startswith(("crash", ".drope")) or n.endswith(".part")]
    assert "provenance.json" not in left


@pytest.mark.timeout(400)
def test_nothing_of_the_current_folder_is_imported_or_read(
    interrupted: subprocess.CompletedProcess[str], traps: Any
) -> None:
    """Neither by the command nor by the processes that it starts."""
    assert traps.sprung() == []


@pytest.mark.timeout(400)
def test_nobody_asks_the_network(
    interrupted: subprocess.CompletedProcess[str], traps: Any, tmp_path: Path
) -> None:
    """Neither the command nor its workers; a process that does is noted."""
    lines = (traps.folder.parent / "network").read_text().splitlines()
    assert len([line for line in lines if line.startswith("watching ")]) >= 3
    assert not [line for line in lines if line.startswith("asked ")]
    control = tmp_path / "network"
    code = (
        "import socket, urllib.request as u, contextlib as c\n"
        "with c.suppress(OSError): socket.create_connection(('127.0.0.1', 9), 1)\n"
        "with c.suppress(OSError): u.urlopen('http://127.0.0.1:9/', timeout=1)\n"
    )
    environment = {**ENVIRONMENT, "NETWORK_WATCH": str(control)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    asked = control.read_text()
    for event in ("socket.getaddrinfo", "socket.connect", "urllib.Request"):
        assert f"asked {event} " in asked


def test_the_traps_work(traps: Any, tmp_path: Path) -> None:
    control = traps.set(tmp_path / "here")
    subprocess.run([sys.executable, "-c", "import wave, ants"], cwd=control.folder, check=True)
    assert set(control.sprung()) == {"ants", "wave"}
    (control.folder / "nipype.cfg").read_text()
    if control.sprung()[-1] != "nipype.cfg":
        pytest.skip("this file system keeps no times of access: reading goes unnoticed")
