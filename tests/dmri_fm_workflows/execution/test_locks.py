"""Locks: one run a participant at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dmri_fm.errors import BusyError, OutputError
from dmri_fm_workflows.execution.locks import LOCK_NAME, locked

ROOT = Path(__file__).parents[3]

HOLD = """
import sys
from pathlib import Path
from dmri_fm_workflows.execution.locks import locked
with locked("01", [Path(sys.argv[1])]):
    print("held", flush=True)
    input()
"""


def hold(folder: Path, *, inside: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Return a process that holds the lock until it is killed or told to end."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'workflows'}:{ROOT / 'lab'}"}
    process = subprocess.Popen(
        [*inside, sys.executable, "-c", HOLD, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_run_of_a_participant_is_refused(tmp_path: Path) -> None:
    other = hold(tmp_path / "work")
    with pytest.raises(BusyError, match=str(other.pid)), locked("01", [tmp_path / "work"]):
        pass
    other.communicate("\n")
    assert not (tmp_path / "work" / LOCK_NAME).exists()
    with locked("01", [tmp_path / "work"]):
        assert json.loads((tmp_path / "work" / LOCK_NAME).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "work" / LOCK_NAME).exists()


def test_lock_of_a_killed_run_holds_nobody_up(tmp_path: Path) -> None:
    other = hold(tmp_path)
    other.kill()
    other.communicate()
    assert (tmp_path / LOCK_NAME).exists()
    with locked("01", [tmp_path]):
        pass


def test_lock_is_seen_from_another_container(tmp_path: Path) -> None:
    inside = ("unshare", "--pid", "--fork", "--kill-child")
    try:
        subprocess.run([*inside, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not make process namespaces")
    other = hold(tmp_path, inside=inside)
    with pytest.raises(BusyError, match="another run"), locked("01", [tmp_path]):
        pass
    other.communicate("\n")


def test_lock_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boom"), locked("01", [tmp_path]):
        raise ValueError("boom")
    assert not (tmp_path / LOCK_NAME).exists()


@pytest.mark.parametrize("obstacle", ["link", "hard link", "other file", "long file", "pipe"])
def test_only_a_lock_file_of_ours_is_emptied(tmp_path: Path, obstacle: str) -> None:
    lock, precious = tmp_path / "sub-01" / LOCK_NAME, tmp_path / "thesis.txt"
    lock.parent.mkdir()
    precious.write_text("years of work")
    if obstacle == "link":
        lock.symlink_to(precious)
    elif obstacle == "hard link":
        precious.write_text('{"host": "a", "pid": 1}')
        lock.hardlink_to(precious)
    elif obstacle == "pipe":
        os.mkfifo(lock)
    else:
        lock.write_text("mine" * (1000 if obstacle == "long file" else 1))
    before = precious.read_text(), lock.lstat()
    with pytest.raises(OutputError) as caught, locked("01", [lock.parent]):
        pass
    assert caught.value.path == lock
    assert str(precious) in caught.value.found or obstacle != "link"
    after = precious.read_text(), lock.lstat()
    assert after[0] == before[0]
    assert (after[1].st_ino, after[1].st_size) == (before[1].st_ino, before[1].st_size)


def test_lock_of_a_run_killed_at_its_first_word_is_taken(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).touch()
    with locked("01", [tmp_path]):
        pass
    assert not (tmp_path / LOCK_NAME).exists()
