"""A worker that is killed fails its node and does not stall the run."""

from __future__ import annotations

from pathlib import Path

import nipype.pipeline.engine as pe
import pytest
from nipype.interfaces import utility as niu

from dmri_fm_workflows.execution import pool


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
