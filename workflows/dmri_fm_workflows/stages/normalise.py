"""Normalise stage: anatomy to template, reference to anatomy, and the one resampling."""

from __future__ import annotations

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.identity import label_of
from dmri_fm_workflows.interfaces.facts import MergeFacts
from dmri_fm_workflows.interfaces.normalise import (
    AlignAcpc,
    CoregisterReference,
    RegisterTemplate,
    ResampleDwi,
)
from dmri_fm_workflows.interfaces.preprocess import CorrectBias, MaskBrain
from dmri_fm_workflows.plan import SLOPPY_WARNING

__all__ = ["init_anat_wf", "init_normalise_wf"]


def init_anat_wf(*, normalisation: str, sloppy: bool, name: str = "anat_wf") -> pe.Workflow:
    """Align the T1w image to ACPC and register it to the template.

    Parameters
    ----------
    normalisation
        `affine` or `syn`.
    sloppy
        Coarse and quick, for tests.
    name
        Name of the workflow.

    Inputs
    ------
    t1w_file
        T1w image as acquired.

    Outputs
    -------
    t1w_file, brain_file, mask_file
        Bias-corrected image, brain and mask in ACPC.
    to_acpc_file, from_acpc_file
        Transforms between the T1w image and ACPC.
    to_mni_file, from_mni_file
        Transforms between ACPC and MNI.
    mni_brain_file, template_file, template_mask_file
        Brain in MNI, 2 mm; template and its brain mask.
    dice
        Overlap of the brain with the template's.
    facts
        What ran.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(["t1w_file"]), name="inputnode")
    outputnode = pe.Node(
        niu.IdentityInterface(
            [
                "t1w_file",
                "brain_file",
                "mask_file",
                "to_acpc_file",
                "from_acpc_file",
                "to_mni_file",
                "from_mni_file",
                "mni_brain_file",
                "template_file",
                "template_mask_file",
                "dice",
                "facts",
            ]
        ),
        name="outputnode",
    )
    unbias = pe.Node(CorrectBias(), name="correct_t1w_bias", mem_gb=1)
    mask = pe.Node(MaskBrain(contrast="t1w"), name="mask_t1w", mem_gb=2)
    align = pe.Node(AlignAcpc(), name="align_acpc", mem_gb=1)
    register = pe.Node(
        RegisterTemplate(method=normalisation, sloppy=sloppy),
        name="register_template",
        mem_gb=2,
    )
    facts = pe.Node(niu.Merge(2), name="list_facts", run_without_submitting=True)
    merge_facts = pe.Node(
        MergeFacts(base={"Warnings": [SLOPPY_WARNING] if sloppy else []}),
        name="merge_facts",
        run_without_submitting=True,
    )
    workflow.connect([
        (inputnode, unbias, [("t1w_file", "in_file")]),
        (unbias, mask, [("out_file", "in_file")]),
        (unbias, align, [("out_file", "in_file")]),
        (mask, align, [("mask_file", "mask_file")]),
        (align, register, [("brain_file", "brain_file"), ("mask_file", "mask_file")]),
        (mask, facts, [("facts", "in1")]),
        (register, facts, [("facts", "in2")]),
        (facts, merge_facts, [("out", "in_facts")]),
    ])  # fmt: skip
    workflow.connect([
        (align, outputnode, [("out_file", "t1w_file"), ("brain_file", "brain_file"),
                             ("mask_file", "mask_file"), ("to_acpc_file", "to_acpc_file"),
                             ("from_acpc_file", "from_acpc_file")]),
        (register, outputnode, [("to_mni_file", "to_mni_file"),
                                ("from_mni_file", "from_mni_file"),
                                ("brain_file", "mni_brain_file"),
                                ("template_file", "template_file"),
                                ("template_mask_file", "template_mask_file"),
                                ("dice", "dice")]),
        (merge_facts, outputnode, [("facts", "facts")]),
    ])  # fmt: skip
    return workflow


def init_normalise_wf(
    *,
    has_t1w: bool,
    normalisation: str,
    sloppy: bool,
    voxel_size_mm: float | None,
    encoders: tuple[str, ...],
    omp_nthreads: int,
    mem_gb: float,
    name: str = "normalise_wf",
) -> pe.Workflow:
    """Bring a series into ACPC and MNI, each by one interpolation of what `dwi_file` holds.

    Parameters
    ----------
    has_t1w
        Whether the reference is registered to a T1w image; if not, it is aligned to the
        template itself.
    normalisation
        `affine` or `syn`; used without a T1w image.
    sloppy
        Coarse and quick, for tests.
    voxel_size_mm
        Voxel size in ACPC; None for the series' own.
    encoders
        Encoders on whose grids the series is also resampled.
    omp_nthreads
        Threads a node may use.
    mem_gb
        Size of the merged series, GB.
    name
        Name of the workflow.

    Inputs
    ------
    dwi_file, bval_file, bvec_file, volumes_file, motion_file, field_file
        From the preprocess stage.
    dwiref_file, dwi_brain_file, dwi_mask_file
        Reference, its brain and mask.
    t1w_brain_file, to_t1w_acpc_file, to_mni_file
        From the anatomy, if there is one.

    Outputs
    -------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_b_file, acpc_mask_file, acpc_dwiref_file
        The series in ACPC.
    mni_dwi_file, mni_bval_file, mni_bvec_file, mni_b_file, mni_mask_file, mni_dwiref_file
        The series in MNI, 2 mm.
    <label>_grid_dwi_file, <label>_grid_bval_file, <label>_grid_bvec_file, <label>_grid_b_file,
    <label>_grid_mask_file, <label>_grid_dwiref_file
        The series on the grid of each encoder, by its label.
    to_acpc_file, from_acpc_file, to_mni_file
        Transforms; the one to MNI is the anatomy's where there is one.
    from_mni_file, mni_brain_file, template_file, template_mask_file, dice
        Of the series' own registration to the template, where there is no anatomy.
    facts
        What ran.
    """
    workflow = pe.Workflow(name=name)
    series_fields = ["dwi_file", "bval_file", "bvec_file", "volumes_file", "motion_file",
                     "field_file"]  # fmt: skip
    inputnode = pe.Node(
        niu.IdentityInterface(
            [
                *series_fields,
                "dwiref_file",
                "dwi_brain_file",
                "dwi_mask_file",
                "t1w_brain_file",
                "to_t1w_acpc_file",
                "to_mni_file",
            ]
        ),
        name="inputnode",
    )
    encoder_grids = {f"{label_of(encoder)}_grid": encoder for encoder in encoders}
    grids = ["acpc", "mni", *encoder_grids]
    resampled = ("dwi_file", "bval_file", "bvec_file", "b_file", "mask_file", "dwiref_file")
    outputnode = pe.Node(
        niu.IdentityInterface(
            [
                *(f"{grid}_{field}" for grid in grids for field in resampled),
                "to_acpc_file",
                "from_acpc_file",
                "to_mni_file",
                "from_mni_file",
                "mni_brain_file",
                "template_file",
                "template_mask_file",
                "dice",
                "facts",
            ]
        ),
        name="outputnode",
    )
    merge_facts = pe.Node(MergeFacts(), name="merge_facts", run_without_submitting=True)
    facts = pe.Node(niu.Merge(3), name="list_facts", run_without_submitting=True)
    workflow.connect(facts, "out", merge_facts, "in_facts")
    workflow.connect(merge_facts, "facts", outputnode, "facts")
    if has_t1w:
        align = pe.Node(CoregisterReference(), name="coregister_t1w", mem_gb=1)
        to_mni, to_mni_field = inputnode, "to_mni_file"
        workflow.connect([
            (inputnode, align, [("dwi_brain_file", "dwi_brain_file"),
                                ("t1w_brain_file", "t1w_brain_file"),
                                ("to_t1w_acpc_file", "to_t1w_acpc_file")]),
            (inputnode, outputnode, [("to_mni_file", "to_mni_file")]),
            (align, facts, [("facts", "in1")]),
        ])  # fmt: skip
    else:
        align = pe.Node(AlignAcpc(), name="align_acpc", mem_gb=1)
        register = pe.Node(
            RegisterTemplate(method=normalisation, sloppy=sloppy),
            name="register_template",
            mem_gb=2,
        )
        to_mni, to_mni_field = register, "to_mni_file"
        workflow.connect([
            (inputnode, align, [("dwiref_file", "in_file"), ("dwi_mask_file", "mask_file")]),
            (align, register, [("brain_file", "brain_file"), ("mask_file", "mask_file")]),
            (register, facts, [("facts", "in2")]),
            (register, outputnode, [("to_mni_file", "to_mni_file"),
                                    ("from_mni_file", "from_mni_file"),
                                    ("brain_file", "mni_brain_file"),
                                    ("template_file", "template_file"),
                                    ("template_mask_file", "template_mask_file"),
                                    ("dice", "dice")]),
        ])  # fmt: skip
    workflow.connect([
        (align, outputnode, [("to_acpc_file", "to_acpc_file"),
                             ("from_acpc_file", "from_acpc_file")]),
    ])  # fmt: skip
    for grid in grids:
        resample = pe.Node(
            ResampleDwi(
                grid="features" if grid in encoder_grids else grid,
                order=1 if sloppy else 3,
                n_threads=omp_nthreads,
            ),
            name=f"resample_{grid}",
            n_procs=omp_nthreads,
            mem_gb=6 * mem_gb,
        )
        if grid == "acpc" and voxel_size_mm is not None:
            resample.inputs.voxel_size_mm = voxel_size_mm
        if grid in encoder_grids:
            resample.inputs.model = encoder_grids[grid]
        if grid == "acpc":
            workflow.connect(resample, "facts", facts, "in3")
        chain = pe.Node(
            niu.Merge(1 if grid == "acpc" else 2),
            name=f"chain_{grid}",
            run_without_submitting=True,
        )
        workflow.connect(align, "to_acpc_file", chain, "in1")
        if grid != "acpc":
            workflow.connect(to_mni, to_mni_field, chain, "in2")
        workflow.connect([
            (inputnode, resample, [*((f, f) for f in series_fields),
                                   ("dwi_mask_file", "mask_file")]),
            (chain, resample, [("out", "xfm_files")]),
            (resample, outputnode, [(f, f"{grid}_{f}") for f in resampled]),
        ])  # fmt: skip
    return workflow
