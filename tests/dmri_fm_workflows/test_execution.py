"""Locks, fingerprints, provenance, crash files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dmri_fm.bids import Participant
from dmri_fm.derivatives.publish import publish_text
from dmri_fm.errors import BusyError, ImageError
from dmri_fm_workflows.execution import (
    LOCK_NAME,
    Provenance,
    find_complete,
    fingerprint,
    list_outputs,
    locked,
    read_crash,
    write_provenance,
)


def test_second_run_of_a_participant_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "work" / LOCK_NAME
    path.parent.mkdir()
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        path.write_text(json.dumps({"host": socket.gethostname(), "pid": other.pid}))
        with pytest.raises(BusyError, match=str(other.pid)), locked("01", [path.parent]):
            pass
        assert path.exists()
    finally:
        other.communicate(b"\n")
    with locked("01", [path.parent]):
        owner = json.loads(path.read_text())
        assert owner["pid"] == os.getpid()
    assert not path.exists()


def test_lock_of_another_host_is_respected(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).write_text(json.dumps({"host": "another-node", "pid": 1}))
    with pytest.raises(BusyError, match="another-node"), locked("01", [tmp_path]):
        pass


def test_lock_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), locked("01", [tmp_path]):
        raise ValueError("boom")
    assert not (tmp_path / LOCK_NAME).exists()


def _record(fingerprint_: str, outputs: dict[str, int], status: str = "complete") -> Provenance:
    return Provenance(
        participant="01",
        status=status,
        run_uuid="20260101-000000_a",
        version="0",
        command="drope-bidsapp",
        started="",
        finished="",
        fingerprint=fingerprint_,
        outputs=outputs,
    )


def test_complete_run_is_found_only_with_its_outputs(tmp_path: Path) -> None:
    image = tmp_path / "sub-01" / "dwi" / "a.nii.gz"
    publish_text("voxels", image)
    outputs = list_outputs(tmp_path, "01")
    assert outputs == {"sub-01/dwi/a.nii.gz": 6}
    write_provenance(tmp_path, _record("abc", outputs))
    assert find_complete(tmp_path, "01", "abc") is not None
    assert find_complete(tmp_path, "01", "other options") is None
    image.write_text("vox")
    assert find_complete(tmp_path, "01", "abc") is None


def test_failed_run_is_never_complete(tmp_path: Path) -> None:
    image = tmp_path / "sub-01" / "a.txt"
    publish_text("x", image)
    write_provenance(tmp_path, _record("abc", {"sub-01/a.txt": 1}, status="failed"))
    assert find_complete(tmp_path, "01", "abc") is None


def test_fingerprint_follows_options_version_and_files(tmp_path: Path) -> None:
    extra = tmp_path / "weights.safetensors"
    extra.write_bytes(b"1")
    participant = Participant(label="01", sessions=())
    first = fingerprint(participant, "a", version="1", extra=[extra])
    assert first == fingerprint(participant, "a", version="1", extra=[extra])
    assert first != fingerprint(participant, "b", version="1", extra=[extra])
    assert first != fingerprint(participant, "a", version="2", extra=[extra])
    extra.write_bytes(b"12")
    assert first != fingerprint(participant, "a", version="1", extra=[extra])


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
