"""One participant of a run: lock, graph, page and provenance; complete ones are skipped."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nipype.pipeline.engine as pe
from rich.console import Console
from rich.markup import escape

from dmri_fm import __version__
from dmri_fm.errors import DmriError, InputError
from dmri_fm.json_files import read_object
from dmri_fm.preprocess.free_water import B_SCALING_CHECK_KEY
from dmri_fm_workflows.bids import Dataset, Participant, Problem
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution.circumstances import Circumstances, describe_circumstances
from dmri_fm_workflows.execution.graph import GraphOutcome, run_graph
from dmri_fm_workflows.execution.inputs import InputFile, check_unchanged, measure_inputs
from dmri_fm_workflows.execution.letter_case import check_letter_case
from dmri_fm_workflows.execution.locks import locked
from dmri_fm_workflows.execution.pages import render_again
from dmri_fm_workflows.execution.progress import say
from dmri_fm_workflows.execution.provenance import (
    Provenance,
    ScanError,
    find_complete,
    find_stale,
    fingerprint,
    input_files,
    measure_outputs,
    utc_now,
    write_provenance,
)
from dmri_fm_workflows.links import refuse_link, refuse_links_of
from dmri_fm_workflows.outputs.pages import list_pages, list_viewers
from dmri_fm_workflows.outputs.publish import clear_partial, publish_text
from dmri_fm_workflows.plan import ParticipantPlan
from dmri_fm_workflows.plan.decide import plan_participant
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.report import RunError, summarise_run, write_participant_pages
from dmri_fm_workflows.stages.base import Resources
from dmri_fm_workflows.stages.participant import init_participant_wf

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One participant to process.

    Attributes
    ----------
    config
        The request.
    dataset
        The raw dataset.
    participant
        Sessions and series; empty if no scan is usable.
    problems
        Scans of the participant that are unusable.
    engines
        Engine of each step.
    """

    config: RunConfig
    dataset: Dataset
    participant: Participant
    problems: Sequence[Problem]
    engines: Engines

    @property
    def label(self) -> str:
        """Participant, without `sub-`."""
        return self.participant.label

    @property
    def scans(self) -> tuple[str, ...]:
        """Names of the series."""
        return tuple(s.name for session in self.participant.sessions for s in session.series)

    @property
    def template_files(self) -> tuple[Path, ...]:
        """Files of the templates in whose spaces maps are written."""
        return tuple(path for t in self.engines.templates for path in t.files)

    @cached_property
    def plan(self) -> ParticipantPlan:
        """Every decision about the participant."""
        return plan_participant(self.config, self.participant, self.engines)

    @cached_property
    def plan_error(self) -> ScanError | None:
        """Reason why nothing of the request can be planned."""
        try:
            self.plan  # noqa: B018 (its errors are wanted)
        except DmriError as error:
            scan = error.path.name if error.path else f"sub-{self.label}"
            return ScanError(scan, "plan", str(error))
        return None

    @cached_property
    def plan_errors(self) -> tuple[ScanError, ...]:
        """Reasons why nothing, or a series, can be planned, such as a method that cannot run."""
        if self.plan_error:
            return (self.plan_error,)
        return tuple(_scan_errors(self.label, "plan", self.plan.problems))

    def check_outputs(self) -> None:
        """Refuse names that the output disk, if it exists, cannot tell apart."""
        if self.config.output_dir.is_dir():
            check_letter_case(self.config.output_dir, self.label, list(self.scans))

    def find_done(self) -> Path | None:
        """Return the record of a complete earlier run of the same request, if any."""
        if self.problems or self.plan_errors:
            return None
        return find_complete(self.config.output_dir, self.label, self.fingerprint())

    def fingerprint(self) -> str:
        """Hash all that decides the outputs; names of methods hold versions of programs."""
        methods = () if self.plan_error else self.plan.methods
        return fingerprint(
            self.participant,
            "\n".join([f"{self.config.fingerprint()} {self.engines}", *methods]),
            version=__version__,
            extra=[*self.config.weights.values(), *self.template_files],
        )

    def build(self) -> pe.Workflow:
        """Return the graph."""
        resources = Resources(
            bids_root=self.dataset.root,
            output_dir=self.config.output_dir,
            omp_nthreads=self.config.omp_nthreads,
            anatomy_root=self.config.derivatives and self.config.derivatives.resolve(),
        )
        return init_participant_wf(self.plan, resources)


def _scan_errors(label: str, stage: str, problems: Iterable[Problem]) -> list[ScanError]:
    """Return the problems of a participant's scans as errors of a stage."""
    return [
        ScanError(p.path.name if p.path else f"sub-{label}", stage, str(p.error)) for p in problems
    ]


