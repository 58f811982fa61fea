"""The participant level: read the dataset, then one graph per participant, one after another."""

from __future__ import annotations

import gc
import logging
import os
import shlex
import sys
import textwrap
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import nipype.pipeline.engine as pe
from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.interfaces.base import isdefined
from nipype.interfaces.utility import IdentityInterface
from rich import get_console
from rich.console import Console
from rich.markup import escape

from dmri_fm import __version__
from dmri_fm.errors import DmriError
from dmri_fm.json_files import read_object
from dmri_fm.preprocess.free_water import B_SCALING_CHECK_KEY
from dmri_fm_workflows.bids import Dataset, Participant, Problem, read_dataset
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.engines import Engines, choose_engines
from dmri_fm_workflows.execution import (
    Provenance,
    ScanError,
    find_complete,
    find_stale,
    fingerprint,
    locked,
    measure_outputs,
    read_crash,
    remove_work,
    utc_now,
    write_provenance,
)
from dmri_fm_workflows.interfaces.sink import DerivativesDataSink
from dmri_fm_workflows.letter_case import check_letter_case
from dmri_fm_workflows.links import refuse_link, refuse_links
from dmri_fm_workflows.models import check_weights
from dmri_fm_workflows.outputs.methods import Processed, find_processed, write_citations
from dmri_fm_workflows.outputs.publish import clear_partial, publish_text
from dmri_fm_workflows.outputs.root import write_root_files
from dmri_fm_workflows.participant import init_participant_wf
from dmri_fm_workflows.plan import ParticipantPlan, plan_participant
from dmri_fm_workflows.plan_text import LATER, WIDTH, describe_plan
from dmri_fm_workflows.plugin import ProcessPoolPlugin
from dmri_fm_workflows.progress import ParticipantProgress
from dmri_fm_workflows.report import RunError
from dmri_fm_workflows.stages.base import Resources
from dmri_fm_workflows.stages.figures import write_participant_page
from dmri_fm_workflows.stopping import STOP

__all__ = ["run_participants"]

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
    engines = choose_engines(
        denoise=config.denoise,
        sdc=config.sdc,
        hmc=config.hmc,
        unring=config.unring,
        device=config.device,
    )
    check_weights(config)
    dataset = read_dataset(
        config.bids_dir,
        participant_labels=config.participant_label or None,
        session_labels=config.session_label or None,
        filters=config.bids_filters or None,
        database_dir=config.bids_database_dir,
        gradient_options=config.gradient_options,
    )
    console = get_console()
    _announce(console, dataset, engines)
    if config.dry_run:
        return _dry_run(console, config, dataset, engines)
    run_uuid = config.run_uuid
    write_root_files(config.output_dir, source=config.bids_dir, source_name=dataset.name)
    publish_text(config.to_toml(), config.output_dir / "logs" / run_uuid / "config.toml")
    failed: list[str] = []
    methods = _MethodsText(config.output_dir)
    everyone = _list_participants(dataset)
    for participant, problems in everyone:
        STOP.check()
        label = participant.label
        hidden: set[Path] = set()
        try:
            done = _run_one(
                config,
                dataset,
                participant,
                problems,
                engines,
                run_uuid=run_uuid,
                console=console,
                hidden=hidden,
            )
        except DmriError as error:
            LOGGER.error("sub-%s: %s", label, error)
            done = False
        except Exception as error:  # a defect of ours; the others go on
            LOGGER.exception("sub-%s: %s: %s", label, type(error).__name__, error)
            done = False
        try:
            methods.add(label, hidden)
        except DmriError as error:
            LOGGER.error("sub-%s: its methods are not in logs/CITATION.*: %s", label, error)
            done = False
        if not done:
            failed.append(label)
            if config.stop_on_first_crash:
                break
    remove_empty(config.work_dir)
    if failed:
        names = ", ".join(f"sub-{label}" for label in failed)
        console.print(
            f"[bold red]{len(failed)} of {len(everyone)} participants have errors:[/] {names}. "
            "Messages and reports name the scan, the stage and the way out.",
            highlight=False,
            soft_wrap=True,
        )
        return EXIT_SCAN_FAILED
    if unread := [p.path.name for p in dataset.problems if p.participant is None and p.path]:
        others = f" All {len(everyone)} participants read are complete." if everyone else ""
        console.print(
            f"[bold red]Not read:[/] {escape(', '.join(unread))}.{others}",
            highlight=False,
            soft_wrap=True,
        )
        return EXIT_SCAN_FAILED
    console.print(f"[bold green]All {len(everyone)} participants are complete[/] in "
                  f"{config.output_dir}", highlight=False, soft_wrap=True)  # fmt: skip
    return EXIT_OK


