"""Pages of participants from the outputs that are there, without processing (`--reports-only`)."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import get_console

from dmri_fm.errors import DmriError, InputError
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution.locks import locked
from dmri_fm_workflows.execution.progress import say
from dmri_fm_workflows.execution.provenance import find_stale
from dmri_fm_workflows.execution.stopping import STOP
from dmri_fm_workflows.group.collect import choose_participants
from dmri_fm_workflows.group.status import SHOWN_PATHS, find_missing, read_records
from dmri_fm_workflows.links import refuse_links_of
from dmri_fm_workflows.outputs.manifest import replace_pages
from dmri_fm_workflows.outputs.root import DERIVATIVES, read_name
from dmri_fm_workflows.report import (
    ReportWarning,
    RunError,
    RunSummary,
    write_participant_pages,
)

LOGGER = logging.getLogger(__name__)


def render_pages(config: RunConfig) -> bool:
    """Write the pages of the requested participants again; return whether all could be written.

    Raises
    ------
    LayoutError
        If the output folder holds no participant, or not those asked for.
    """
    console = get_console()
    participants = choose_participants(config.output_dir, config.participant_label)
    if config.dry_run:
        say(console, f"Pages of {len(participants)} participants: {', '.join(participants)}")
        return True
    failed = []
    for participant in participants:
        STOP.check()
        try:
            render_again(config, participant)
        except DmriError as error:
            LOGGER.error("%s: the page is not written: %s", participant, error)
            failed.append(participant)
    n_done = len(participants) - len(failed)
    rest = f"; not those of {', '.join(failed)}" if failed else ""
    say(console, f"Pages of {n_done} of {len(participants)} participants are written{rest}")
    return not failed


def render_again(config: RunConfig, participant: str) -> None:
    """Write the pages of a participant by the record of the latest run, under their lock.

    Parameters
    ----------
    config
        The request: output folder, place and form of the pages.
    participant
        With the prefix.

    Raises
    ------
    DmriError
        If there is no readable record, an output cannot be read, a page not be written, or a link
        leads out of the output folder; or if another run is at work on the participant.
    """
    refuse_links_of(participant, config.output_dir)
    with locked(participant.removeprefix("sub-"), [config.output_dir / participant]):
        _render(config, participant)


def _render(config: RunConfig, participant: str) -> None:
    out, label = config.output_dir, participant.removeprefix("sub-")
    records, _ = read_records(out / participant)
    if not records:
        raise InputError(
            "no record of a finished run",
            path=out / participant / "log",
            expected="*/provenance.json, written at the end of a run",
            advice="run the participant level for this participant",
        )
    record = records[-1]
    outputs = record.get("outputs", {})
    missing = find_missing(out, outputs)
    for name in missing:
        LOGGER.warning("%s: missing or changed, its page may lack it: %s", participant, name)
    pages = write_participant_pages(
        out,
        label,
        dataset=read_name(out).removesuffix(DERIVATIVES),
        run=_summarise(out, participant, record),
        level=config.report_output_level,
        is_self_contained=config.self_contained_reports,
        has_viewer=config.report_viewer,
        stale=find_stale(
            out,
            label,
            {out / name for name in outputs},
            scans=[str(scan) for scan in record.get("scans", [])],
            is_partial=bool(record.get("is_partial")),
        ),
        warnings=[_warn_of_missing(missing)] if missing else [],
    )
    replace_pages(out, participant, [p.relative_to(out).as_posix() for p in pages])


def _warn_of_missing(missing: list[str]) -> ReportWarning:
    more = f" and {len(missing) - SHOWN_PATHS} more" if len(missing) > SHOWN_PATHS else ""
    number = f"{len(missing)} output{'' if len(missing) == 1 else 's'}"
    shown = f"{', '.join(missing[:SHOWN_PATHS])}{more}"
    return ReportWarning(
        "error",
        f"Missing or changed since the run: {number}, {shown}.",
        advice="Run the participant again: this page was written later, from what was left.",
    )


def _summarise(out: Path, participant: str, record: Mapping[str, Any]) -> RunSummary:
    """Return what a page says about a recorded run, in the words of that run's own page."""
    errors = [e if isinstance(e, dict) else {"message": e} for e in record.get("errors", [])]
    versions = record.get("versions", {})
    options = out / participant / "log" / record["run_uuid"] / "drope.toml"
    return RunSummary(
        version=str(record.get("version", "")),
        command=shlex.join(["drope-bidsapp", *_arguments(str(record.get("command", "")))]),
        config=options.read_text("utf-8", "replace") if options.is_file() else "",
        software={str(k): str(v) for k, v in versions.items() if k != "python"}
        if isinstance(versions, dict)
        else {},
        errors=tuple(
            RunError(*(str(error.get(key, "")) for key in ("stage", "message", "scan")))
            for error in errors
        ),
    )


def _arguments(command: str) -> list[str]:
    """Return the arguments of a command line; all of it as one where quotes do not close."""
    try:
        return shlex.split(command)[1:]
    except ValueError:
        return [command]
