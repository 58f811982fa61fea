"""Anatomy stage: the T1w image of a session, its brain, ACPC and the template."""

from __future__ import annotations

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm_workflows.bids.prepared import PreparedT1w
from dmri_fm_workflows.interfaces.given_anatomy import LocateHead, TakeTemplate
from dmri_fm_workflows.interfaces.normalise import AlignAcpc, BringMask, RegisterTemplate
from dmri_fm_workflows.interfaces.preprocess import CorrectBias, MaskBrain
from dmri_fm_workflows.interfaces.preprocessed import KeepAcpc, TakeMask
from dmri_fm_workflows.interfaces.records import MergeRecords
from dmri_fm_workflows.interfaces.user_mask import TakeUserMask
from dmri_fm_workflows.outputs.steps import CONTRAST_KEY
from dmri_fm_workflows.plan import SLOPPY_WARNING, SessionPlan
from dmri_fm_workflows.plan.anatomy import SOURCE_KEY
from dmri_fm_workflows.stages.base import Resources, open_workflow

#: Outputs of the alignment with ACPC, and the fields that they become.
ALIGNED = {
    "out_file": "t1w_file",
    "brain_file": "t1w_brain_file",
    "mask_file": "t1w_mask_file",
    "to_acpc_file": "to_t1w_acpc_file",
    "from_acpc_file": "from_t1w_acpc_file",
}

#: Those of them that place the image as acquired, which derivatives may hold in another frame.
PLACED = {f: ALIGNED[f] for f in ("to_acpc_file", "from_acpc_file")}

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
    """Align the T1w image, or a T2w image in its place, to ACPC; register it to the template.

    Of an image that was prepared before only what is missing is done; if it comes from
    `--derivatives`, it is placed by the T1w image as acquired.

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
    prepared_xfm_file
        Transform that resamples the prepared image into ACPC, if its tissue is taken.
    lesion_file
        Lesions in ACPC, if the dataset has a mask of them.
    anat_record
        Method, with its version.
    """
    frame = ["prepared_xfm_file"] if plan.tissue is not None else []
    lesion = ["lesion_file"] if plan.lesion_mask is not None else []
    workflow, _, outputnode = open_workflow(
        name, [], [*ALIGNED.values(), *REGISTERED.values(), *frame, *lesion, "anat_record"]
    )
    assert plan.t1w is not None
    prepared = plan.prepared_t1w or PreparedT1w(path=plan.t1w)
    source = {"source": prepared.by} if prepared.by else {}
    base = {SOURCE_KEY: prepared.by} if prepared.by else {}
    unbias = pe.Node(CorrectBias(in_file=str(plan.t1w)), name="correct_t1w_bias", mem_gb=1)
    if prepared.is_unbiased:
        unbias = pe.Node(niu.IdentityInterface(["out_file"]), name="take_t1w")
        unbias.inputs.out_file = str(plan.t1w)
    is_t1w = plan.contrast == "T1w"
    base |= {} if is_t1w else {CONTRAST_KEY: plan.contrast}
    base |= plan.lesion_masking
    mask = pe.Node(MaskBrain(contrast="t1w" if is_t1w else "b0"), name="mask_t1w", mem_gb=2)
    if plan.user_t1w_mask is not None:
        # Series have the record of their T1w image, and a mask of their own.
        of_t1w = {"image_name": plan.t1w.name, "file_key": "T1wMaskFile"}
        own = TakeUserMask(mask_file=str(plan.user_t1w_mask), **of_t1w)
        mask = pe.Node(own, name="mask_t1w", mem_gb=0.5)
    elif prepared.mask is not None:
        taken = TakeMask(mask_file=str(prepared.mask), **source)
        mask = pe.Node(taken, name="mask_t1w", mem_gb=0.5)
    align = pe.Node(KeepAcpc() if plan.is_acpc else AlignAcpc(), name="align_acpc", mem_gb=1)
    register = _template_node(plan)
    has_acquired = prepared.acquired is not None
    n_records = 3 if has_acquired else 2
    records = pe.Node(niu.Merge(n_records), name="list_records", run_without_submitting=True)
    merge = pe.Node(
        MergeRecords(base={**base, "Warnings": [SLOPPY_WARNING] if plan.sloppy else []}),
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
        (align, outputnode, [(f, o) for f, o in ALIGNED.items() if f not in PLACED]),
        (register, outputnode, list(REGISTERED.items())),
        (merge, outputnode, [("record", "anat_record")]),
        (align, outputnode, [("to_acpc_file", field) for field in frame]),
    ])  # fmt: skip
    if plan.template.taken is not None:
        workflow.connect(align, "to_acpc_file", register, "to_acpc_file")
    place = align
    if has_acquired:
        place = _add_acquired(workflow, prepared, unbias)
        workflow.connect(place, "record", records, "in3")
    workflow.connect([(place, outputnode, list(PLACED.items()))])
    if plan.lesion_mask is not None:
        _add_lesions(workflow, plan, place)
    return workflow


def _add_lesions(workflow: pe.Workflow, plan: SessionPlan, place: pe.Node) -> None:
    """Bring the mask of lesions into ACPC, and leave them out of the registration."""
    align, register, outputnode = map(
        workflow.get_node, ("align_acpc", "register_template", "outputnode")
    )
    bring = pe.Node(BringMask(in_file=str(plan.lesion_mask)), name="bring_lesions", mem_gb=0.5)
    workflow.connect([
        (align, bring, [("brain_file", "reference_file")]),
        (place, bring, [("to_acpc_file", "xfm_file")]),
        (bring, outputnode, [("out_file", "lesion_file")]),
    ])  # fmt: skip
    if plan.template.taken is None:
        workflow.connect(bring, "out_file", register, "lesion_file")


def _add_acquired(workflow: pe.Workflow, prepared: PreparedT1w, head: pe.Node) -> pe.Node:
    """Add the node that finds a prepared head in the image as acquired; return it."""
    place = pe.Node(LocateHead(acquired_file=str(prepared.acquired)), name="locate_head", mem_gb=1)
    mask, align = map(workflow.get_node, ("mask_t1w", "align_acpc"))
    workflow.connect([
        (head, place, [("out_file", "in_file")]),
        (mask, place, [("mask_file", "mask_file")]),
        (align, place, [("to_acpc_file", "to_acpc_file")]),
    ])  # fmt: skip
    return place


def _template_node(plan: SessionPlan) -> pe.Node:
    """Return the node that registers the brain to the template, or takes the transforms."""
    taken = plan.template.taken
    interface = RegisterTemplate(method=plan.normalisation, sloppy=plan.sloppy)
    if taken is not None:
        interface = TakeTemplate(
            method=taken.method,
            to_template_file=str(taken.to_template),
            from_template_file=str(taken.from_template),
            title=plan.template.name,
        )
    return pe.Node(interface, name="register_template", mem_gb=2)