class _MethodsText:
    """The methods text of a run's participants.

    It is written anew after each, as the run of a whole dataset may be stopped between two.
    """

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.labels: list[str] = []
        self.processed = Processed()

    def add(self, label: str, hidden: Collection[Path]) -> None:
        """Add a participant's outputs, without those hidden, and write the text."""
        there = set((self.output_dir / f"sub-{label}").rglob("*")).difference(hidden)
        self.processed += find_processed(there)
        self.labels.append(label)
        write_citations(self.output_dir, self.processed, self.labels)


def remove_empty(folder: Path) -> None:
    """Remove a folder if nothing is left in it."""
    if folder.is_dir() and not any(folder.iterdir()):
        with suppress(OSError):  # a mount point cannot be removed, and need not be
            folder.rmdir()


def _announce(console: Console, dataset: Dataset, engines: Engines) -> None:
    n_series = sum(len(s.series) for p in dataset.participants for s in p.sessions)
    console.print(
        f"[bold]drope-bidsapp {__version__}[/]  {escape(dataset.name)}: "
        f"{len(dataset.participants)} participants, {n_series} series; "
        f"denoise {engines.denoise}, pairs {engines.pair_sdc}, motion {engines.hmc}",
        highlight=False,
        soft_wrap=True,
    )
    for problem in dataset.problems:
        console.print(
            f"[yellow]skipped[/] {escape(str(problem.error))}", highlight=False, soft_wrap=True
        )


def _list_participants(dataset: Dataset) -> list[tuple[Participant, list[Problem]]]:
    """Return every participant, those without a usable scan as well, with what cannot be used."""
    by_label = {p.label: p for p in dataset.participants}
    labels = {*by_label, *(p.participant for p in dataset.problems if p.participant)}
    return [
        (
            by_label.get(label, Participant(label=label, sessions=())),
            [p for p in dataset.problems if p.participant == label],
        )
        for label in sorted(labels)
    ]


def _dry_run(console: Console, config: RunConfig, dataset: Dataset, engines: Engines) -> int:
    code = EXIT_SCAN_FAILED if dataset.problems else EXIT_OK
    for participant, problems in _list_participants(dataset):
        try:
            text = _describe(config, dataset, participant, problems, engines)
        except DmriError as error:
            text, code = f"sub-{participant.label}: {error}", EXIT_SCAN_FAILED
        console.print(f"\n{text}", markup=False, highlight=False, soft_wrap=True)
    console.print("", *textwrap.wrap(LATER, WIDTH), sep="\n", highlight=False, soft_wrap=True)
    return code


def _describe(
    config: RunConfig,
    dataset: Dataset,
    participant: Participant,
    problems: Sequence[Problem],
    engines: Engines,
) -> str:
    """Return what a run would do with a participant, or the error that it would end with."""
    label = participant.label
    _check_outputs(config, participant)
    unread = [f"  not read: {p.path.name if p.path else p.error.found}" for p in problems]
    if not any(session.series for session in participant.sessions):
        return "\n".join([f"sub-{label}: nothing can be processed", *unread])
    plan = plan_participant(config, participant, engines)
    n_steps = count_steps(_build(config, dataset, plan))
    head = f"sub-{label}: {len(plan.series)} series, {n_steps} steps"
    if record := _find_done(config, participant, problems, engines, plan):
        head = (
            f"sub-{label}: complete already ({record.parent.name}); nothing will be done. "
            "This is how the outputs were made:"
        )
    return "\n".join([head, *unread, describe_plan(plan)])


