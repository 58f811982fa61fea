"""The array of docs/hpc under Slurm itself. Skipped where no Slurm answers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dmri_fm_lab.simulate import simulate_dataset
from dmri_fm_workflows.outputs.manifest import verify_outputs

ROOT = Path(__file__).resolve().parents[2]

#: Starts the app with quick settings.
APP = f"""#!/usr/bin/env bash
export PYTHONPATH={ROOT}:{ROOT / "workflows"}:{ROOT / "lab"}
exec {sys.executable} -m dmri_fm_workflows "$@" --models tensor --sloppy
"""


def call(*words: str, folder: Path) -> str:
    done = subprocess.run(list(words), cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def has_slurm() -> bool:
    command = ["sinfo", "--noheader"]
    return (
        shutil.which("sinfo") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def wait_for(is_met: Callable[[], bool], *, seconds: float) -> None:
    latest = time.monotonic() + seconds
    while not is_met():
        assert time.monotonic() < latest
        time.sleep(1)


@pytest.mark.slow
def test_array_with_a_failure_a_requeue_and_one_participant_twice(
    tmp_path: Path, run_app: Callable[..., tuple[int, str]]
) -> None:
    if not has_slurm():
        pytest.skip("no Slurm answers")
    bids, out = tmp_path / "bids", tmp_path / "out"
    simulate_dataset(bids, n_participants=3, seed=0, n_directions=6, voxel_size_mm=4.0)
    damaged = bids / "sub-02" / "dwi" / "sub-02_dir-AP_dwi.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:20000])
    (tmp_path / "app").write_text(APP)
    (tmp_path / "app").chmod(0o755)
    # Task 1 is killed and queued again; 3 and 4 are of one participant.
    (tmp_path / "tasks.txt").write_text("01\n02\n03\n03\n")
    variables = {"DROPE_COMMAND": str(tmp_path / "app"), "DROPE_WORK": str(tmp_path / "work")}
    exported = ",".join(["ALL", *(f"{name}={value}" for name, value in variables.items())])
    said = call("sbatch", "--parsable", "--requeue", "--array=1-4", "--cpus-per-task=1",
                "--mem=3G", f"--export={exported}", str(ROOT / "docs/hpc/array.sh"), "bids", "out",
                "tasks.txt", folder=tmp_path)  # fmt: skip
    job = said.strip()

    wait_for(lambda: any((out / "work").rglob("result_*.pklz"))
             or any((tmp_path / "work").rglob("result_*.pklz")), seconds=600)  # fmt: skip
    call("scontrol", "requeue", f"{job}_1", folder=tmp_path)
    wait_for(lambda: not call("squeue", "--noheader", f"--jobs={job}", folder=tmp_path).strip(),
             seconds=1500)  # fmt: skip

    logs = {n: (tmp_path / f"drope-{job}_{n}.out").read_text() for n in "1234"}
    assert "interrupted; the same command goes on from here" in logs["1"]
    assert "sub-01: complete after" in logs["1"]
    assert damaged.name in logs["2"]
    twice = logs["3"] + logs["4"]
    assert "sub-03: complete after" in twice
    assert "another run is at work on sub-03" in twice or "sub-03: complete already" in twice

    code, text = run_app(tmp_path / "none", out, "group")
    assert code == 0, text
    status = pd.read_csv(out / "group" / "participants_status.tsv", sep="\t", dtype=str)
    found = dict(zip(status["participant_id"], status["status"], strict=True))
    assert found == {"sub-01": "complete", "sub-02": "failed", "sub-03": "complete"}
    _, findings = verify_outputs(out, ["01", "03"])
    assert findings == []
