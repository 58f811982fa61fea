"""Status of every participant, from the records of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from dmri_fm.errors import InputError
from dmri_fm.json_files import read_object
from dmri_fm_workflows.group.collect import Problem

#: Longest name of a file that Linux has.
LONGEST_NAME_BYTES = 255

#: Missing outputs are named up to this many.
SHOWN_PATHS = 3


@dataclass(frozen=True)
class ParticipantStatus:
    """Status of a participant after the latest runs of its scans.

    Attributes
    ----------
    participant_id
        With the prefix.
    status
        `complete`; `incomplete`: outputs are missing or changed; `failed`: the latest run of a
        scan has errors; `unknown`: no readable record.
    reason
        Why it is not complete, and unreadable files; empty if all is well.
    run_uuid, version, started, finished
        Of the latest run of all; empty if unknown.
    n_outputs, n_missing
        Outputs the run wrote, and those among them that are gone or of another size.
    n_scans
        Scans with tables in the output folder.
    n_warnings
        Warnings in the participant's report.
    """

    participant_id: str
    status: str
    reason: str = ""
    run_uuid: str = ""
    version: str = ""
    started: str = ""
    finished: str = ""
    n_outputs: int | None = None
    n_missing: int | None = None
    n_scans: int = 0
    n_warnings: int = 0


def read_records(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the records of a participant, oldest first, and a line for each broken one."""
    records, broken = [], []
    for path in sorted(folder.glob("log/*/provenance.json")):
        try:
            record = read_object(path)
        except InputError as error:
            broken.append(f"{path.relative_to(folder)} {error.found}")
            continue
        if not _is_record(record, participant=folder.name):
            broken.append(f"{path.relative_to(folder)} is not a record of a run")
            continue
        records.append({**record, "run_uuid": path.parent.name})
    records.sort(key=lambda r: (str(r.get("finished", "")), str(r["run_uuid"])))
    return records, broken


def _is_record(content: Mapping[str, Any], *, participant: str) -> bool:
    """Tell whether a record's entries have the types that a run writes.

    Outputs are compared, and stale ones removed, by the paths in it: none may lead out of the
    participant's folder.
    """
    lists = [content.get(key, []) for key in ("scans", "errors")]
    outputs = content.get("outputs", {})
    return (
        content.get("status") in ("complete", "failed")
        and all(isinstance(value, list) for value in lists)
        and isinstance(outputs, dict)
        and all(
            _is_below(participant, name) and isinstance(size, int)
            for name, size in outputs.items()
        )
    )


def _is_below(folder: str, name: str) -> bool:
    """Tell whether a relative path starts with a folder and stays below it."""
    parts = PurePosixPath(name).parts
    return (
        len(parts) > 1
        and parts[0] == folder
        and ".." not in parts
        and "\0" not in name
        and max(len(part.encode()) for part in parts) <= LONGEST_NAME_BYTES
    )


def _current(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the last record, and before it those of scans that no later record has.

    A run that was not asked for some scans only has the last word on all of them.
    """
    found: list[Mapping[str, Any]] = []
    seen: set[str] = set()
    for record in reversed(records):
        scans = {str(s) for s in record.get("scans", [])}
        if not found or scans - seen:
            found.append(record)
        seen |= scans
        if not record.get("is_partial"):
            break
    return found


def find_missing(output_dir: Path, outputs: Mapping[str, Any]) -> list[str]:
    """Return which of a record's outputs are gone or of another size."""
    found = []
    for relative, size in sorted(outputs.items()):
        path = output_dir / relative
        if not path.is_file() or path.stat().st_size != size:
            found.append(relative)
    return found


def _join(messages: Sequence[str]) -> str:
    """Put reasons on one line; the lines of a message are parted by commas."""
    lines = [[" ".join(line.split()) for line in m.splitlines() if line.strip()] for m in messages]
    return "; ".join(dict.fromkeys(", ".join(words) for words in lines))


def read_status(
    output_dir: str | Path,
    participant: str,
    *,
    problems: Sequence[Problem] = (),
    n_scans: int = 0,
) -> ParticipantStatus:
    """Return the status of a participant.

    The latest record among `log/*/provenance.json` counts, and earlier ones of scans that no
    later run was asked for, such as those of another session. A broken record is a reason, never
    an error.

    Parameters
    ----------
    output_dir
        Output folder.
    participant
        With the prefix.
    problems
        Files that the tables lack; those of this participant become reasons.
    n_scans
        Scans with tables.
    """
    folder = Path(output_dir) / participant
    records, broken = read_records(folder)
    reasons = [*broken, *(p.message for p in problems if p.participant == participant)]
    status = ParticipantStatus(
        participant, "unknown", n_scans=n_scans, n_warnings=_count_warnings(folder)
    )
    if not records:
        no_record = [] if broken else ["no record of a finished run (log/*/provenance.json)"]
        return replace(status, reason=_join([*no_record, *reasons]))
    latest, current = records[-1], _current(records)
    outputs = latest.get("outputs", {})
    missing = find_missing(Path(output_dir), outputs)
    errors = [_error_text(error) for record in current for error in record.get("errors", [])]
    if missing:
        more = f" and {len(missing) - SHOWN_PATHS} more" if len(missing) > SHOWN_PATHS else ""
        shown = ", ".join(missing[:SHOWN_PATHS])
        errors.append(f"{len(missing)} outputs are missing or changed: {shown}{more}")
    has_failed = any(record["status"] == "failed" for record in current)
    return replace(
        status,
        status="failed" if has_failed else "incomplete" if missing else "complete",
        reason=_join([*errors, *reasons]),
        n_outputs=len(outputs),
        n_missing=len(missing),
        run_uuid=latest["run_uuid"],
        version=str(latest.get("version", "")),
        started=str(latest.get("started", "")),
        finished=str(latest.get("finished", "")),
    )


def _error_text(error: Any) -> str:
    entry = error if isinstance(error, dict) else {"message": str(error)}
    return ": ".join(str(entry[k]) for k in ("scan", "stage", "message") if entry.get(k))


def _count_warnings(folder: Path) -> int:
    """Count the warnings in the sidecars of the preprocessed images."""
    count = 0
    for path in folder.rglob("*_space-ACPC_desc-preproc_*.json"):
        try:
            found = read_object(path).get("Warnings")
        except InputError:
            continue
        count += len(found) if isinstance(found, list) else 0
    return count
