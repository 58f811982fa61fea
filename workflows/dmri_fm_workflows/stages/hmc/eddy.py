"""FSL's eddy: head motion, eddy currents and outlier slices; it interpolates by itself."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.engines import SDC
from dmri_fm_workflows.interfaces.fsl import CollectEddy, RunEddy, WriteFslFiles
from dmri_fm_workflows.interfaces.programs import EDDY, name_eddy
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import MERGED_FILES, Resources, open_workflow
from dmri_fm_workflows.stages.hmc.engine import RESULTS, HmcEngine

#: Inputs of eddy about the field, by output of the susceptibility engine (`gives`).
FIELD_INPUTS = {
    "topup": {"fieldcoef_file": "in_topup_fieldcoef", "movpar_file": "in_topup_movpar"},
    "field": {"field_file": "field_file"},
    None: {},
}


def init_eddy_wf(plan: SeriesPlan, resources: Resources, *, name: str = "hmc_wf") -> pe.Workflow:
    """Correct head motion, eddy currents and, where a field is known, distortion.

    Inputs
    ------
    denoised_file, bval_file, raw_bvec_file, volumes_file
        Merged series.
    dwi_mask_file
        Brain mask.
    field_file
        Off-resonance, Hz, if there is any.
    fieldcoef_file, movpar_file
        topup's own files, instead of the field.

    Outputs
    -------
    dwi_file, bvec_file
        eddy's series.
    motion_file, motion_record, confounds_file, confounds_record, outliers_file
        Identity transforms and their description, confounds, outlier slices.
    hmc_record
        Method, with its version.
    """
    field = FIELD_INPUTS[SDC.load(plan.sdc.method).gives]
    workflow, inputnode, outputnode = open_workflow(
        name,
        [*MERGED_FILES, "dwi_mask_file", *field],
        ["dwi_file", "bvec_file", *RESULTS.values()],
    )
    files = pe.Node(WriteFslFiles(), name="write_fsl_files", mem_gb=2 * plan.size_gb)
    eddy = pe.Node(
        RunEddy(n_threads=resources.omp_nthreads),
        name="eddy",
        n_procs=resources.omp_nthreads,
        mem_gb=6 * plan.size_gb,
    )
    collect = pe.Node(CollectEddy(), name="collect_eddy", mem_gb=plan.size_gb)
    workflow.connect([
        (inputnode, files, list(MERGED_FILES.items())),
        (inputnode, eddy, [("denoised_file", "in_file"), ("bval_file", "in_bval"),
                           ("raw_bvec_file", "in_bvec"), ("dwi_mask_file", "in_mask"),
                           *field.items()]),
        (files, eddy, [("acqp_file", "in_acqp"), ("index_file", "in_index")]),
        (inputnode, collect, [("bval_file", "bval_file"), ("volumes_file", "volumes_file")]),
        (eddy, collect, [("out_corrected", "corrected_file"),
                         ("out_rotated_bvecs", "rotated_bvec_file"),
                         ("out_parameter", "parameter_file"),
                         ("out_outlier_map", "outlier_map_file")]),
        (collect, outputnode, [("dwi_file", "dwi_file"), ("bvec_file", "bvec_file"),
                               *RESULTS.items()]),
    ])  # fmt: skip
    return workflow


ENGINE = HmcEngine(
    builder=init_eddy_wf,
    describe=lambda plan: name_eddy(),
    programs=EDDY,
    resamples=True,
)
