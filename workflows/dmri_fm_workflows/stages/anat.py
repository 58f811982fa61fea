"""Anatomy stage: the T1w image of a session, its brain, ACPC and the template."""

from __future__ import annotations

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm_workflows.bids.prepared import PreparedT1w
from dmri_fm_workflows.interfaces.normalise import AlignAcpc, RegisterTemplate
from dmri_fm_workflows.interfaces.preprocess import CorrectBias, MaskBrain
from dmri_fm_workflows.interfaces.preprocessed import KeepAcpc, TakeMask
from dmri_fm_workflows.interfaces.records import MergeRecords
from dmri_fm_workflows.interfaces.user_mask import TakeUserMask
from dmri_fm_workflows.plan import SLOPPY_WARNING, SessionPlan
from dmri_fm_workflows.stages.base import Resources, open_workflow

#: Outputs of the alignment with ACPC, and the fields that they become.
ALIGNED = {
    "out_file": "t1w_file",
    "brain_file": "t1w_brain_file",
    "mask_file": "t1w_mask_file",
    "to_acpc_file": "to_t1w_acpc_file",
    "from_acpc_file": "from_t1w_acpc_file",
}

#: The same of the registration to the template.
REGISTERED = {
    "to_mni_file": "to_mni_file",
    "from_mni_file": "from_mni_file",
    "brain_file": "mni_brain_file",
    "template_file": "template_file",
    "template_mask_file": "template_mask_file",
    "dice": "registration_dice",
}


def init_anat_wf(plan: SessionPlan, resources: Resources, *, name: str = "anat_wf") -> pe.Workflow:
    """Align the T1w image to ACPC and register it to the template.

    Of an image of a preprocessed dataset only what is missing is done.

    Outputs
    -------
    t1w_file, t1w_brain_file, t1w_mask_file
        Bias-corrected image, brain and mask in ACPC.
    to_t1w_acpc_file, from_t1w_acpc_file
        Transforms between the T1w image and ACPC.
    to_mni_file, from_mni_file
        Transforms between ACPC and MNI.
    mni_brain_file, template_file, template_mask_file
        Brain in MNI, 2 mm; template and its brain mask.
    registration_dice
        Overlap of the brain with the template's.
    anat_record
        Method, with its version.
    """
    workflow, _, outputnode = open_workflow(
        name, [], [*ALIGNED.values(), *REGISTERED.values(), "anat_record"]
    )
    assert plan.t1w is not None
    prepared = plan.prepared_t1w or PreparedT1w(path=plan.t1w)
    unbias = pe.Node(CorrectBias(in_file=str(plan.t1w)), name="correct_t1w_bias", mem_gb=1)
    if prepared.is_unbiased:
        unbias = pe.Node(niu.IdentityInterface(["out_file"]), name="take_t1w")
        unbias.inputs.out_file = str(plan.t1w)
    mask = pe.Node(MaskBrain(contrast="t1w"), name="mask_t1w", mem_gb=2)
    if plan.user_t1w_mask is not None:
        # Series have the record of their T1w image, and a mask of their own.
        of_t1w = {"image_name": plan.t1w.name, "file_key": "T1wMaskFile"}
        own = TakeUserMask(mask_file=str(plan.user_t1w_mask), **of_t1w)
        mask = pe.Node(own, name="mask_t1w", mem_gb=0.5)
    elif prepared.mask is not None:
        mask = pe.Node(TakeMask(mask_file=str(prepared.mask)), name="mask_t1w", mem_gb=0.5)
    align = pe.Node(KeepAcpc() if plan.is_acpc else AlignAcpc(), name="align_acpc", mem_gb=1)
    register = pe.Node(
        RegisterTemplate(method=plan.normalisation, sloppy=plan.sloppy),
        name="register_template",
        mem_gb=2,
    )
    records = pe.Node(niu.Merge(2), name="list_records", run_without_submitting=True)
    merge = pe.Node(
        MergeRecords(base={"Warnings": [SLOPPY_WARNING] if plan.sloppy else []}),
        name="merge_records",
        run_without_submitting=True,
    )
    workflow.connect([
        (unbias, mask, [("out_file", "in_file")]),
        (unbias, align, [("out_file", "in_file")]),
        (mask, align, [("mask_file", "mask_file")]),
        (align, register, [("brain_file", "brain_file"), ("mask_file", "mask_file")]),
        (mask, records, [("record", "in1")]),
        (register, records, [("record", "in2")]),
        (records, merge, [("out", "in_records")]),
        (align, outputnode, list(ALIGNED.items())),
        (register, outputnode, list(REGISTERED.items())),
        (merge, outputnode, [("record", "anat_record")]),
    ])  # fmt: skip
    return workflow
