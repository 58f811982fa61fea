"""Batch scripts for clusters, run by the shell in place of Slurm."""

import os
import subprocess
from pathlib import Path

import pytest

from dmri_fm_lab.__main__ import build_parser

SCRIPTS = Path(__file__).parents[1] / "docs" / "hpc"

#: Stands for `dmri-fm`: writes its arguments down, and says how far the run is.
RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$OMP_NUM_THREADS" "$@" >> calls.txt
echo END >> calls.txt
echo "INFO step $STEP of 20, 1.0 minutes" >&2
"""

#: Stands for Slurm's `scontrol`.
REQUEUE = """#!/usr/bin/env bash
echo "$@" > requeued.txt
"""


def run_pretraining(folder: Path, *, step: int, **variables: str) -> list[list[str]]:
    """Run the script; return the arguments of the commands that it called."""
    for name, text in (("recorder", RECORDER), ("scontrol", REQUEUE)):
        path = folder / name
        path.write_text(text)
        path.chmod(0o755)
    environment = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "DROPE_COMMAND": str(folder / "recorder"),
        "STEP": str(step),
        "SLURM_JOB_ID": "17",
        **variables,
    }
    script = SCRIPTS / "pretrain.sbatch"
    done = subprocess.run(
        ["bash", script, "drope-paper", "OUT", "RUN"],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert "step" in done.stdout + done.stderr
    calls = (folder / "calls.txt").read_text().split("END\n")[:-1]
    return [call.splitlines() for call in calls]


@pytest.mark.parametrize("name", ["array.sbatch", "pretrain.sbatch"])
def test_scripts_are_sound_to_the_shell(name: str) -> None:
    subprocess.run(["bash", "-n", SCRIPTS / name], check=True)


def test_an_unfinished_run_is_queued_again(tmp_path: Path) -> None:
    gpus = {"SLURM_GPUS": "a100:4", "SLURM_CPUS_PER_TASK": "8"}
    calls = run_pretraining(tmp_path, step=12, **gpus)
    assert (tmp_path / "requeued.txt").read_text() == "requeue 17\n"
    ((threads, *arguments),) = calls
    assert threads == "2", "8 processors for 4 processes"
    options = build_parser().parse_args(arguments)
    assert (options.config, str(options.scans), options.folder.name) == (
        "drope-paper",
        "OUT",
        "RUN",
    )
    assert (options.accelerator, options.devices, options.minutes) == ("cuda", 4, 660)
    assert options.weights is None, "nothing is written of half a run"


def test_a_finished_run_writes_weights(tmp_path: Path) -> None:
    _, (_, *arguments) = run_pretraining(tmp_path, step=20)
    assert not (tmp_path / "requeued.txt").exists()
    options = build_parser().parse_args(arguments)
    assert options.weights == Path("RUN/drope-paper.safetensors")
    assert (options.accelerator, options.devices, options.minutes) == ("cpu", 1, None)
