"""FSL's eddy: head motion, eddy currents and outlier slices; it interpolates by itself."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.eddy_config import DEFAULTS
from dmri_fm_workflows.engines import SDC
from dmri_fm_workflows.interfaces.eddy import CollectEddy, RunEddy, RunEddyQuad, StoreForFsl
from dmri_fm_workflows.interfaces.fsl_files import WriteFslFiles
from dmri_fm_workflows.interfaces.programs import (
    EDDY,
    EDDY_QUAD,
    list_cuda_eddies,
    name_eddy,
)
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import MERGED_FILES, Resources, open_workflow
from dmri_fm_workflows.stages.hmc.engine import RESULTS, HmcEngine

#: Inputs of eddy about the field, by output of the susceptibility engine (`gives`).
FIELD_INPUTS = {
    "topup": {
        "fieldcoef_file": "in_topup_fieldcoef",
        "movpar_file": "in_topup_movpar",
        "topup_acqp_file": "in_acqp",
    },
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
    fieldcoef_file, movpar_file, topup_acqp_file
        topup's own files; eddy takes them in place of the field and of a file of its own of phase
        encodings, as it numbers topup's positions by the same rows.

    Outputs
    -------
    dwi_file, bvec_file
        eddy's series.
    motion_file, motion_record, confounds_file, confounds_record, outliers_file
        Identity transforms and their description, confounds, outlier slices.
    hmc_record
        Method, with its version.
    eddy_qc_file
        Measures of eddy_quad, where that program is.
    """
    assert plan.eddy is not None
    field = FIELD_INPUTS[SDC.load(plan.sdc.method).gives]
    has_field = plan.sdc.has_field and (plan.eddy.has_quad or "field_file" in field)
    outputs = [*RESULTS.values(), *(["eddy_qc_file"] if plan.eddy.has_quad else [])]
    workflow, inputnode, outputnode = open_workflow(
        name,
        dict.fromkeys(
            [*MERGED_FILES, "dwi_mask_file", *field, *(["field_file"] if has_field else [])]
        ),
        ["dwi_file", "bvec_file", *outputs],
    )
    files = pe.Node(
        WriteFslFiles(slice_groups=[list(g) for g in plan.eddy.slice_groups]),
        name="write_fsl_files",
        mem_gb=2 * plan.size_gb,
    )
    n_threads = 1 if plan.engines.uses_cuda_eddy else resources.omp_nthreads
    eddy = pe.Node(
        RunEddy(
            options=dict(plan.eddy.options),
            uses_cuda=plan.engines.uses_cuda_eddy,
            n_threads=n_threads,
        ),
        name="eddy",
        n_procs=n_threads,
        mem_gb=6 * plan.size_gb,
    )
    collect = pe.Node(
        CollectEddy(
            method=plan.hmc_name,
            options={**plan.eddy.options, "use_cuda": plan.engines.uses_cuda_eddy},
        ),
        name="collect_eddy",
        mem_gb=2 * plan.size_gb,
    )
    stored = {"denoised_file": "in_file", "dwi_mask_file": "in_mask"}
    stored |= {"field_file": "field_file"} if "field_file" in field else {}
    for source, target in stored.items():
        workflow.connect(_store(workflow, source, plan), "out_file", eddy, target)
    workflow.connect([
        (inputnode, files, list(MERGED_FILES.items())),
        (inputnode, eddy, [("bval_file", "in_bval"), ("raw_bvec_file", "in_bvec"),
                           *((f, i) for f, i in field.items() if f != "field_file")]),
        (inputnode, collect, [("bval_file", "bval_file"), ("volumes_file", "volumes_file"),
                              ("denoised_file", "reference_file")]),
        (eddy, collect, [("out_corrected", "corrected_file"),
                         ("out_rotated_bvecs", "rotated_bvec_file"),
                         ("out_parameter", "parameter_file"),
                         ("out_outlier_map", "outlier_map_file")]),
        (collect, outputnode, [("dwi_file", "dwi_file"), ("bvec_file", "bvec_file"),
                               *RESULTS.items()]),
    ])  # fmt: skip
    if "topup_acqp_file" in field:
        workflow.connect(inputnode, "topup_acqp_file", files, "topup_acqp_file")
        workflow.connect(files, "topup_index_file", eddy, "in_index")
    else:
        workflow.connect(files, "acqp_file", eddy, "in_acqp")
        workflow.connect(files, "index_file", eddy, "in_index")
    if plan.eddy.slice_groups:
        workflow.connect(files, "slspec_file", eddy, "slspec_file")
    if plan.eddy.has_quad:
        _add_quad(workflow, plan)
    return workflow


def _store(workflow: pe.Workflow, source: str, plan: SeriesPlan) -> pe.Node:
    """Return the node that stores an image of the inputnode for FSL; made once."""
    name = f"store_{source}"
    if (node := workflow.get_node(name)) is None:
        node = pe.Node(StoreForFsl(), name=name, mem_gb=2 * plan.size_gb)
        workflow.connect(workflow.get_node("inputnode"), source, node, "in_file")
    return node


def _add_quad(workflow: pe.Workflow, plan: SeriesPlan) -> None:
    """Add eddy_quad behind eddy."""
    assert plan.eddy is not None
    inputnode, files, eddy = map(workflow.get_node, ("inputnode", "write_fsl_files", "eddy"))
    quad = pe.Node(RunEddyQuad(), name="eddy_quad", mem_gb=4 * plan.size_gb)
    workflow.connect([
        (inputnode, quad, [("bval_file", "in_bval"), ("raw_bvec_file", "in_bvec")]),
        (_store(workflow, "dwi_mask_file", plan), quad, [("out_file", "in_mask")]),
        (files, quad, [("acqp_file", "in_acqp"), ("index_file", "in_index")]),
        (eddy, quad, [("out_base", "base")]),
        (quad, workflow.get_node("outputnode"), [("qc_file", "eddy_qc_file")]),
    ])  # fmt: skip
    if plan.sdc.has_field:
        workflow.connect(_store(workflow, "field_file", plan), "out_file", quad, "field_file")
    if plan.eddy.slice_groups:
        workflow.connect(files, "slspec_file", quad, "slspec_file")


def _describe(plan: SeriesPlan) -> str:
    return name_eddy(DEFAULTS if plan.eddy is None else plan.eddy.options)


ENGINE = HmcEngine(
    builder=init_eddy_wf,
    describe=_describe,
    programs=EDDY,
    resamples=True,
    list_gpu_builds=list_cuda_eddies,
    quality_programs=EDDY_QUAD,
)
