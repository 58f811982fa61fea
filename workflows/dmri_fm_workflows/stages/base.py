"""Stages of the graph: builder and outputs of each, and the loop that connects them.

A stage is a record (:class:`Stage`) whose builder makes a nipype workflow from a plan. The fields
of its inputnode and outputnode are unique names in the graph, such as `acpc_dwi_file`:
:func:`connect_stages` connects every input to the earlier stage that offers a field of its name.
Which fields a workflow has depends on the plan; each that it has is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.errors import DmriError
from dmri_fm_workflows.interfaces.programs import list_missing
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.outputs import Output

#: Fields of the runs of a series, by input of the interfaces that read them.
RUN_FILES = {
    "run_dwi_files": "dwi_file",
    "run_bval_files": "bval_file",
    "run_bvec_files": "bvec_file",
}

#: Fields of the series that is resampled into each space; the interfaces that read it have the
#: same names.
SERIES_FILES = ("dwi_file", "bval_file", "bvec_file")

#: Fields of the merged series, denoised, likewise.
MERGED_FILES = {
    "denoised_file": "dwi_file",
    "bval_file": "bval_file",
    "raw_bvec_file": "bvec_file",
    "volumes_file": "volumes_file",
}

#: Fields of the series in ACPC, likewise.
ACPC_FILES = {f"acpc_{f}": f for f in ("dwi_file", "bval_file", "bvec_file", "mask_file")}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Folders and threads of a run.

    Attributes
    ----------
    bids_root
        Root of the raw dataset, for the sources in the sidecars.
    output_dir
        Root of the output dataset.
    omp_nthreads
        Threads a node may use.
    anatomy_root
        Root of the derivatives whose anatomy is taken, or None.
    """

    bids_root: Path
    output_dir: Path
    omp_nthreads: int
    anatomy_root: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A method that can do a stage's work: one choice of a command-line option.

    Attributes
    ----------
    builder
        Builder of the stage's workflow.
    describe
        Name for plan and sidecar, with versions; an :class:`~dmri_fm_workflows.engines.Method`
        of the engine matches it.
    programs
        Executables, any of which will do; none: built in.
    in_auto
        Whether `auto` may choose it; else it has to be named.
    """

    builder: Callable[..., pe.Workflow]
    describe: Callable[[SeriesPlan], str]
    programs: tuple[str, ...] = ()
    in_auto: bool = True

    def list_missing(self, *, unring: bool) -> tuple[str, ...]:
        """Return the executables of which it lacks one; none if it can run.

        Denoising engines also need a program for Gibbs ringing where `unring` asks for that.
        """
        return list_missing(self.programs)


#: Label and text of a line of `--dry-run`.
Line = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the graph.

    Attributes
    ----------
    name
        Name for progress and errors.
    builder
        Builder of its workflow, from the plan of a series or of a session, resources and `name`.
    outputs
        Files that are made from its fields.
    record
        Field whose dictionary goes into the record of the series, or None.
    runs
        Whether a plan asks for it.
    describe
        Lines of `--dry-run` about it, from the plan of a series or of a session.
    """

    name: str
    builder: Callable[..., pe.Workflow]
    outputs: tuple[Output, ...] = ()
    record: str | None = None
    runs: Callable[[SeriesPlan], bool] = lambda plan: True
    describe: Callable[[Any], Iterable[Line]] = lambda plan: ()

    @property
    def wf_name(self) -> str:
        """Name of its workflow."""
        return f"{self.name}_wf"


def open_workflow(
    name: str, inputs: Iterable[str], outputs: Iterable[str]
) -> tuple[pe.Workflow, pe.Node | None, pe.Node]:
    """Return a workflow with its inputnode, None if it has no inputs, and its outputnode."""
    workflow = pe.Workflow(name=name)
    nodes = [
        pe.Node(niu.IdentityInterface(fields), name=node_name) if fields else None
        for fields, node_name in ((list(inputs), "inputnode"), (list(outputs), "outputnode"))
    ]
    workflow.add_nodes([node for node in nodes if node is not None])
    return workflow, *nodes


def field_names(workflow: pe.Workflow, node_name: str) -> list[str]:
    """Return the fields of a workflow's inputnode or outputnode; none if it has no such node."""
    node = workflow.get_node(node_name)
    return [] if node is None else list(node.inputs.copyable_trait_names())


#: A node, or the workflow of a stage, and the name of a field of it.
Source = tuple[pe.Node | pe.Workflow, str]


def connect_stages(
    workflow: pe.Workflow,
    stages: Iterable[Stage],
    plan: Any,
    resources: Resources,
    offered: Mapping[str, Source],
) -> dict[str, Source]:
    """Add the workflows of stages, each input connected to the earlier stage that offers it.

    Parameters
    ----------
    workflow
        Where to add them.
    stages
        In the order of processing.
    plan
        Plan of the series or session.
    resources
        Folders and threads.
    offered
        Sources, by field, that are there before the first stage.

    Returns
    -------
    dict
        Sources, by field, after the last stage.

    Raises
    ------
    DmriError
        If a field is offered by no earlier stage, or by two.
    """
    sources = dict(offered)
    for stage in stages:
        stage_wf = stage.builder(plan, resources, name=stage.wf_name)
        workflow.add_nodes([stage_wf])
        for name in field_names(stage_wf, "inputnode"):
            if name not in sources:
                raise DmriError(
                    f"the stage {stage.name} takes {name}, which no earlier stage offers",
                    expected=f"one of {', '.join(sorted(sources))}",
                )
            node, output = sources[name]
            workflow.connect(node, output, stage_wf, f"inputnode.{name}")
        for name in field_names(stage_wf, "outputnode"):
            if name in sources:
                raise DmriError(
                    f"the stage {stage.name} offers {name}, which an earlier stage offers",
                    expected="field names that are unique in the graph of a series",
                )
            sources[name] = (stage_wf, f"outputnode.{name}")
    return sources
