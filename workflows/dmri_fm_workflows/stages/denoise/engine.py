"""Record of a denoising engine, and the graph of DIPY's engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import nipype.pipeline.engine as pe

from dmri_fm.preprocess.denoise import name_gibbs_removal
from dmri_fm_workflows.interfaces.denoise import DenoiseDwi, UnringDwi
from dmri_fm_workflows.interfaces.programs import list_missing
from dmri_fm_workflows.interfaces.records import MergeRecords, MergeRunRecords
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import RUN_FILES, Engine, Resources, open_workflow


@dataclass(frozen=True, kw_only=True)
class DenoiseEngine(Engine):
    """A denoising engine, and its program for Gibbs ringing.

    Attributes
    ----------
    needs_full_kspace
        Whether zero-filled images do not fit it: voxels share their noise.
    unring_programs
        Executables for Gibbs ringing; none: built in.
    describe_unringing
        Name of the method for Gibbs ringing, with its version.
    """

    needs_full_kspace: bool = False
    unring_programs: tuple[str, ...] = ()
    describe_unringing: Callable[[], str] = name_gibbs_removal

    def list_missing(self, *, unring: bool) -> tuple[str, ...]:
        """Return the executables of which it lacks one; none if it can run."""
        lacks = super().list_missing(unring=unring)
        return lacks or (list_missing(self.unring_programs) if unring else ())

    def name_unringing(self, *, unring: bool) -> str:
        """Return the entry of plan and sidecar about Gibbs ringing."""
        return self.describe_unringing() if unring else "none"


def describe_runs(describe: Callable[[int], str]) -> Callable[[SeriesPlan], str]:
    """Return the name of an engine for a series, from that for a run's number of volumes."""

    def describe_series(plan: SeriesPlan) -> str:
        return "; ".join(dict.fromkeys(describe(n) for n in plan.run_sizes))

    return describe_series


def init_dipy_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "denoise_wf"
) -> pe.Workflow:
    """Denoise each run, and remove Gibbs ringing on request, with DIPY.

    Inputs
    ------
    run_dwi_files, run_bval_files, run_bvec_files
        The runs.
    run_kspace_extents
        Share of k-space that is filled in plane, by run.

    Outputs
    -------
    denoised_files
        Denoised runs, in order.
    ringing_files
        The same before the removal of Gibbs ringing, if asked for.
    denoise_record
        Method, with its version.
    """
    inputs = {**RUN_FILES, "run_kspace_extents": "kspace_extent"}
    workflow, inputnode, _ = open_workflow(name, inputs, denoise_outputs(plan))
    denoise = pe.MapNode(
        DenoiseDwi(method=plan.engines.denoise),
        iterfield=list(inputs.values()),
        name="denoise",
        mem_gb=4 * plan.size_gb,
    )
    workflow.connect([(inputnode, denoise, list(inputs.items()))])
    unring = pe.MapNode(
        UnringDwi(n_threads=resources.omp_nthreads),
        iterfield=["in_file"],
        name="unring",
        n_procs=resources.omp_nthreads,
        mem_gb=2 * plan.size_gb,
    )
    connect_unringing(workflow, plan, denoise, unring)
    return workflow


def connect_unringing(
    workflow: pe.Workflow, plan: SeriesPlan, denoise: pe.MapNode, unring: pe.MapNode
) -> None:
    """Connect the denoised runs with the outputs, by the node for Gibbs ringing where asked for.

    The first node gives `out_file` and `record`, the second takes `in_file` and gives `out_file`.
    """
    outputnode = workflow.get_node("outputnode")
    collect = pe.Node(MergeRunRecords(), name="collect_runs", run_without_submitting=True)
    merge = pe.Node(
        MergeRecords(base={"GibbsCorrection": plan.unringing}),
        name="collect_records",
        run_without_submitting=True,
    )
    workflow.connect([
        (denoise, collect, [("record", "in_records")]),
        (collect, merge, [("record", "in_records")]),
        (merge, outputnode, [("record", "denoise_record")]),
        (unring if plan.unring else denoise, outputnode, [("out_file", "denoised_files")]),
    ])  # fmt: skip
    if plan.unring:
        workflow.connect([
            (denoise, unring, [("out_file", "in_file")]),
            (denoise, outputnode, [("out_file", "ringing_files")]),
        ])  # fmt: skip


def denoise_outputs(plan: SeriesPlan) -> list[str]:
    """Return the outputs of an engine's workflow."""
    ringing = ["ringing_files"] if plan.unring else []
    return ["denoised_files", *ringing, "denoise_record"]
