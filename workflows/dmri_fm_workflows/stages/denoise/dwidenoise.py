"""MRtrix3's dwidenoise, with mrdegibbs for Gibbs ringing."""

from __future__ import annotations

import nipype.pipeline.engine as pe
from nipype.interfaces import mrtrix3

from dmri_fm_workflows.interfaces.denoise import DwiDenoise
from dmri_fm_workflows.interfaces.programs import (
    DWIDENOISE,
    MRDEGIBBS,
    name_dwidenoise,
    name_mrdegibbs,
)
from dmri_fm_workflows.interfaces.records import MergeRecords, MergeRunRecords
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources, open_workflow
from dmri_fm_workflows.stages.denoise.engine import DenoiseEngine, describe_runs


def init_dwidenoise_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "denoise_wf"
) -> pe.Workflow:
    """Denoise each run, and remove Gibbs ringing on request, with MRtrix3.

    Inputs
    ------
    run_dwi_files
        The runs.
    run_kspace_extents
        Share of k-space that is filled in plane, by run.

    Outputs
    -------
    denoised_files
        Denoised runs, in order.
    denoise_record
        Method, with its version.
    """
    workflow, inputnode, outputnode = open_workflow(
        name, ["run_dwi_files", "run_kspace_extents"], ["denoised_files", "denoise_record"]
    )
    denoise = pe.MapNode(
        DwiDenoise(nthreads=resources.omp_nthreads, out_file="denoised.nii"),
        iterfield=["in_file", "kspace_extent"],
        name="dwidenoise",
        n_procs=resources.omp_nthreads,
        mem_gb=3 * plan.size_gb,
    )
    last = denoise
    if plan.unring:
        last = pe.MapNode(
            mrtrix3.MRDeGibbs(nthreads=resources.omp_nthreads, out_file="unringed.nii"),
            iterfield=["in_file"],
            name="mrdegibbs",
            n_procs=resources.omp_nthreads,
            mem_gb=2 * plan.size_gb,
        )
        workflow.connect(denoise, "out_file", last, "in_file")
    collect = pe.Node(MergeRunRecords(), name="collect_runs", run_without_submitting=True)
    merge = pe.Node(
        MergeRecords(base={"GibbsCorrection": plan.unringing}),
        name="collect_records",
        run_without_submitting=True,
    )
    workflow.connect([
        (inputnode, denoise, [("run_dwi_files", "in_file"),
                              ("run_kspace_extents", "kspace_extent")]),
        (denoise, collect, [("record", "in_records")]),
        (collect, merge, [("record", "in_records")]),
        (last, outputnode, [("out_file", "denoised_files")]),
        (merge, outputnode, [("record", "denoise_record")]),
    ])  # fmt: skip
    return workflow


ENGINE = DenoiseEngine(
    builder=init_dwidenoise_wf,
    describe=describe_runs(name_dwidenoise),
    programs=DWIDENOISE,
    needs_full_kspace=True,
    unring_programs=MRDEGIBBS,
    describe_unringing=name_mrdegibbs,
)
