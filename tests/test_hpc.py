"""Batch scripts for clusters, run by the shell in place of a scheduler."""

import os
import subprocess
from pathlib import Path

import pytest

from dmri_fm_lab.__main__ import build_parser
from dmri_fm_workflows.cli import build_parser as build_app_parser

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


@pytest.mark.parametrize("name", ["array.sh", "pretrain.sbatch"])
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


#: Stands for `drope-bidsapp`: writes its arguments down, and when it starts and ends.
APP = """#!/usr/bin/env bash
echo start >> order.txt
printf '%s\\n' "$@" > "calls/$SLURM_ARRAY_TASK_ID$SGE_TASK_ID$PBS_ARRAY_INDEX"
sleep 0.3
echo end >> order.txt
"""

#: What each scheduler tells task 2 of an array: number, processors, memory.
SCHEDULERS = {
    "Slurm": {
        "SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "2", "SLURM_CPUS_PER_TASK": "4",
        "SLURM_MEM_PER_NODE": "10240",
    },
    "Grid Engine": {"JOB_ID": "9", "SGE_TASK_ID": "2", "NSLOTS": "4"},
    "PBS": {"PBS_JOBID": "9[2].server", "PBS_ARRAY_INDEX": "2", "NCPUS": "4"},
}  # fmt: skip


def start_task(
    folder: Path, lines: list[str], arguments: list[str], variables: dict[str, str]
) -> subprocess.Popen[str]:
    """Start the array script as a task, with a stand-in for the app."""
    (folder / "calls").mkdir(exist_ok=True)
    (folder / "app").write_text(APP)
    (folder / "app").chmod(0o755)
    (folder / "tasks.txt").write_text("\n".join(lines) + "\n")
    known = {"DROPE_COMMAND": str(folder / "app"), "TMPDIR": str(folder), "HOME": str(folder)}
    return subprocess.Popen(
        ["bash", SCRIPTS / "array.sh", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"]} | known | variables,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_task_is_a_line_of_the_list(tmp_path: Path, scheduler: str) -> None:
    arguments, variables = ["bids", "out", "tasks.txt"], SCHEDULERS[scheduler]
    if scheduler == "PBS":
        # It starts elsewhere, and gives a script no arguments.
        arguments = []
        names = {"BIDS_DIR": "bids", "OUTPUT_DIR": "out", "TASKS": "tasks.txt"}
        variables = variables | names | {"PBS_O_WORKDIR": str(tmp_path)}
    task = start_task(tmp_path, ["01", "02 after", "03"], arguments, variables)
    _, said = task.communicate(timeout=30)
    assert task.returncode == 0, said
    options = build_app_parser().parse_args((tmp_path / "calls" / "2").read_text().splitlines())
    assert (options.bids_dir, options.output_dir) == (tmp_path / "bids", tmp_path / "out")
    assert (options.participant_label, options.session_label) == (["02"], ["after"])
    assert (options.nprocs, options.omp_nthreads) == (4, 4)
    assert options.work_dir == tmp_path / "drope-9" / "02-after"
    assert hasattr(options, "mem_gb") == (scheduler == "Slurm")


def test_a_line_that_is_not_there_is_named(tmp_path: Path) -> None:
    task = start_task(tmp_path, ["01"], ["bids", "out", "tasks.txt"], SCHEDULERS["Slurm"])
    _, said = task.communicate(timeout=30)
    assert (task.returncode, said) == (2, "line '2' of tasks.txt is empty\n")


def test_sessions_of_a_participant_wait_for_each_other(tmp_path: Path) -> None:
    tasks = [
        start_task(tmp_path, ["01 a", "01 b"], ["bids", "out", "tasks.txt"],
                   SCHEDULERS["Slurm"] | {"SLURM_ARRAY_TASK_ID": number})
        for number in ("1", "2")
    ]  # fmt: skip
    for task in tasks:
        _, said = task.communicate(timeout=30)
        assert task.returncode == 0, said
    assert (tmp_path / "order.txt").read_text().split() == ["start", "end"] * 2
    assert sorted(p.name for p in (tmp_path / "calls").iterdir()) == ["1", "2"]
