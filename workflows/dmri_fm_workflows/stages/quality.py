"""Stages that judge a series in ACPC: its gradients, its b-values and its quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import nipype.pipeline.engine as pe

from dmri_fm.identity import label_of
from dmri_fm_workflows.bids.gradient_fixes import describe_run
from dmri_fm_workflows.interfaces.gradient_check import CheckGradients
from dmri_fm_workflows.interfaces.models import CheckFreeWater
from dmri_fm_workflows.interfaces.quality import AssessQuality
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import ACPC_FILES, Resources, open_workflow


def init_gradient_check_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "gradient_check_wf"
) -> pe.Workflow:
    """Check the b-vectors against the fibres.

    Inputs
    ------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_mask_file
        Series in ACPC.
    to_acpc_file
        Transform that resamples the reference into ACPC.
    volumes_file
        Run of each volume, where runs were merged.

    Outputs
    -------
    fixed_bvec_files
        Corrected table of the raw runs, where one of theirs is found wrong; else none.
    gradient_check_record
        Result of the check.
    """
    runs = plan.series.runs
    check = pe.Node(
        CheckGradients(
            source_affine=runs[0].affine.tolist(), source_frame=runs[0].gradients.frame
        ),
        name="check_gradients",
        mem_gb=3 * plan.size_gb,
    )
    if not plan.is_preprocessed:
        check.inputs.source_bval_files = [str(run.bval) for run in runs]
        check.inputs.source_bvec_files = [str(run.bvec) for run in runs]
        check.inputs.arrangements = [run.gradients.arrangement for run in runs]
        check.inputs.conditions = [
            describe_run(run.entities, run.metadata, run.affine) for run in runs
        ]
    is_merged = len(runs) > 1
    return _check_wf(
        name,
        check,
        record="gradient_check_record",
        inputs={"to_acpc_file": "xfm_file"}
        | ({"volumes_file": "volumes_file"} if is_merged else {}),
        outputs=["fixed_bvec_files"],
    )


def init_free_water_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "free_water_wf"
) -> pe.Workflow:
    """Compare MD of the ventricles with that of free water.

    Inputs
    ------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_mask_file
        Series in ACPC.

    Outputs
    -------
    free_water_record
        Result of the check.
    """
    assert plan.length_scaling is not None
    method, common_length = plan.length_scaling
    check = pe.Node(CheckFreeWater(method=method), name="check_free_water")
    if common_length is not None:
        check.inputs.common_length = common_length
    return _check_wf(name, check, record="free_water_record")


def _check_wf(
    name: str,
    check: pe.Node,
    *,
    record: str,
    inputs: Mapping[str, str] = MappingProxyType({}),
    outputs: Sequence[str] = (),
) -> pe.Workflow:
    """Return the workflow of a check of the series in ACPC, which hands on its record.

    Further inputs of the check, by field, and further outputs are connected as well.
    """
    given = ACPC_FILES | dict(inputs)
    workflow, inputnode, outputnode = open_workflow(name, given, [*outputs, record])
    workflow.connect([
        (inputnode, check, list(given.items())),
        (check, outputnode, [*((o, o) for o in outputs), ("record", record)]),
    ])  # fmt: skip
    return workflow


def init_quality_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "quality_wf"
) -> pe.Workflow:
    """Measure the quality of a series, raw and preprocessed.

    Inputs
    ------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_mask_file
        Series in ACPC.
    raw_file, bval_file, raw_bvec_file, dwi_mask_file, motion_file, outliers_file
        Merged series as acquired, with the estimates of motion; not of a preprocessed series.
    to_acpc_file
        Transform that resamples the reference into ACPC; likewise.
    run_kspace_extents
        Share of k-space that is filled in plane, by run; likewise.
    eddy_qc_file
        Measures of eddy_quad, where it ran.
    registration_dice
        Overlap with the template's brain.
    mask_agreement_dice
        Lowest overlap of the methods of the mask; not of a mask that is given.
    tensor_diffusivity_file
        Fitted tensor, if there is one.
    <label>_diffusivity_file, <label>_ood_file
        Tensor of each network, and out-of-distribution percentile among its training data.
    <label>_ood
        Score and percentile of the distance to the training features, of each encoder.

    Outputs
    -------
    qc_file, qc_record
        One row of quality measures, and the descriptions of its columns.
    cnr_files, cnr_record
        Contrast-to-noise ratio, a volume for each shell, none where directions are too few; and
        the shells.
    """
    inputs = {**ACPC_FILES, "registration_dice": "registration_dice"}
    if plan.given_mask is None:
        inputs["mask_agreement_dice"] = "mask_agreement_dice"
    if plan.eddy is not None and plan.eddy.has_quad:
        inputs["eddy_qc_file"] = "eddy_qc_file"
    if not plan.is_preprocessed:
        inputs |= {
            "raw_file": "raw_file",
            "bval_file": "raw_bval_file",
            "raw_bvec_file": "raw_bvec_file",
            "dwi_mask_file": "raw_mask_file",
            "to_acpc_file": "to_acpc_file",
            "motion_file": "motion_file",
            "outliers_file": "outliers_file",
            "run_kspace_extents": "kspace_extents",
        }
    of_models = ["tensor_diffusivity_file"] if plan.has_tensor else []
    for network in plan.networks:
        of_models += [
            f"{label_of(network)}_{of}_file"
            for of in ("diffusivity", "ood")
            if of in plan.maps[network]
        ]
    of_models += [f"{label_of(encoder)}_ood" for encoder in plan.encoders]
    inputs |= {field: field for field in of_models}
    outputs = {"qc_file": "qc_file", "record": "qc_record"}
    outputs |= {field: field for field in ("cnr_files", "cnr_record")}
    workflow, inputnode, outputnode = open_workflow(name, inputs, outputs.values())
    quality = pe.Node(
        AssessQuality(
            plan.networks,
            plan.encoders,
            entities=plan.entities,
            not_measured=plan.not_measured,
        ),
        name="assess_quality",
        mem_gb=4 * plan.size_gb,
    )
    if not plan.is_preprocessed:
        quality.inputs.sdc_method = plan.sdc.method
        quality.inputs.run_sizes = list(plan.run_sizes)
    workflow.connect([
        (inputnode, quality, list(inputs.items())),
        (quality, outputnode, list(outputs.items())),
    ])  # fmt: skip
    return workflow
