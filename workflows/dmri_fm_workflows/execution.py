"""Run one participant's graph: lock, skip if done, run, collect what failed.

A participant is done when a `provenance.json` of an earlier run carries the fingerprint of
this one (options, version, input files) and every output that it lists is still there. Then
nothing is touched. Otherwise the graph runs in the participant's work folder, where nodes that
finished in an interrupted run are taken up again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dmri_fm.errors import BusyError, ConfigError, InputError, OutputError
from dmri_fm.json_files import read_object
from dmri_fm_workflows.bids import Participant
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.group.status import find_missing, read_records
from dmri_fm_workflows.links import refuse_link
from dmri_fm_workflows.outputs.naming import identify
from dmri_fm_workflows.outputs.publish import publish_text, to_json

LOGGER = logging.getLogger(__name__)

#: Name of the lock file in a participant's work folder and in its output folder.
LOCK_NAME = ".drope.lock"

#: What a lock file holds; nothing, if its writer was killed early.
_LOCK_CONTENT = re.compile(rb'(\{"host": "[^"]*", "pid": [0-9]+\})?')

#: A lock file is shorter than this, bytes.
_LOCK_BYTES = 1024


@dataclass(frozen=True)
class ScanError:
    """One failure: which scan, in which stage, what was said."""

    scan: str
    stage: str
    message: str


@dataclass(frozen=True)
class Provenance:
    """What one run did for one participant; `provenance.json` in its log folder.

    `is_partial`: it was asked for some sessions or scans only.
    """

    participant: str
    status: str
    run_uuid: str
    version: str
    command: str
    started: str
    finished: str
    fingerprint: str
    scans: tuple[str, ...] = ()
    is_partial: bool = False
    outputs: dict[str, int] = field(default_factory=dict)
    errors: tuple[ScanError, ...] = ()


def utc_now() -> str:
    """Return the time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def locked(participant: str, folders: Iterable[Path]) -> Iterator[None]:
    """Hold the lock of every folder.

    Only a file of ours is ever emptied: neither a link is followed, nor another file touched that
    bears the lock's name.

    The kernel keeps the lock (`flock`) and drops it when the process dies, whichever way; it is
    seen from other containers and, where the file system shares its locks, from other hosts.
    What stands in the file is for the reader only.

    Raises
    ------
    BusyError
        If another run holds one of them.
    OutputError
        If a folder cannot be written, or something else stands in the lock's place.
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
    """Return an open, locked file; nobody else's, and the one that the name stands for."""
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
    """Open a lock file without following links; refuse what is not one."""
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


def fingerprint(
    participant: Participant, options: str, *, version: str, extra: Iterable[Path] = ()
) -> str:
    """Hash what decides a participant's outputs: options, version, inputs and what they say.

    Input files count by name, size and modification time, so that a replaced scan is noticed
    without reading gigabytes; sidecars count by what they say of a scan.
    """
    digest = hashlib.sha256(f"{version}\n{options}\n".encode())
    for path in sorted({*input_files(participant), *extra}):
        status = path.stat()
        entry = f"{path.name} {status.st_size} {status.st_mtime_ns}\n"
        # A file's name need not be UTF-8.
        digest.update(entry.encode(errors="surrogateescape"))
    said = [
        [session.label, session.warnings, series.entities, series.warnings, series.pair_reason,
         [[i.path.name, i.reason] for i in series.unused],
         [[i.path.name, i.metadata, i.phase_encoding, i.readout_time_s]
          for i in (*series.runs, *series.reverse)]]
        for session in participant.sessions
        for series in session.series
    ]  # fmt: skip
    digest.update(json.dumps(to_json(said), sort_keys=True).encode())
    return digest.hexdigest()


def input_files(participant: Participant) -> tuple[Path, ...]:
    """Return every file of a participant that the graph reads."""
    files: list[Path] = []
    for session in participant.sessions:
        files += session.t1w
        for series in session.series:
            for run in (*series.runs, *series.reverse):
                files += [p for p in (run.path, run.bval, run.bvec) if p is not None]
    return tuple(p for p in files if p.exists())