def _find_done(
    config: RunConfig,
    participant: Participant,
    problems: Sequence[Problem],
    engines: Engines,
    plan: ParticipantPlan,
) -> Path | None:
    """Return the record of the run that has done all of this, if there is one."""
    if problems:
        return None
    wanted = _fingerprint(config, participant, engines, plan)
    return find_complete(config.output_dir, participant.label, wanted)


def _check_outputs(config: RunConfig, participant: Participant) -> None:
    """Refuse names that the output disk cannot tell apart, if it is there."""
    names = [series.name for session in participant.sessions for series in session.series]
    if config.output_dir.is_dir():
        check_letter_case(config.output_dir, participant.label, names)


def _fingerprint(
    config: RunConfig, participant: Participant, engines: Engines, plan: ParticipantPlan
) -> str:
    """Hash what decides the outputs; names of methods hold the versions of their programs."""
    return fingerprint(
        participant,
        "\n".join([f"{config.fingerprint()} {engines}", *plan.methods]),
        version=__version__,
        extra=config.weights.values(),
    )


def _build(config: RunConfig, dataset: Dataset, plan: ParticipantPlan) -> pe.Workflow:
    resources = Resources(
        bids_root=dataset.root,
        output_dir=config.output_dir,
        omp_nthreads=config.omp_nthreads,
    )
    return init_participant_wf(plan, resources)


def _run_one(
    config: RunConfig,
    dataset: Dataset,
    participant: Participant,
    problems: Sequence[Problem],
    engines: Engines,
    *,
    run_uuid: str,
    console: Console,
    hidden: set[Path],
) -> bool:
    """Process a participant; return whether all went well.

    Outputs of earlier runs that this one should have replaced are added to `hidden`.
    """
    label = participant.label
    _check_outputs(config, participant)
    plan = plan_participant(config, participant, engines)
    if record := _find_done(config, participant, problems, engines, plan):
        console.print(
            f"sub-{label}: complete already ({record.parent.name})",
            highlight=False,
            soft_wrap=True,
        )
        return True
    started, clock = utc_now(), time.monotonic()
    # A folder of one version: nipype knows of changed inputs, not of changed code.
    work_dir = config.work_dir / f"drope-{__version__}" / f"sub-{label}"
    log_dir = config.output_dir / f"sub-{label}" / "log" / run_uuid
    written: set[Path] = set()
    is_partial = bool(config.session_label or config.bids_filters)
    _refuse_links(config.output_dir, label, work_dir)
    with (
        locked(label, [work_dir, config.output_dir / f"sub-{label}"]),
        _nothing_partial(config.output_dir, label),
    ):
        errors = [
            ScanError(str(p.path.name if p.path else f"sub-{label}"), "read", str(p.error))
            for p in problems
        ]
        if any(session.series for session in participant.sessions):
            publish_text(config.to_toml(), log_dir / "drope.toml")
            workflow = _build(config, dataset, plan)
            errors += _execute(
                workflow, config, label, work_dir, log_dir, console=console, written=written
            )
        stale = find_stale(config.output_dir, participant, written, is_partial=is_partial)
        hidden.update(stale)
        if not errors:
            for path in stale:
                LOGGER.info("%s is of an earlier run and no output of this one: removed", path)
                path.unlink()
        try:
            write_participant_page(
                config.output_dir,
                label,
                dataset=dataset.name,
                errors=[RunError(e.stage, e.message, scan=e.scan) for e in errors],
                config=config.to_toml(),
                hidden=stale,
            )
        except DmriError as error:
            errors.append(ScanError(f"sub-{label}", "report", str(error)))
        _print_errors(console, label, errors)
        write_provenance(
            config.output_dir,
            Provenance(
                participant=label,
                status="failed" if errors else "complete",
                run_uuid=run_uuid,
                version=__version__,
                command=shlex.join(sys.argv),
                started=started,
                finished=utc_now(),
                fingerprint=_fingerprint(config, participant, engines, plan),
                scans=tuple(s.name for v in participant.sessions for s in v.series),
                is_partial=is_partial,
                outputs=measure_outputs(config.output_dir, written),
                errors=tuple(errors),
            ),
        )
        if not errors and not config.keep_work:
            remove_work(work_dir)
    _print_checks(console, written)
    minutes = (time.monotonic() - clock) / 60
    word = "[red]with errors[/]" if errors else "[green]complete[/]"
    console.print(f"sub-{label}: {word} after {minutes:.1f} min", highlight=False, soft_wrap=True)
    return not errors