def run_participant(job: Job, *, console: Console, stale: set[Path]) -> bool:
    """Process a participant; return whether all went well.

    Outputs of earlier runs that this one should have replaced are added to `stale`.
    """
    config, label = job.config, job.label
    job.check_outputs()
    if record := job.find_done():
        say(console, f"sub-{label}: complete already ({record.parent.name})")
        _place_pages(config, f"sub-{label}")
        return True
    started, clock, wanted = utc_now(), time.monotonic(), job.fingerprint()
    # A folder of one version: nipype knows of changed inputs, not of changed code.
    work_dir = config.work_dir / f"drope-{__version__}" / f"sub-{label}"
    _refuse_links(config.output_dir, label, work_dir)
    with (
        locked(label, [work_dir, config.output_dir / f"sub-{label}"]),
        _nothing_partial(config.output_dir, label),
    ):
        circumstances, (written, errors, steps) = _process(job, work_dir, console)
        is_partial = bool(config.session_label or config.bids_filters)
        stale.update(
            find_stale(config.output_dir, label, written, scans=job.scans, is_partial=is_partial)
        )
        if not errors:
            for path in sorted(stale):
                LOGGER.info("%s is of an earlier run and no output of this one: removed", path)
                path.unlink()
        errors += _write_pages(job, errors, stale)
        _print_errors(console, label, errors)
        write_provenance(
            config.output_dir,
            Provenance(
                participant=label,
                status="failed" if errors else "complete",
                run_uuid=config.run_uuid,
                version=__version__,
                command=shlex.join(sys.argv),
                started=started,
                finished=utc_now(),
                fingerprint=wanted,
                scans=job.scans,
                is_partial=is_partial,
                outputs=measure_outputs(config.output_dir, written),
                errors=tuple(errors),
                circumstances=circumstances,
                steps=tuple(steps),
            ),
        )
        if not errors and not config.keep_work:
            remove_work(work_dir)
    _print_checks(console, written)
    minutes = (time.monotonic() - clock) / 60
    word = "[red]with errors[/]" if errors else "[green]complete[/]"
    say(console, f"sub-{label}: {word} after {minutes:.1f} min")
    return not errors


def _process(job: Job, work_dir: Path, console: Console) -> tuple[Circumstances, GraphOutcome]:
    """Run the graph, if there is one; return what it was made with, and what came of it."""
    errors = _scan_errors(job.label, "read", job.problems)
    inputs: tuple[InputFile, ...] = ()
    outcome = GraphOutcome(set(), [], [])
    errors += job.plan_errors
    plan = None if job.plan_error else job.plan
    if plan is not None and plan.series:
        try:
            inputs = measure_inputs([*input_files(job.participant), *job.template_files])
        except InputError as error:
            errors.append(ScanError(f"sub-{job.label}", "read", str(error)))
    circumstances = describe_circumstances(job.config, job.dataset.root, inputs, plan)
    if inputs:
        outcome = _run_graph(job, work_dir, console)
        try:
            check_unchanged(inputs)
        except InputError as error:
            errors.append(ScanError(f"sub-{job.label}", "read", str(error)))
    return circumstances, outcome._replace(errors=[*errors, *outcome.errors])


def _run_graph(job: Job, work_dir: Path, console: Console) -> GraphOutcome:
    """Keep the options of the run, and run the graph."""
    config = job.config
    log_dir = config.output_dir / f"sub-{job.label}" / "log" / config.run_uuid
    publish_text(config.to_toml(), log_dir / "drope.toml")
    return run_graph(
        job.build(), config, job.label, work_dir=work_dir, log_dir=log_dir, console=console
    )


def _place_pages(config: RunConfig, participant: str) -> None:
    """Write the pages of a complete participant where they, or viewers, are missing."""
    has_pages = bool(list_pages(config.output_dir, participant, [config.report_output_level]))
    has_viewers = bool(list_viewers(config.output_dir, participant))
    if not has_pages or (config.report_viewer and not has_viewers):
        render_again(config, participant)


def _write_pages(
    job: Job, errors: Sequence[ScanError], stale: Collection[Path]
) -> list[ScanError]:
    """Write the participant's pages; return the error, if that fails."""
    config = job.config
    try:
        write_participant_pages(
            config.output_dir,
            job.label,
            dataset=job.dataset.name,
            run=summarise_run(
                config.to_toml(), [RunError(e.stage, e.message, scan=e.scan) for e in errors]
            ),
            level=config.report_output_level,
            is_self_contained=config.self_contained_reports,
            has_viewer=config.report_viewer,
            stale=stale,
        )
    except DmriError as error:
        return [ScanError(f"sub-{job.label}", "report", str(error))]
    return []


def _refuse_links(output_dir: Path, label: str, work_dir: Path) -> None:
    """Refuse links in a participant's folders, which would be written through."""
    refuse_links_of(f"sub-{label}", output_dir)
    # Below, nipype makes links of its own, to the files that its nodes read.
    for folder in (work_dir.parent, work_dir):
        refuse_link(folder, inside=folder)


@contextmanager
def _nothing_partial(output_dir: Path, label: str) -> Iterator[None]:
    """Clear unfinished files of killed processes: of earlier runs, then of this one."""

    def clear() -> None:
        clear_partial(output_dir / f"sub-{label}")
        clear_partial(output_dir, name=f"sub-{label}.html")

    clear()
    try:
        yield
    finally:
        clear()


def _print_checks(console: Console, written: Collection[Path]) -> None:
    """Print MD of the ventricles, for users who decided about the scaling of b-values."""
    for path in sorted(p for p in written if p.name.endswith("_desc-preproc_dwi.json")):
        check = read_object(path).get(B_SCALING_CHECK_KEY)
        if check and "_space-ACPC_" in path.name:
            name = path.name.partition("_space-")[0]
            say(console, f"{escape(name)}: {escape(check['Summary'])}")


def _print_errors(console: Console, label: str, errors: Sequence[ScanError]) -> None:
    for error in errors:
        where = f"{escape(error.scan)}, stage {escape(error.stage)}"
        say(console, f"[red]sub-{label}[/] {where}:\n{escape(error.message)}")


def remove_work(work_dir: Path) -> None:
    """Remove a participant's work folder, and its parent if nothing else is in it.

    Links in it are removed, what they lead to is not.
    """
    shutil.rmtree(work_dir, ignore_errors=True)
    with suppress(OSError):
        work_dir.parent.rmdir()