def find_complete(output_dir: Path, participant: str, wanted: str) -> Path | None:
    """Return the provenance file of a complete earlier run with this fingerprint, if any."""
    if not (output_dir / f"sub-{participant}.html").exists():
        return None
    folder = output_dir / f"sub-{participant}"
    for record in read_records(folder)[0]:
        if record["status"] != "complete" or record.get("fingerprint") != wanted:
            continue
        outputs = record.get("outputs", {})
        if outputs and not find_missing(output_dir, outputs):
            return folder / "log" / str(record["run_uuid"]) / "provenance.json"
    return None


def measure_outputs(output_dir: Path, written: Iterable[Path]) -> dict[str, int]:
    """Return the sizes, bytes, of written files by path relative to the output folder."""
    return {p.relative_to(output_dir).as_posix(): p.stat().st_size for p in sorted(set(written))}


def find_stale(
    output_dir: Path, participant: Participant, written: Collection[Path], *, is_partial: bool
) -> list[Path]:
    """Return outputs of earlier runs that this one has replaced by none.

    Parameters
    ----------
    output_dir
        Root of the output dataset.
    participant
        What this run processed.
    written
        What it wrote.
    is_partial
        It was asked for some sessions or scans only: those of others are not stale.
    """
    listed = {
        output_dir / name
        for record in read_records(output_dir / f"sub-{participant.label}")[0]
        for name in record.get("outputs", {})
    }
    names = {series.name for session in participant.sessions for series in session.series}
    found = []
    for path in sorted(listed - set(written)):
        if not path.is_file():
            continue
        try:
            entities = identify(path.relative_to(output_dir)).source_entities
        except ConfigError:  # a name of another version
            entities = {}
        if not is_partial or scan_name(entities) in names:
            found.append(path)
    return found


def write_provenance(output_dir: Path, record: Provenance) -> Path:
    """Write a run's record into `sub-<label>/log/<run_uuid>/provenance.json`, by rename."""
    folder = output_dir / f"sub-{record.participant}" / "log" / record.run_uuid
    content = asdict(record) | {"participant": f"sub-{record.participant}"}
    text = json.dumps(content, indent=2) + "\n"
    path = folder / "provenance.json"
    publish_text(text, path)
    return path


#: Last line of a Python traceback, with the lines that an error of ours adds below it.
_LAST_ERROR = re.compile(
    r"^(?P<kind>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|BrokenProcessPool))(?::|$)"
)

#: What a user can do when a worker process has died without a word.
_KILLED_ADVICE = (
    "  what to do: its memory ran out, most likely; give the job more of it, or run fewer steps "
    "at a time (--nprocs, --omp-nthreads)"
)


def read_crash(path: Path) -> tuple[str, str]:
    """Return the node's full name and the final error of a nipype crash file."""
    # The traceback of the interface itself stands indented by tabs inside that of the node.
    text = path.read_text(encoding="utf-8", errors="replace").replace("\t", "")
    node = next(
        (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("Node:")),
        path.stem,
    )
    message: list[str] = []
    for line in text.splitlines():
        if match := _LAST_ERROR.match(line):
            kind = match["kind"].rsplit(".", 1)[-1]
            message = [f"{kind}{line[match.end() - 1 :]}" if ":" in line else kind]
        elif message and line.startswith("  ") and not line.startswith("  File "):
            message.append(line)
        elif message and line and not line.startswith(" "):
            continue
    if message and message[0].startswith("BrokenProcessPool"):
        message.append(_KILLED_ADVICE)
    return node, "\n".join(message) or "no message; see the crash file"


def remove_work(work_dir: Path) -> None:
    """Remove a participant's work folder, and its parent if nothing else is in it.

    Links in it are removed, what they lead to is not.
    """
    shutil.rmtree(work_dir, ignore_errors=True)
    with suppress(OSError):
        work_dir.parent.rmdir()