def _refuse_links(output_dir: Path, label: str, work_dir: Path) -> None:
    """Refuse links in a participant's folders, which would be written through."""
    for name in (f"sub-{label}", f"sub-{label}.html"):
        refuse_links(output_dir / name, root=output_dir)
    # Below, nipype makes links of its own, to the files that its nodes read.
    for folder in (work_dir.parent, work_dir):
        refuse_link(folder, inside=folder)


@contextmanager
def _nothing_partial(output_dir: Path, label: str) -> Iterator[None]:
    """Clear what killed processes left unfinished: those of earlier runs, then those of this."""

    def clear() -> None:
        clear_partial(output_dir / f"sub-{label}")
        clear_partial(output_dir, name=f"sub-{label}.html")

    clear()
    try:
        yield
    finally:
        clear()


def _print_checks(console: Console, written: Collection[Path]) -> None:
    """Print what a user who decided about b-values has to see: MD of the ventricles."""
    for path in sorted(p for p in written if p.name.endswith("_desc-preproc_dwi.json")):
        check = read_object(path).get(B_SCALING_CHECK_KEY)
        if check and "_space-ACPC_" in path.name:
            name = path.name.partition("_space-")[0]
            console.print(
                f"{escape(name)}: {escape(check['Summary'])}", highlight=False, soft_wrap=True
            )


def _print_errors(console: Console, label: str, errors: Sequence[ScanError]) -> None:
    for error in errors:
        console.print(
            f"[red]sub-{label}[/] {escape(error.scan)}, stage {escape(error.stage)}:\n"
            f"{escape(error.message)}",
            highlight=False,
            soft_wrap=True,
        )


def _execute(
    workflow: pe.Workflow,
    config: RunConfig,
    label: str,
    work_dir: Path,
    log_dir: Path,
    *,
    console: Console,
    written: set[Path],
) -> list[ScanError]:
    """Run a graph; return what failed, and add what was written to `written`."""
    log_dir.mkdir(parents=True, exist_ok=True)
    plugin, arguments = choose_plugin(config)
    execution = {
        "crashdump_dir": str(log_dir),
        "crashfile_format": "txt",
        "stop_on_first_crash": str(config.stop_on_first_crash),
        "remove_unnecessary_outputs": "False",
        # Our pool waits for nodes: for it this is a lower limit between two looks.
        "poll_sleep_duration": "0.01" if plugin == "MultiProc" else "0.2",
        "check_version": "False",
        "hash_method": "timestamp",
    }
    nipype_config.update_config({"execution": execution})
    _quiet_nipype(config.output_dir / "logs" / config.run_uuid, verbose=config.verbose)
    workflow.base_dir = str(work_dir)
    workflow.config["execution"].update(execution)
    known = set(log_dir.glob("crash*"))
    n_steps = count_steps(workflow)
    failure: Exception | None = None
    with ParticipantProgress(console, label, n_steps=n_steps) as progress:
        arguments["status_callback"] = NodeWatcher(progress, written)
        if plugin == "MultiProc":
            plugin = ProcessPoolPlugin(plugin_args=arguments)
        try:
            workflow.run(plugin=plugin, plugin_args=arguments)
        except Exception as error:  # any node may raise anything; the crash files say what
            LOGGER.debug("The graph of sub-%s stopped: %s", label, error)
            failure = error
    gc.collect()
    errors = []
    for path in sorted(set(log_dir.glob("crash*")) - known):
        node, message = read_crash(path)
        scan, stage = describe_node(node)
        errors.append(
            ScanError(
                f"sub-{label}" + (f" {scan}" if scan else ""),
                stage,
                f"{message}\n  details: {os.path.relpath(path, config.output_dir)}",
            )
        )
    if failure is not None and not errors:
        errors.append(
            ScanError(f"sub-{label}", "workflow", f"{type(failure).__name__}: {failure}")
        )
    return errors


