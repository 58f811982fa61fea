"""One run a participant at a time, by lock files in its work folder and its output folder."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dmri_fm.errors import BusyError, InputError, OutputError
from dmri_fm.json_files import read_object
from dmri_fm_workflows.links import refuse_link

LOGGER = logging.getLogger(__name__)

#: Name of the lock file in a participant's work folder and in its output folder.
LOCK_NAME = ".drope.lock"

#: Content of a lock file; empty, if its writer was killed early.
_LOCK_CONTENT = re.compile(rb'(\{"host": "[^"]*", "pid": [0-9]+\})?')

#: A lock file is shorter than this, bytes.
_LOCK_BYTES = 1024


@contextmanager
def locked(participant: str, folders: Iterable[Path]) -> Iterator[None]:
    """Hold the lock of every folder.

    A link, or a foreign file of the lock's name, is neither followed nor changed. The kernel holds
    the lock (`flock`) and drops it when the process ends; other containers see it, and other
    hosts where the file system shares its locks. The content of the file is for people only.

    Raises
    ------
    BusyError
        If another run holds one of them.
    OutputError
        If a folder cannot be written, or a foreign file has the lock's name.
    """
    with ExitStack() as held:
        for folder in folders:
            held.enter_context(_lock(folder / LOCK_NAME, participant))
        yield


@contextmanager
def _lock(path: Path, participant: str) -> Iterator[None]:
    try:
        handle = _take(path, participant)
    except OSError as error:
        raise OutputError(
            f"cannot write here ({error.strerror})",
            path=path.parent,
            expected="a writable folder",
            advice="check permissions, quota and free space",
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path, participant: str) -> int:
    """Return an open lock file, locked by this process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = _open_lock(path)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise BusyError(
                f"another run is at work on sub-{participant} ({_read_owner(path)})",
                path=path,
                expected="one run per participant at a time",
                advice="wait for it",
            ) from None
        except OSError as error:
            LOGGER.warning(
                "%s: no locks on this file system (%s); see to it that no second run works on "
                "sub-%s",
                path.parent,
                error.strerror,
                participant,
            )
        # The last holder may have removed the file between our opening and locking it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.lstat()):
                break
        os.close(handle)
    try:
        os.ftruncate(handle, 0)
        owner = {"host": socket.gethostname(), "pid": os.getpid()}
        os.write(handle, json.dumps(owner).encode())
    except OSError:
        path.unlink(missing_ok=True)
        os.close(handle)
        raise
    return handle


def _open_lock(path: Path) -> int:
    """Open a lock file without following links; refuse any other file."""
    refuse_link(path, inside=path)
    # O_NOFOLLOW: a link that was put there after the look above is an error, ELOOP.
    flags = os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, 0o666)
    status = os.fstat(handle)
    is_ours = (
        stat.S_ISREG(status.st_mode)
        and status.st_nlink <= 1  # none: its holder has removed it meanwhile
        and status.st_size < _LOCK_BYTES
        and _LOCK_CONTENT.fullmatch(os.pread(handle, _LOCK_BYTES, 0)) is not None
    )
    if not is_ours:
        os.close(handle)
        raise OutputError(
            "is not a lock file of this program",
            path=path,
            expected="a lock file, or nothing",
            advice="move it elsewhere; it was not changed",
        )
    return handle


def _read_owner(path: Path) -> str:
    try:
        owner = read_object(path)
    except InputError:
        owner = {}
    if not {"host", "pid"} <= owner.keys():
        return "owner unknown"
    return f"host {owner['host']}, process {owner['pid']}"
