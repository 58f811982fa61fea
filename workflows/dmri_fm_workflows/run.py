"""The participant level: read the dataset, then one graph per participant, one after another."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from rich import get_console
from rich.console import Console
from rich.markup import escape

from dmri_fm import __version__
from dmri_fm.errors import DmriError
from dmri_fm_workflows.bids import Dataset, Participant, read_dataset
from dmri_fm_workflows.bids.given_anatomy import take_anatomy
from dmri_fm_workflows.bids.gradient_fixes import make_fixes
from dmri_fm_workflows.bids.preprocessed import read_preprocessed
from dmri_fm_workflows.bids.user_masks import attach_masks, count_masks
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution.dry_run import print_plans
from dmri_fm_workflows.execution.job import Job, run_participant
from dmri_fm_workflows.execution.progress import say
from dmri_fm_workflows.execution.stopping import STOP
from dmri_fm_workflows.outputs.methods import Processed, find_processed, write_citations
from dmri_fm_workflows.outputs.publish import publish_text
from dmri_fm_workflows.outputs.root import write_root_files
from dmri_fm_workflows.plan.boilerplate import foresee_outputs
from dmri_fm_workflows.plan.engines import Engines, choose_engines
from dmri_fm_workflows.plan.weights import check_weights
from dmri_fm_workflows.templates import find_cache, find_templates

LOGGER = logging.getLogger(__name__)

#: Exit codes of the command line.
EXIT_OK = 0
EXIT_SCAN_FAILED = 1


def run_participants(config: RunConfig) -> int:
    """Process every requested participant; return the exit code.

    Parameters
    ----------
    config
        The request.

    Returns
    -------
    int
        0 if every requested output and report was written, else 1.

    Raises
    ------
    DmriError
        If nothing can be started: no dataset, an unknown label, a missing program.
    """
    corrections = {"denoise": config.denoise, "sdc": config.sdc, "hmc": config.hmc}
    if config.is_preprocessed:
        corrections = dict.fromkeys(corrections, "none")
    engines = choose_engines(
        **corrections,
        unring=config.unring,
        device=config.device,
        eddy_config=config.eddy_config,
        templates=find_templates(config.output_spaces, find_cache(os.environ)),
    )
    check_weights(config)
    dataset = _read(config)
    _warn_of_unused(config, dataset)
    console = get_console()
    _announce(
        console,
        dataset,
        engines,
        is_preprocessed=config.is_preprocessed,
        has_masks=config.brain_masks is not None,
    )
    jobs = _list_jobs(config, dataset, engines)
    if config.dry_run:
        is_possible = print_plans(console, jobs) and not dataset.problems
        return EXIT_OK if is_possible else EXIT_SCAN_FAILED
    if config.boilerplate_only:
        remove_empty(config.work_dir)
        return _write_boilerplate(console, jobs, config.output_dir)
    write_root_files(
        config.output_dir,
        source=config.bids_dir,
        source_name=dataset.name,
        anatomy=config.derivatives,
    )
    publish_text(config.to_toml(), config.output_dir / "logs" / config.run_uuid / "config.toml")
    failed: list[str] = []
    methods = MethodsText(config.output_dir)
    for job in jobs:
        STOP.check()
        if not _run_job(job, methods, console):
            failed.append(job.label)
            if config.stop_on_first_crash:
                break
    remove_empty(config.work_dir)
    return _print_outcome(console, dataset, config.output_dir, failed=failed, n_jobs=len(jobs))


def _write_boilerplate(console: Console, jobs: Sequence[Job], output_dir: Path) -> int:
    """Write the methods text by the plans; return the exit code."""
    processed, planned, is_all = Processed(), [], True
    for job in jobs:
        errors = [*job.problems, *job.plan_errors]
        for error in errors:
            LOGGER.error("sub-%s: %s", job.label, error)
        is_all &= not errors
        if not job.plan_error and job.plan.series:
            processed += foresee_outputs(job.plan)
            planned.append(job.label)
    write_citations(output_dir, processed, planned, is_planned=True)
    say(
        console,
        f"Methods of {len(planned)} participants, by the plan: {output_dir}/logs/CITATION.md",
    )
    return EXIT_OK if is_all else EXIT_SCAN_FAILED


def _read(config: RunConfig) -> Dataset:
    """Read the dataset of the request."""
    labels, sessions = config.participant_label or None, config.session_label or None
    if config.is_preprocessed:
        return read_preprocessed(
            config.bids_dir,
            participant_labels=labels,
            session_labels=sessions,
            gradient_options=config.gradient_options,
            ignored=config.ignore,
        )
    dataset = read_dataset(
        config.bids_dir,
        participant_labels=labels,
        session_labels=sessions,
        filters=config.bids_filters or None,
        database_dir=config.bids_database_dir,
        gradient_options=config.gradient_options,
        ignored=config.ignore,
        gradient_fixes=make_fixes(config.gradient_fixes),
        shares_anatomy=config.subject_anatomical_reference == "first",
        merging=config.merging,
    )
    if config.brain_masks is not None:
        dataset = attach_masks(dataset, config.brain_masks)
    return dataset if config.derivatives is None else take_anatomy(dataset, config.derivatives)


def _warn_of_unused(config: RunConfig, dataset: Dataset) -> None:
    """Log the repairs of --fix-gradients that fit no run."""
    runs = [r for p in dataset.participants for s in p.sessions for x in s.series for r in x.runs]
    used = {run.gradient_fix.name for run in runs if run.gradient_fix is not None}
    for fix in make_fixes(config.gradient_fixes):
        if fix.name not in used:
            LOGGER.warning(
                "The repair %s of --fix-gradients fits none of the runs that are read", fix.name
            )


def _list_jobs(config: RunConfig, dataset: Dataset, engines: Engines) -> list[Job]:
    """Return a job for every participant, also those without a usable scan."""
    by_label = {p.label: p for p in dataset.participants}
    labels = {*by_label, *(p.participant for p in dataset.problems if p.participant)}
    return [
        Job(
            config,
            dataset,
            by_label.get(label, Participant(label=label, sessions=())),
            [p for p in dataset.problems if p.participant == label],
            engines,
        )
        for label in sorted(labels)
    ]


def _run_job(job: Job, methods: MethodsText, console: Console) -> bool:
    """Process a participant and log its errors; return whether all went well."""
    label = job.label
    stale: set[Path] = set()
    try:
        is_done = run_participant(job, console=console, stale=stale)
    except DmriError as error:
        LOGGER.error("sub-%s: %s", label, error)
        is_done = False
    except Exception as error:  # a defect of ours; the others go on
        LOGGER.exception("sub-%s: %s: %s", label, type(error).__name__, error)
        is_done = False
    try:
        methods.add(label, stale)
    except DmriError as error:
        LOGGER.error("sub-%s: its methods are not in logs/CITATION.*: %s", label, error)
        is_done = False
    return is_done


class MethodsText:
    """The methods text of a run's participants.

    It is rewritten after each participant, as a run of a dataset may be stopped between two.
    """

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.labels: list[str] = []
        self.processed = Processed()

    def add(self, label: str, stale: Collection[Path]) -> None:
        """Add a participant's outputs, without stale ones, and write the text."""
        there = set((self.output_dir / f"sub-{label}").rglob("*")).difference(stale)
        self.processed += find_processed(there)
        self.labels.append(label)
        write_citations(self.output_dir, self.processed, self.labels)