def _quiet_nipype(log_dir: Path, *, verbose: int) -> None:
    """Keep nipype's own messages off the terminal, here and in its worker processes.

    What matters of them is shown by the progress display; what failed stands in the crash files.
    """
    if verbose:
        return
    levels = {"workflow_level": "CRITICAL", "interface_level": "CRITICAL", "utils_level": "ERROR"}
    nipype_config.update_config({"logging": levels})
    nipype_logging.update_logging(nipype_config)
    # Workers import nipype anew and read its configuration file, as long as this process lives.
    lines = ["[logging]", *(f"{key} = {value}" for key, value in levels.items())]
    publish_text("\n".join(lines) + "\n", log_dir / "nipype.cfg")
    os.environ["NIPYPE_CONFIG_DIR"] = str(log_dir)


class NodeWatcher:
    """Tell the progress display about nodes, and list the files that sinks write.

    nipype pickles it with the nodes; a copy in a worker process has neither.
    """

    def __init__(
        self, progress: ParticipantProgress | None = None, written: set[Path] | None = None
    ) -> None:
        self._progress = progress
        self._written = written

    def __call__(self, node: pe.Node, status: str) -> None:
        """Take note of a node's start, end or failure, and of the files that sinks write."""
        if (
            self._written is not None
            and status == "end"
            and isinstance(node.interface, DerivativesDataSink)
        ):
            self._written.update(_sunk(node))
        # The iterations of a MapNode (`_denoise0`) are one step together.
        is_iteration = node.name.startswith("_")
        if self._progress is None or node.run_without_submitting or is_iteration:
            return
        scan, stage = describe_node(node.fullname)
        self._progress.update(f"{stage} ({scan})" if scan else stage, status)

    def __reduce__(self) -> tuple[type[NodeWatcher], tuple[()]]:
        return NodeWatcher, ()


def _sunk(node: pe.Node) -> list[Path]:
    found = node.result.outputs
    files = found.out_file if isinstance(found.out_file, list) else [found.out_file]
    return [Path(f) for f in (*files, found.out_meta) if isdefined(f)]


def count_steps(workflow: pe.Workflow) -> int:
    """Count the nodes that a user waits for."""
    nodes = (workflow.get_node(name) for name in workflow.list_node_names())
    return sum(
        not node.run_without_submitting and not isinstance(node.interface, IdentityInterface)
        for node in nodes
    )


def choose_plugin(config: RunConfig) -> tuple[str, dict[str, object]]:
    """Return nipype's plugin and its arguments for this request."""
    if config.plugin:
        return config.plugin, dict(config.plugin_args)
    return "MultiProc", {
        "n_procs": config.nprocs,
        "memory_gb": config.mem_gb,
        "raise_insufficient": False,
    }


def describe_node(fullname: str) -> tuple[str, str]:
    """Turn a node's full name into the scan and the stage a user knows.

    Examples
    --------
    >>> describe_node("sub_01_wf.dwi_ses_1_acq_b_wf.preprocess_wf.hmc_wf.estimate_motion")
    ('ses-1_acq-b', 'preprocess: estimate motion')
    >>> describe_node("sub_01_wf.anat_wf.mask_t1w")
    ('', 'anat: mask t1w')
    """
    parts = fullname.split(".")
    scan = ""
    stages: list[str] = []
    for part in parts[1:-1]:
        word = part.removesuffix("_wf")
        if word.startswith("dwi_"):
            pieces = word.removeprefix("dwi_").split("_")
            pairs = zip(pieces[::2], pieces[1::2], strict=False)
            scan = "_".join(f"{key}-{value}" for key, value in pairs)
        elif not stages and word != "dwi":
            stages.append(word)
    name = parts[-1].split(".")[0].replace("_", " ").strip()
    return scan, f"{stages[0]}: {name}" if stages else name
