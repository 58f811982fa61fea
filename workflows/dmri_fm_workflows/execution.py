"""Run one participant's graph: lock, skip if done, run, collect what failed.

A participant is done when a `provenance.json` of an earlier run carries the fingerprint of
this one (options, version, input files) and every output that it lists is still there. Then
nothing is touched. Otherwise the graph runs in the participant's work folder, where nodes that
finished in an interrupted run are taken up again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dmri_fm.bids import Participant
from dmri_fm.derivatives.publish import publish_text
from dmri_fm.errors import BusyError, OutputError

LOGGER = logging.getLogger(__name__)

#: Name of the lock file in a participant's work folder and in its output folder.
LOCK_NAME = ".drope.lock"


@dataclass(frozen=True)
class ScanError:
    """One failure: which scan, in which stage, what was said."""

    scan: str
    stage: str
    message: str


@dataclass(frozen=True)
class Provenance:
    """What one run did for one participant; `provenance.json` in its log folder."""

    participant: str
    status: str
    run_uuid: str
    version: str
    command: str
    started: str
    finished: str
    fingerprint: str
    outputs: dict[str, int] = field(default_factory=dict)
    errors: tuple[ScanError, ...] = ()


def utc_now() -> str:
    """Return the time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def locked(participant: str, folders: Iterable[Path]) -> Iterator[None]:
    """Hold a lock file in every folder; a lock of a dead process of this host is taken over.

    Raises
    ------
    BusyError
        If a live process, or one of another host, holds one of them.
    """
    held: list[Path] = []
    owner = {"host": socket.gethostname(), "pid": os.getpid()}
    try:
        for folder in folders:
            path = folder / LOCK_NAME
            _take(path, owner, participant)
            held.append(path)
        yield
    finally:
        for path in held:
            path.unlink(missing_ok=True)


def _take(path: Path, owner: dict[str, object], participant: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                if not _is_stale(path, owner):
                    raise BusyError(
                        f"another run is at work on sub-{participant} ({_read_owner(path)})",
                        path=path,
                        expected="one run per participant at a time",
                        advice="wait for it; if it is gone for good, delete this lock file",
                    ) from None
                LOGGER.warning("Taking over the lock of a run that is gone: %s", path)
                path.unlink(missing_ok=True)
                continue
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(owner, stream)
            return
    except OSError as error:
        raise OutputError(
            f"cannot write here ({error.strerror})",
            path=path.parent,
            expected="a writable folder",
            advice="check permissions, quota and free space",
        ) from None
    raise BusyError(f"another run took the lock of sub-{participant}", path=path)


def _read_owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return f"host {owner['host']}, process {owner['pid']}"
    except (OSError, ValueError, KeyError):
        return "owner unknown"


def _is_stale(path: Path, owner: dict[str, object]) -> bool:
    try:
        other = json.loads(path.read_text(encoding="utf-8"))
        host, pid = other["host"], int(other["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if host != owner["host"]:
        return False
    if pid == owner["pid"]:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def fingerprint(
    participant: Participant, options: str, *, version: str, extra: Iterable[Path] = ()
) -> str:
    """Hash what decides a participant's outputs: options, version, names and sizes of inputs.

    Input files count by path, size and modification time, so that a replaced scan is noticed
    without reading gigabytes.
    """
    digest = hashlib.sha256(f"{version}\n{options}\n".encode())
    for path in sorted({*input_files(participant), *extra}):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
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
    for path in sorted((output_dir / f"sub-{participant}" / "log").glob("*/provenance.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if record.get("status") != "complete" or record.get("fingerprint") != wanted:
            continue
        outputs = record.get("outputs", {})
        if outputs and all(_has_size(output_dir / p, size) for p, size in outputs.items()):
            return path
    return None


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def list_outputs(output_dir: Path, participant: str) -> dict[str, int]:
    """Return the sizes, bytes, of a participant's files by path relative to the output folder."""
    label = f"sub-{participant}"
    log = output_dir / label / "log"
    files = [
        p
        for p in (output_dir / label).rglob("*")
        if p.is_file() and log not in p.parents and not p.name.startswith(".")
    ]
    page = output_dir / f"{label}.html"
    files += [page] if page.exists() else []
    return {p.relative_to(output_dir).as_posix(): p.stat().st_size for p in sorted(files)}


def write_provenance(output_dir: Path, record: Provenance) -> Path:
    """Write a run's record into `sub-<label>/log/<run_uuid>/provenance.json`, by rename."""
    folder = output_dir / f"sub-{record.participant}" / "log" / record.run_uuid
    content = asdict(record) | {"participant": f"sub-{record.participant}"}
    text = json.dumps(content, indent=2) + "\n"
    path = folder / "provenance.json"
    publish_text(text, path)
    return path


#: Last line of a Python traceback, with the lines that an error of ours adds below it.
_LAST_ERROR = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit))(?::|$)")


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
    return node, "\n".join(message) or "no message; see the crash file"


def remove_work(work_dir: Path) -> None:
    """Remove a participant's work folder."""
    shutil.rmtree(work_dir, ignore_errors=True)
