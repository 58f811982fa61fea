"""Stages that read the runs of a series, merge them, and mask their b=0 reference."""

from __future__ import annotations

from typing import Any

import nipype.pipeline.engine as pe

from dmri_fm_workflows.bids.records import UserMask
from dmri_fm_workflows.engines import DENOISE
from dmri_fm_workflows.interfaces.normalise import BringMask, CoregisterReference
from dmri_fm_workflows.interfaces.preprocess import (
    CorrectBias,
    MakeReference,
    MaskBrain,
    MergeRuns,
    ValidateDwi,
)
from dmri_fm_workflows.interfaces.preprocessed import TakeMask
from dmri_fm_workflows.interfaces.records import MergeRecords
from dmri_fm_workflows.interfaces.user_mask import TakeUserMask
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import RUN_FILES, SERIES_FILES, Resources, open_workflow


def init_read_wf(plan: SeriesPlan, resources: Resources, *, name: str = "read_wf") -> pe.Workflow:
    """Read the runs of a series as acquired, without unusable volumes.

    Outputs
    -------
    run_dwi_files, run_bval_files, run_bvec_files
        The runs.
    run_kspace_extents
        Share of k-space that is filled in plane, by run.
    read_record
        Changes to volumes and gradients.
    """
    workflow, _, outputnode = open_workflow(
        name, [], [*RUN_FILES, "run_kspace_extents", "read_record"]
    )
    validate = pe.MapNode(
        ValidateDwi(
            b_scaling=plan.b_scaling,
            is_raw=True,
            unfit_if_filled=_list_unfit(plan),
        ),
        iterfield=[*RUN_FILES.values(), "arrangement", "slice_axis"],
        name="validate",
        mem_gb=plan.size_gb,
    )
    validate.inputs.dwi_file = [str(run.path) for run in plan.series.runs]
    validate.inputs.bval_file = [str(run.bval) for run in plan.series.runs]
    validate.inputs.bvec_file = [str(run.bvec) for run in plan.series.runs]
    validate.inputs.arrangement = [run.gradients.arrangement for run in plan.series.runs]
    validate.inputs.slice_axis = [run.slice_axis for run in plan.series.runs]
    collect = pe.Node(
        MergeRecords(base=_record_fixes(plan)), name="collect_records", run_without_submitting=True
    )
    workflow.connect([
        (validate, outputnode, [(output, field) for field, output in RUN_FILES.items()]),
        (validate, outputnode, [("kspace_extent", "run_kspace_extents")]),
        (validate, collect, [("record", "in_records")]),
        (collect, outputnode, [("record", "read_record")]),
    ])  # fmt: skip
    return workflow


def _list_unfit(plan: SeriesPlan) -> list[str]:
    """Return the options by which the user asked for what does not fit zero-filled images."""
    denoiser = plan.engines.denoise
    needs_all = plan.is_denoiser_named and DENOISE.load(denoiser).needs_full_kspace
    return [*([f"--denoise {denoiser}"] if needs_all else []), *(["--unring"] * plan.unring)]


def _record_fixes(plan: SeriesPlan) -> dict[str, Any]:
    """Return the entry of the sidecar about repaired b-vectors; none where there are none."""
    fixed = {
        run.path.name: {"Components": fix.components, "Repair": fix.name, **fix.conditions}
        for run in plan.series.runs
        if (fix := run.gradient_fix) is not None
    }
    return {"GradientsFixed": fixed} if fixed else {}


