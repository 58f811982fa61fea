"""Record of a run: what decides a participant's outputs, and what an earlier run has written.

A participant is done when a `provenance.json` of an earlier run carries the fingerprint of
this one (options, version, input files) and every output that it lists is still there. Then
nothing is touched. Otherwise the graph runs in the participant's work folder, where nodes that
finished in an interrupted run are taken up again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.bids import Participant
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.execution.circumstances import Circumstances
from dmri_fm_workflows.group.status import find_missing, read_records
from dmri_fm_workflows.outputs.manifest import write_manifest
from dmri_fm_workflows.outputs.naming import identify
from dmri_fm_workflows.outputs.pages import list_pages, list_viewers
from dmri_fm_workflows.outputs.publish import publish_text, to_json


@dataclass(frozen=True)
class ScanError:
    """Scan, stage and message of one failure."""

    scan: str
    stage: str
    message: str


@dataclass(frozen=True)
class Step:
    """What one step of the graph took; names as the progress display has them.

    Attributes
    ----------
    scan, stage
        Scan (empty: all of a session's or participant's) and step.
    seconds
        Wall-clock time; iterations of a step over runs are added.
    peak_memory_gb
        Largest resident size of its process; None where the system does not tell.
    """

    scan: str
    stage: str
    seconds: float
    peak_memory_gb: float | None


@dataclass(frozen=True)
class Provenance:
    """Record of one run of one participant; `provenance.json` in its log folder.

    Attributes
    ----------
    is_partial
        It was asked for some sessions or scans only.
    outputs
        Sizes of the files that it wrote, bytes.
    steps
        What steps took that this run did itself; those that an interrupted run had finished are
        not among them.
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
    circumstances: Circumstances = field(default_factory=Circumstances)
    steps: tuple[Step, ...] = ()

    def path(self, output_dir: Path) -> Path:
        """Return the path of the record."""
        folder = output_dir / f"sub-{self.participant}" / "log" / self.run_uuid
        return folder / "provenance.json"

    def to_json(self) -> str:
        """Return the record as text."""
        content = asdict(self) | {"participant": f"sub-{self.participant}"}
        content |= content.pop("circumstances")
        return json.dumps(content, indent=2) + "\n"


def utc_now() -> str:
    """Return the time as ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def fingerprint(
    participant: Participant, options: str, *, version: str, extra: Iterable[Path] = ()
) -> str:
    """Hash all that decides a participant's outputs: options, version, inputs and their sidecars.

    Input files count by name, size and modification time, so that a replaced scan is noticed
    without reading gigabytes; sidecars count by their content.
    """
    digest = hashlib.sha256(f"{version}\n{options}\n".encode())
    for path in sorted({*(p for p in input_files(participant) if p.exists()), *extra}):
        status = path.stat()
        entry = f"{path.name} {status.st_size} {status.st_mtime_ns}\n"
        # A file's name need not be UTF-8.
        digest.update(entry.encode(errors="surrogateescape"))
    said = [
        [session.label, session.warnings, series.entities, series.warnings, series.pair_reason,
         [[i.path.name, i.reason] for i in series.unused],
         [[i.path.name, i.metadata, i.phase_encoding, i.readout_time_s]
          for i in (*series.runs, *series.reverse)],
         [[f.method, f.images, f.metadata, f.problem] for f in series.fieldmaps],
         *([p.by, p.space, p.gradients, p.is_nominal] if (p := series.preprocessing) else []),
         *([t.is_brain, t.is_unbiased, t.is_acpc, t.by] if (t := session.prepared_t1w) else [])]
        for session in participant.sessions
        for series in session.series
    ]  # fmt: skip
    digest.update(json.dumps(to_json(said), sort_keys=True).encode())
    return digest.hexdigest()


def input_files(participant: Participant) -> tuple[Path, ...]:
    """Return the files of a participant that the graph reads, missing ones too."""
    files: list[Path] = []
    for session in participant.sessions:
        files += session.t1w
        if (prepared := session.prepared_t1w) is not None:
            files += (*prepared.files, *(prepared.tissue.files if prepared.tissue else ()))
        files += [] if session.user_t1w_mask is None else [session.user_t1w_mask]
        files += [] if session.lesion_mask is None else [session.lesion_mask]
        for series in session.series:
            files += [] if series.user_mask is None else [series.user_mask.path]
            files += series.preprocessing.files if series.preprocessing is not None else ()
            for run in (*series.runs, *series.reverse):
                files += [p for p in (run.path, run.bval, run.bvec) if p is not None]
            files += [path for fieldmap in series.fieldmaps for path in fieldmap.images]
    return tuple(files)


def find_complete(output_dir: Path, participant: str, wanted: str) -> Path | None:
    """Return the provenance file of a complete earlier run with this fingerprint, if any."""
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
    output_dir: Path,
    participant: str,
    written: Collection[Path],
    *,
    scans: Collection[str],
    is_partial: bool,
) -> list[Path]:
    """Return outputs of earlier runs that this one has replaced by none.

    Parameters
    ----------
    output_dir
        Root of the output dataset.
    participant
        Without `sub-`.
    written
        Files that this run wrote.
    scans
        Names of the series that it processed.
    is_partial
        Whether only some sessions or scans were requested: outputs of others are not stale.
    """
    listed = {
        output_dir / name
        for record in read_records(output_dir / f"sub-{participant}")[0]
        for name in record.get("outputs", {})
    }
    stale = []
    for path in sorted(listed - set(written)):
        if not path.is_file():
            continue
        try:
            entities = identify(path.relative_to(output_dir)).source_entities
        except ConfigError:  # a name of another version
            entities = {}
        if not is_partial or scan_name(entities) in scans:
            stale.append(path)
    return stale


def write_provenance(output_dir: Path, record: Provenance) -> Path:
    """Write a run's record, by rename; before it the manifest, which has its checksum.

    A run that is killed in between has no record, and does it all again.
    """
    participant = f"sub-{record.participant}"
    path, text, folder = record.path(output_dir), record.to_json(), output_dir / participant
    records = [p.relative_to(output_dir).as_posix() for p in folder.glob("log/*/provenance.json")]
    names = {name for earlier in read_records(folder)[0] for name in earlier.get("outputs", {})}
    pages = (*list_pages(output_dir, participant), *list_viewers(output_dir, participant))
    names |= {*record.outputs, *records, *map(str, pages)}
    own = path.relative_to(output_dir).as_posix()
    write_manifest(output_dir, participant, names, texts={own: text})
    publish_text(text, path)
    return path
