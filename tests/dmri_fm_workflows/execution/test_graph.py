"""Messages of crash files."""

from __future__ import annotations

from pathlib import Path

from dmri_fm.errors import ImageError
from dmri_fm_workflows.execution.graph import read_crash


def test_crash_file_yields_node_and_whole_message(tmp_path: Path) -> None:
    error = ImageError("file has zero bytes", path="a.nii", expected="an image", advice="copy it")
    crash = tmp_path / "crash.txt"
    crash.write_text(
        "Node: sub_01_wf.anat_wf.mask_t1w\nWorking directory: /x\n\n"
        "Traceback (most recent call last):\n"
        '  File "a.py", line 3, in f\n    raise error\n'
        f"dmri_fm.errors.ImageError: {error}\n"
    )
    node, message = read_crash(crash)
    assert node == "sub_01_wf.anat_wf.mask_t1w"
    assert message == f"ImageError: {error}"


def test_worker_that_was_killed_is_explained(tmp_path: Path) -> None:
    crash = tmp_path / "crash.txt"
    crash.write_text(
        "Node: sub_01_wf.x\n\nTraceback (most recent call last):\n"
        "concurrent.futures.process.BrokenProcessPool: A process in the process pool was "
        "terminated abruptly while the future was running or pending.\n"
    )
    _, message = read_crash(crash)
    assert message.startswith("BrokenProcessPool: A process")
    assert "memory" in message
