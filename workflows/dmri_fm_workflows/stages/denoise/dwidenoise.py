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
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources, open_workflow
from dmri_fm_workflows.stages.denoise.engine import (
    DenoiseEngine,
    connect_unringing,
    denoise_outputs,
    describe_runs,
)


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
    ringing_files
        The same before the removal of Gibbs ringing, if asked for.
    denoise_record
        Method, with its version.
    """
    workflow, inputnode, _ = open_workflow(
        name, ["run_dwi_files", "run_kspace_extents"], denoise_outputs(plan)
    )
    denoise = pe.MapNode(
        DwiDenoise(nthreads=resources.omp_nthreads, out_file="denoised.nii"),
        iterfield=["in_file", "kspace_extent"],
        name="dwidenoise",
        n_procs=resources.omp_nthreads,
        mem_gb=3 * plan.size_gb,
    )
    unring = pe.MapNode(
        mrtrix3.MRDeGibbs(nthreads=resources.omp_nthreads, out_file="unringed.nii"),
        iterfield=["in_file"],
        name="mrdegibbs",
        n_procs=resources.omp_nthreads,
        mem_gb=2 * plan.size_gb,
    )
    workflow.connect([
        (inputnode, denoise, [("run_dwi_files", "in_file"),
                              ("run_kspace_extents", "kspace_extent")]),
    ])  # fmt: skip
    connect_unringing(workflow, plan, denoise, unring)
    return workflow


ENGINE = DenoiseEngine(
    builder=init_dwidenoise_wf,
    describe=describe_runs(name_dwidenoise),
    programs=DWIDENOISE,
    needs_full_kspace=True,
    unring_programs=MRDEGIBBS,
    describe_unringing=name_mrdegibbs,
)
