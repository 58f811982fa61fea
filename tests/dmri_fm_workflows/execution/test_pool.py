"""Nodes that fail for lack of something, workers that are killed, and what nodes take."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nipype.pipeline.engine as pe
import pytest
from nipype.interfaces import utility as niu

from dmri_fm.errors import OutputError
from dmri_fm_workflows.execution import pool
from dmri_fm_workflows.execution.graph import describe_node, read_crash
from dmri_fm_workflows.execution.usage import join_iterations


def die() -> int:
    """End the worker the way the kernel does when memory runs out."""
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    return 1


@pytest.mark.timeout(120)
def test_killed_worker_ends_the_run_with_a_crash_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_PRELOAD", [])  # nothing heavy is needed here
    workflow = pe.Workflow(name="wf", base_dir=str(tmp_path))
    workflow.config["execution"].update(
        {"crashdump_dir": str(tmp_path), "crashfile_format": "txt", "poll_sleep_duration": "0.1"}
    )
    node = pe.Node(niu.Function(function=die, output_names=["out"]), name="die")
    workflow.add_nodes([node])
    runner = pool.ProcessPoolPlugin(plugin_args={"n_procs": 1, "memory_gb": 4})
    with pytest.raises(Exception, match="terminated abruptly"):
        workflow.run(plugin=runner)
    (crash,) = tmp_path.glob("crash*.txt")
    assert "terminated abruptly" in crash.read_text()


def refuse(path: str) -> str:
    """Raise what a reader raises."""
    from dmri_fm.errors import ImageError

    raise ImageError("is damaged", path=path, expected="a sound image")


@pytest.mark.timeout(120)
def test_iteration_that_fails_is_named_by_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_PRELOAD", [])
    node = pe.MapNode(niu.Function(function=refuse, output_names=["out"]), ["path"], "validate")
    node.inputs.path = ["one.nii", "other.nii"]
    read = pe.Workflow(name="read_wf")
    scan = pe.Workflow(name="dwi_acq_a_wf")
    whole = pe.Workflow(name="sub_01_wf", base_dir=str(tmp_path))
    read.add_nodes([node])
    scan.add_nodes([read])
    whole.add_nodes([scan])
    whole.config["execution"].update({"crashdump_dir": str(tmp_path), "crashfile_format": "txt"})
    runner = pool.ProcessPoolPlugin(plugin_args={"n_procs": 2, "memory_gb": 4})
    with pytest.raises(Exception, match=r"2 raised"):
        whole.run(plugin=runner)
    read_back = [read_crash(path) for path in tmp_path.glob("crash*.txt")]
    assert read_back
    for name, message in read_back:
        assert describe_node(name) == ("acq-a", "read: validate")
        assert "is damaged" in message


def name_temporary_folder() -> str:
    """Return the folder of temporary files."""
    import tempfile

    return tempfile.gettempdir()


def run_with_temporary_folder(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a node in a pool, in a process of its own with this TMPDIR."""
    code = (
        "import sys\n"
        "import nipype.pipeline.engine as pe\n"
        "from nipype.interfaces.utility import Function\n"
        "from dmri_fm_workflows.execution import pool\n"
        "from tests.dmri_fm_workflows.execution.test_pool import name_temporary_folder as name\n"
        "if __name__ == '__main__':\n"
        "    pool._PRELOAD[:] = []\n"
        "    workflow = pe.Workflow(name='wf', base_dir=sys.argv[1])\n"
        "    workflow.add_nodes([pe.Node(Function(function=name, output_names=['out']), 'n')])\n"
        "    graph = workflow.run(pool.ProcessPoolPlugin({'n_procs': 1, 'memory_gb': 4}))\n"
        "    print(next(iter(graph.nodes)).result.outputs.out)\n"
    )
    script = folder.parent / "run.py"
    script.write_text(code)
    return subprocess.run(
        [sys.executable, str(script), str(folder.parent / "work")],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(120)
def test_a_temporary_folder_may_have_a_long_path(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    done = run_with_temporary_folder(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(folder), "files go where they were sent"


def test_no_place_for_sockets_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool.tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    monkeypatch.setattr(pool, "_SHORT_TEMPORARY", str(tmp_path / "absent"))
    monkeypatch.setattr(multiprocessing.current_process(), "_config", {})
    with pytest.raises(OutputError, match="is too long for them"):
        pool._place_sockets()
    assert tempfile.gettempdir() == str(tmp_path / ("long" * 20))


def grow() -> int:
    """Take 400 MB for a moment."""
    return len(bytes(range(256)) * 1_600_000)


def rest(seconds: float) -> int:
    """Take a moment."""
    import time

    time.sleep(seconds)
    return 1


def fill_disk() -> int:
    """Write on a device that is full."""
    with open("/dev/full", "w") as stream:
        stream.write("x")
    return 1


def exceed_memory() -> int:
    """Ask for more memory than the process may have."""
    import resource

    import numpy as np

    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, limits[1]))
    try:
        return int(np.ones(2**31)[0])
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.timeout(120)
def test_lack_of_disk_and_memory_is_said_with_advice_and_usage_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_PRELOAD", [])
    workflow = pe.Workflow(name="wf", base_dir=str(tmp_path))
    workflow.config["execution"].update(
        {"crashdump_dir": str(tmp_path), "crashfile_format": "txt", "poll_sleep_duration": "0.1"}
    )
    for function in (grow, fill_disk, exceed_memory):
        node = pe.Node(niu.Function(function=function, output_names=["out"]), function.__name__)
        workflow.add_nodes([node])
    iterations = pe.MapNode(
        niu.Function(function=rest, output_names=["out"]), iterfield=["seconds"], name="rest"
    )
    iterations.inputs.seconds = [0.2, 0.3]
    workflow.add_nodes([iterations])
    runner = pool.ProcessPoolPlugin(plugin_args={"n_procs": 1, "memory_gb": 4})
    with pytest.raises(Exception, match="2 raised"):
        workflow.run(plugin=runner)
    said = dict(read_crash(path) for path in tmp_path.glob("crash*.txt"))
    assert said.keys() == {"wf.fill_disk", "wf.exceed_memory"}
    assert said["wf.fill_disk"].startswith("OSError: [Errno 28] No space left on device")
    assert "what to do: the disk or the quota" in said["wf.fill_disk"]
    assert "Unable to allocate 16.0 GiB" in said["wf.exceed_memory"]
    assert "what to do: memory ran out" in said["wf.exceed_memory"]
    took = {usage.node: usage for usage in join_iterations(runner.usages)}
    assert took.keys() == {f"wf.{f.__name__}" for f in (grow, rest, fill_disk, exceed_memory)}
    assert took["wf.rest"].seconds >= 0.5, "both iterations"
    grown, rested = took["wf.grow"].peak_memory_gb, took["wf.rest"].peak_memory_gb
    if grown is None or rested is None:
        pytest.skip("this system does not tell the peak of a process")
    # The peak is that of the node, not of the process so far: `rest` may run before or after.
    assert grown - rested > 0.35