def remove_empty(folder: Path) -> None:
    """Remove a folder if nothing is left in it."""
    if folder.is_dir() and not any(folder.iterdir()):
        with suppress(OSError):  # a mount point cannot be removed, and need not be
            folder.rmdir()


def _announce(
    console: Console,
    dataset: Dataset,
    engines: Engines,
    *,
    is_preprocessed: bool,
    has_masks: bool,
) -> None:
    n_series = sum(len(s.series) for p in dataset.participants for s in p.sessions)
    how = f"denoise {engines.denoise}, distortion {' or '.join(engines.sdc)}, motion {engines.hmc}"
    say(
        console,
        f"[bold]drope-bidsapp {__version__}[/]  {escape(dataset.name)}: "
        f"{len(dataset.participants)} participants, {n_series} series; "
        f"{'preprocessed before' if is_preprocessed else how}",
    )
    if has_masks:
        n_masked, n_t1w = count_masks(dataset)
        say(
            console,
            f"brain masks of the user: {n_masked} of {n_series} series, {n_t1w} T1w images; the "
            "others are masked by the app",
        )
    for problem in dataset.problems:
        say(console, f"[yellow]skipped[/] {escape(str(problem.error))}")


def _print_outcome(
    console: Console, dataset: Dataset, output_dir: Path, *, failed: list[str], n_jobs: int
) -> int:
    """Print how the run ended; return the exit code."""
    code = EXIT_SCAN_FAILED
    if failed:
        names = ", ".join(f"sub-{label}" for label in failed)
        text = (
            f"[bold red]{len(failed)} of {n_jobs} participants have errors:[/] {names}. "
            "Messages and reports name the scan, the stage and the way out."
        )
    elif unread := [p.path.name for p in dataset.problems if p.participant is None and p.path]:
        others = f" All {n_jobs} participants read are complete." if n_jobs else ""
        text = f"[bold red]Not read:[/] {escape(', '.join(unread))}.{others}"
    else:
        text = f"[bold green]All {n_jobs} participants are complete[/] in {output_dir}"
        code = EXIT_OK
    say(console, text)
    return code
