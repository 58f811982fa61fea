"""Signals end a run at once, in the middle of a long call too, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dmri_fm_workflows.execution.stopping import STOP

ROOT = Path(__file__).parents[3]

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'workflows'}:{ROOT / 'lab'}"}

#: A graph of two nodes. The second starts a program and then holds the interpreter's lock, as
#: ANTs does for minutes; when the file `quick` is there it returns.
GRAPH = """
import sys
from pathlib import Path

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu
from dmri_fm_workflows.execution import pool
from dmri_fm_workflows.execution.stopping import STOP

def first(folder):
    from pathlib import Path
    with (Path(folder) / "first_ran").open("a") as stream:
        stream.write("x")
    return folder

def second(folder):
    import ctypes, os, subprocess
    from pathlib import Path
    if not (Path(folder) / "quick").exists():
        program = subprocess.Popen(["sleep", "1000"])
        (Path(folder) / "pids").write_text(f"{os.getpid()} {program.pid}")
        ctypes.PyDLL(None).sleep(1000)
    return folder

def main():
    folder, n_procs = sys.argv[1], int(sys.argv[2])
    pool._PRELOAD = []  # nothing heavy is needed here
    workflow = pe.Workflow(name="wf", base_dir=folder)
    workflow.config["execution"].update(
        crashdump_dir=folder, crashfile_format="txt", poll_sleep_duration="0.01",
        create_report="false")
    one = pe.Node(niu.Function(function=first, output_names=["out"]), name="one")
    two = pe.Node(niu.Function(function=second, output_names=["out"]), name="two")
    one.inputs.folder = folder
    workflow.connect(one, "out", two, "folder")
    with STOP.heard(is_last=True):
        try:
            workflow.run(plugin=pool.ProcessPoolPlugin({"n_procs": n_procs, "memory_gb": 4}))
        except KeyboardInterrupt:
            print("interrupted")
            return 130
    return 0

if __name__ == "__main__":
    sys.exit(main())
"""


def wait_until(is_so: Callable[[], object], *, seconds: float) -> None:
    latest = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < latest, "waited in vain"
        time.sleep(0.02)


def has_ended(pid: int) -> bool:
    """Say whether a process is gone, or a zombie that nobody has asked after."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Give the graph's script; its folder is that of the work."""
    script = tmp_path / "graph.py"
    script.write_text(GRAPH)
    return script


def start(script: Path, n_procs: int) -> tuple[subprocess.Popen[str], list[int]]:
    """Start the graph; return it, and worker and program once the second node is at work."""
    process = subprocess.Popen(
        [sys.executable, str(script), str(script.parent), str(n_procs)],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    pids = script.parent / "pids"
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, seconds=90)
    return process, [int(pid) for pid in pids.read_text().split()]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("n_procs", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)]
)
def test_run_ends_in_the_middle_of_a_call_and_resumes(
    graph: Path, n_procs: int, number: signal.Signals
) -> None:
    process, pids = start(graph, n_procs)
    told = time.monotonic()
    # Impatient users and `timeout` send more than one.
    for _ in range(3):
        process.send_signal(number)
        time.sleep(0.01)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - told < 15  # well under a second on an idle machine
    assert out.splitlines()[-1] == "interrupted"
    wait_until(lambda: all(has_ended(pid) for pid in pids), seconds=15)
    assert not list(graph.parent.glob("crash*"))
    (graph.parent / "quick").touch()
    again = subprocess.run(
        [sys.executable, str(graph), str(graph.parent), str(n_procs)], env=ENVIRONMENT, check=False
    )
    assert again.returncode == 0
    assert (graph.parent / "first_ran").read_text() == "x"


@pytest.mark.timeout(300)
def test_worker_that_the_scheduler_told_first_has_not_failed(graph: Path) -> None:
    process, pids = start(graph, 1)
    os.kill(pids[0], signal.SIGTERM)
    time.sleep(0.2)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not list(graph.parent.glob("crash*"))


@pytest.mark.timeout(300)
def test_workers_end_with_a_main_process_that_was_killed(graph: Path) -> None:
    process, pids = start(graph, 1)
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: all(has_ended(pid) for pid in pids), seconds=15)


def test_first_signal_interrupts_and_the_next_ones_do_not() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with STOP.heard():
        STOP.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            STOP.check()
    assert {number: signal.getsignal(number) for number in before} == before
    with STOP.heard():
        STOP.check()