def init_read_preprocessed_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "read_preprocessed_wf"
) -> pe.Workflow:
    """Read a series that was corrected before, without unusable volumes.

    Outputs
    -------
    dwi_file, bval_file, bvec_file
        The series.
    biased_dwiref_file
        Mean of its b=0 volumes.
    read_preprocessed_record
        What was left to the input, and changes to volumes and gradients.
    """
    record = "read_preprocessed_record"
    workflow, _, outputnode = open_workflow(
        name, [], [*SERIES_FILES, "biased_dwiref_file", record]
    )
    (run,) = plan.series.runs
    validate = pe.Node(
        ValidateDwi(
            dwi_file=str(run.path),
            bval_file=str(run.bval),
            bvec_file=str(run.bvec),
            b_scaling=plan.b_scaling,
            bvec_frame=run.gradients.frame,
        ),
        name="validate",
        mem_gb=plan.size_gb,
    )
    average = pe.Node(MakeReference(is_aligned=True), name="average_b0", mem_gb=2 * plan.size_gb)
    collect = pe.Node(
        MergeRecords(base=plan.earlier_steps), name="collect_records", run_without_submitting=True
    )
    workflow.connect([
        (validate, outputnode, [(f, f) for f in SERIES_FILES]),
        (validate, average, [(f, f) for f in SERIES_FILES]),
        (validate, collect, [("record", "in_records")]),
        (average, outputnode, [("dwiref_file", "biased_dwiref_file")]),
        (collect, outputnode, [("record", record)]),
    ])  # fmt: skip
    return workflow


def init_merge_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "merge_wf"
) -> pe.Workflow:
    """Merge the runs of a series on one intensity scale.

    Inputs
    ------
    run_dwi_files, run_bval_files, run_bvec_files
        The runs as acquired.
    denoised_files
        The same, denoised.

    Outputs
    -------
    denoised_file, raw_file
        Merged volumes after and before denoising; not resampled.
    bval_file, raw_bvec_file
        Their gradients, before any rotation.
    volumes_file
        Run, phase encoding and readout of each volume.
    run_scales
        Intensity factor of each run.
    merge_record
        Method, with its version.
    """
    outputs = {
        "dwi_file": "denoised_file",
        "raw_file": "raw_file",
        "bval_file": "bval_file",
        "bvec_file": "raw_bvec_file",
        "volumes_file": "volumes_file",
        "run_scales": "run_scales",
        "record": "merge_record",
    }
    workflow, inputnode, outputnode = open_workflow(
        name, [*RUN_FILES, "denoised_files"], outputs.values()
    )
    runs = plan.series.runs
    merge = pe.Node(
        MergeRuns(
            phase_encodings=[run.phase_encoding for run in runs],
            readouts_s=list(plan.readouts_s[: len(runs)]),
            assumed_readouts_s=plan.assumed_readouts_s,
            needs_tensor=plan.has_tensor,
        ),
        name="merge_runs",
        mem_gb=3 * plan.size_gb,
    )
    workflow.connect([
        (inputnode, merge, [("run_dwi_files", "raw_files"), ("run_bval_files", "bval_files"),
                            ("run_bvec_files", "bvec_files"), ("denoised_files", "dwi_files")]),
        (merge, outputnode, list(outputs.items())),
    ])  # fmt: skip
    return workflow


