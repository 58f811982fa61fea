"""Run the graph of a participant: nipype's settings, progress, and errors."""

from __future__ import annotations

import gc
import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

import nipype.pipeline.engine as pe
from nipype import config as nipype_config
from nipype import logging as nipype_logging
from nipype.interfaces.base import isdefined
from nipype.interfaces.utility import IdentityInterface
from rich.console import Console

from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.execution.pool import ProcessPoolPlugin
from dmri_fm_workflows.execution.progress import ParticipantProgress
from dmri_fm_workflows.execution.provenance import ScanError, Step
from dmri_fm_workflows.execution.usage import join_iterations
from dmri_fm_workflows.interfaces.sink import DerivativesDataSink
from dmri_fm_workflows.outputs.publish import publish_text

LOGGER = logging.getLogger(__name__)


class GraphOutcome(NamedTuple):
    """Files that a graph wrote, its errors, and what its steps took (of our own pool alone)."""

    written: set[Path]
    errors: list[ScanError]
    steps: list[Step]


def run_graph(
    workflow: pe.Workflow,
    config: RunConfig,
    label: str,
    *,
    work_dir: Path,
    log_dir: Path,
    console: Console,
) -> GraphOutcome:
    """Run the graph of a participant; errors of its nodes are part of the outcome."""
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
    written: set[Path] = set()
    failure: Exception | None = None
    with ParticipantProgress(console, label, n_steps=count_steps(workflow)) as progress:
        arguments["status_callback"] = NodeWatcher(progress, written)
        pool = ProcessPoolPlugin(plugin_args=arguments) if plugin == "MultiProc" else None
        try:
            workflow.run(plugin=pool or plugin, plugin_args=arguments)
        except Exception as error:  # any node may raise anything; the crash files say what
            LOGGER.debug("The graph of sub-%s stopped: %s", label, error)
            failure = error
    gc.collect()
    crashes = sorted(set(log_dir.glob("crash*")) - known)
    errors = [_read_error(path, label, config.output_dir) for path in crashes]
    if failure is not None and not errors:
        errors = [ScanError(f"sub-{label}", "workflow", f"{type(failure).__name__}: {failure}")]
    usages = join_iterations(pool.usages) if pool is not None else []
    steps = [
        Step(*describe_node(u.node), round(u.seconds, 2), _round(u.peak_memory_gb)) for u in usages
    ]
    return GraphOutcome(written, errors, steps)


def _round(gb: float | None) -> float | None:
    return None if gb is None else round(gb, 3)


def _read_error(path: Path, label: str, output_dir: Path) -> ScanError:
    """Return the error of a crash file."""
    node, message = read_crash(path)
    scan, stage = describe_node(node)
    details = f"  details: {os.path.relpath(path, output_dir)}"
    return ScanError(f"sub-{label} {scan}".rstrip(), stage, f"{message}\n{details}")


def _quiet_nipype(log_dir: Path, *, verbose: int) -> None:
    """Keep nipype's own messages off the terminal, here and in its worker processes.

    The progress display shows the steps, crash files hold the errors.
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
    outputs = node.result.outputs
    files = outputs.out_file if isinstance(outputs.out_file, list) else [outputs.out_file]
    return [Path(f) for f in (*files, outputs.out_meta) if isdefined(f)]


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
    >>> describe_node("sub_01_wf.dwi_ses_1_acq_b_wf.hmc_wf.estimate_motion")
    ('ses-1_acq-b', 'hmc: estimate motion')
    >>> describe_node("sub_01_wf.session_anat_wf.anat_wf.mask_t1w")
    ('', 'anat: mask t1w')
    >>> describe_node("sub_01_wf.session_anat_ses_1_wf.anat_wf.align_acpc")
    ('ses-1', 'anat: align acpc')
    """
    _, *folders, node = fullname.split(".")
    scan, stage = "", ""
    for word in (folder.removesuffix("_wf") for folder in folders):
        level, *pieces = word.removeprefix("session_").split("_")
        if level == "dwi" or word.startswith("session_"):
            pairs = zip(pieces[::2], pieces[1::2], strict=False)
            scan = "_".join(f"{key}-{value}" for key, value in pairs)
        else:
            stage = stage or word
    step = f"{stage}: {node}" if stage else node
    return scan, step.replace("_", " ").strip()


#: Last line of a Python traceback, with the lines that an error of ours adds below it.
_LAST_ERROR = re.compile(
    r"^(?P<error>[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|BrokenProcessPool))(?::|$)"
)

_LESS_MEMORY = "give the job more of it, or run fewer steps at a time (--nprocs, --omp-nthreads)"

#: Advice for errors of the system, by how the message starts or what it says.
_ADVICE = (
    (
        r"BrokenProcessPool",
        f"a worker was killed: its memory ran out, most likely; {_LESS_MEMORY}",
    ),
    (r"OutOfMemoryError", "the graphics card has too little memory: --device cpu does without it"),
    (r"\w*MemoryError|.*can't allocate memory", f"memory ran out; {_LESS_MEMORY}"),
    (
        r"OSError: \[Errno (28|122)\]",  # ENOSPC, EDQUOT
        "the disk or the quota of the work folder or the output folder is full: free space, or "
        "give --work-dir another disk; the same command then goes on from here",
    ),
)


#: Folder of an iteration of a MapNode, below that of the node; its name in the file lacks the
#: workflow that the node is in.
_ITERATION = re.compile(r"^Working directory: .*/(sub_[^/]+_wf/.+)/mapflow/_", re.MULTILINE)


def read_crash(path: Path) -> tuple[str, str]:
    """Return the node's full name and the final error of a nipype crash file."""
    # The traceback of the interface itself stands indented by tabs inside that of the node.
    text = path.read_text(encoding="utf-8", errors="replace").replace("\t", "")
    node = next(
        (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("Node:")),
        path.stem,
    )
    if iteration := _ITERATION.search(text):
        node = iteration[1].replace("/", ".")
    message: list[str] = []
    for line in text.splitlines():
        if match := _LAST_ERROR.match(line):
            error = match["error"].rsplit(".", 1)[-1]
            message = [f"{error}{line[match.end() - 1 :]}" if ":" in line else error]
        elif message and line.startswith("  ") and not line.startswith("  File "):
            message.append(line)
        elif message and line and not line.startswith(" "):
            continue
    if message and "  what to do:" not in "\n".join(message):
        message += [
            f"  what to do: {text}" for start, text in _ADVICE if re.match(start, message[0])
        ][:1]
    return node, "\n".join(message) or "no message; see the crash file"