def init_mask_wf(plan: SeriesPlan, resources: Resources, *, name: str = "mask_wf") -> pe.Workflow:
    """Correct the b=0 reference for intensity bias, and mask the brain in it.

    The mask of the user, or of a preprocessed dataset, is taken where there is one. Else, with a
    T1w image, the brain of a first mask is registered to it, to bring its mask here; unless both
    lie in one space.

    Inputs
    ------
    biased_dwiref_file
        b=0 reference.
    t1w_mask_file, t1w_brain_file, to_t1w_acpc_file, from_t1w_acpc_file
        From the T1w image, if there is one and no mask is given. The inverse replaces brain and
        transform of the T1w image where the series lies in its space.
    field_file
        Distortion field, Hz, that moves the user's mask of the distorted image; if there are both.

    Outputs
    -------
    dwiref_file, dwi_brain_file, dwi_mask_file
        b=0 reference, bias-corrected; its brain, and its mask.
    mask_agreement_dice
        Lowest overlap of the mask with a method that counted; not of a mask that is given.
    mask_record
        Method, with its version.
    """
    anatomy: list[str] = []
    if plan.is_masked_by_t1w:
        on_t1w, apart = ["from_t1w_acpc_file"], ["t1w_brain_file", "to_t1w_acpc_file"]
        anatomy = ["t1w_mask_file", *(on_t1w if plan.is_on_t1w else apart)]
    agreement = ["mask_agreement_dice"] if plan.given_mask is None else []
    field = ["field_file"] if plan.series.user_mask is not None and plan.sdc.has_field else []
    workflow, inputnode, outputnode = open_workflow(
        name,
        ["biased_dwiref_file", *anatomy, *field],
        ["dwiref_file", "dwi_brain_file", "dwi_mask_file", *agreement, "mask_record"],
    )
    unbias = pe.Node(CorrectBias(), name="correct_dwiref_bias", mem_gb=0.5)
    if plan.series.user_mask is not None:
        take = _take_user_mask(plan, plan.series.user_mask)
        mask = pe.Node(take, name="mask_dwiref", mem_gb=0.5)
        workflow.connect([(inputnode, mask, [(f, f) for f in field])])
    elif plan.given_mask is not None:
        mask = pe.Node(TakeMask(mask_file=str(plan.given_mask)), name="mask_dwiref", mem_gb=0.5)
    else:
        mask = pe.Node(MaskBrain(contrast="b0"), name="mask_dwiref", mem_gb=2)
        workflow.connect(mask, "agreement_dice", outputnode, "mask_agreement_dice")
    if anatomy:
        _bring_t1w_mask(workflow, plan, unbias, mask)
    workflow.connect([
        (inputnode, unbias, [("biased_dwiref_file", "in_file")]),
        (unbias, mask, [("out_file", "in_file")]),
        (unbias, outputnode, [("out_file", "dwiref_file")]),
        (mask, outputnode, [("brain_file", "dwi_brain_file"), ("mask_file", "dwi_mask_file"),
                            ("record", "mask_record")]),
    ])  # fmt: skip
    return workflow


def _take_user_mask(plan: SeriesPlan, given: UserMask) -> TakeUserMask:
    """Return the interface that takes the user's mask, with the phase encoding of its run."""
    take = TakeUserMask(mask_file=str(given.path), image_name=given.run.path.name)
    if given.run.phase_encoding is not None:
        number = [run.path for run in plan.series.runs].index(given.run.path)
        take.inputs.phase_encoding = given.run.phase_encoding
        take.inputs.readout_s = plan.readouts_s[number]
    return take


def _bring_t1w_mask(
    workflow: pe.Workflow, plan: SeriesPlan, unbias: pe.Node, mask: pe.Node
) -> None:
    """Bring the mask of the T1w image onto the b=0 reference, for the consensus of masks."""
    inputnode = workflow.get_node("inputnode")
    bring = pe.Node(BringMask(), name="bring_t1w_mask", mem_gb=0.5)
    workflow.connect([
        (inputnode, bring, [("t1w_mask_file", "in_file")]),
        (unbias, bring, [("out_file", "reference_file")]),
        (bring, mask, [("out_file", "anatomy_file")]),
    ])  # fmt: skip
    if plan.is_on_t1w:
        workflow.connect(inputnode, "from_t1w_acpc_file", bring, "xfm_file")
        return
    draft = pe.Node(MaskBrain(contrast="b0", is_draft=True), name="draft_dwiref_mask", mem_gb=2)
    align = pe.Node(CoregisterReference(), name="coregister_draft", mem_gb=1)
    workflow.connect([
        (unbias, draft, [("out_file", "in_file")]),
        (draft, align, [("brain_file", "dwi_brain_file")]),
        (inputnode, align, [(f, f) for f in ("t1w_brain_file", "to_t1w_acpc_file")]),
        (align, bring, [("from_acpc_file", "xfm_file")]),
    ])  # fmt: skip
