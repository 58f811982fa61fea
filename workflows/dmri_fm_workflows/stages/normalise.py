"""Normalise stage: reference to anatomy or template, and the one resampling."""

from __future__ import annotations

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.identity import identity, label_of
from dmri_fm_workflows.interfaces.normalise import (
    AlignAcpc,
    CoregisterReference,
    RegisterTemplate,
    ResampleDwi,
)
from dmri_fm_workflows.interfaces.preprocessed import (
    KeepAcpc,
    ResampleDeviation,
    TakeT1wAlignment,
)
from dmri_fm_workflows.interfaces.records import MergeRecords
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.anat import REGISTERED
from dmri_fm_workflows.stages.base import SERIES_FILES, Resources, open_workflow

#: Outputs of the resampling into each space.
RESAMPLED = ("dwi_file", "bval_file", "bvec_file", "b_file", "mask_file", "dwiref_file")

#: Outputs that every model takes on its own grid.
MODEL_INPUTS = ("dwi_file", "bval_file", "bvec_file", "mask_file")


def model_inputs(plan: SeriesPlan, encoder: str) -> tuple[str, ...]:
    """Return the outputs that an encoder takes: rotations, too, if it reads those of a warp."""
    has_rotations = plan.normalisation == "syn" and identity(encoder).extraction.reads_rotations
    return (*MODEL_INPUTS, *(("rotations_file", "rotations_record") if has_rotations else ()))


def init_normalise_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "normalise_wf"
) -> pe.Workflow:
    """Bring a series into ACPC and MNI, each by one interpolation of `dwi_file`.

    Without a T1w image the reference is aligned to ACPC and registered to the template itself. A
    preprocessed series that lies in ACPC, or in the space of its T1w image, is left there.

    Inputs
    ------
    dwi_file, bval_file, bvec_file
        Series.
    volumes_file, motion_file
        Estimates of motion; not of a preprocessed series.
    remaining_field_file
        Uncorrected distortion field, Hz, if there is any.
    bias_file
        Receive-field bias to divide out, if asked for; encoders read the series with it.
    dwiref_file, dwi_brain_file, dwi_mask_file
        Reference, its brain and mask; the first only without a T1w image, the second only where
        it is registered to one.
    t1w_brain_file, to_t1w_acpc_file, from_t1w_acpc_file, to_mni_file
        From the anatomy, if there is one; the inverse only where nothing is registered to it.

    Outputs
    -------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_b_file, acpc_mask_file, acpc_dwiref_file
        The series in ACPC.
    mni_dwi_file, mni_bval_file, mni_bvec_file, mni_b_file, mni_mask_file, mni_dwiref_file
        The series in MNI, 2 mm.
    <label>_grid_dwi_file, <label>_grid_bval_file, <label>_grid_bvec_file, <label>_grid_mask_file
        The series on the grid of each encoder, by its label.
    <label>_grid_rotations_file, <label>_grid_rotations_record
        Rotations of directions by the warp to the template, and the number of voxels in which it
        folds, for encoders that read them.
    to_acpc_file, from_acpc_file
        Transforms between the reference and ACPC.
    to_mni_file, from_mni_file, mni_brain_file, template_file, template_mask_file
        Of the series' own registration to the template, where there is no anatomy.
    registration_dice
        Overlap of its brain with the template's.
    normalise_record
        Method, with its version.
    """
    series = [*SERIES_FILES, *([] if plan.is_preprocessed else ["volumes_file", "motion_file"])]
    field = {"remaining_field_file": "field_file"} if plan.has_remaining_field else {}
    bias = ["bias_file"] if plan.unbias else []
    aligned = ["dwiref_file"]
    if plan.has_t1w:
        own = "from_t1w_acpc_file" if plan.is_on_t1w else "dwi_brain_file"
        aligned = [own, "t1w_brain_file", "to_t1w_acpc_file", "to_mni_file"]
    grids: dict[str, tuple[str, ...]] = {"acpc": RESAMPLED, "mni": RESAMPLED}
    encoders = {f"{label_of(e)}_grid": e for e in plan.encoders}
    grids |= {grid: model_inputs(plan, encoder) for grid, encoder in encoders.items()}
    workflow, inputnode, outputnode = open_workflow(
        name,
        [*series, *field, *bias, "dwi_mask_file", *aligned],
        [
            *(f"{grid}_{output}" for grid, outputs in grids.items() for output in outputs),
            "to_acpc_file",
            "from_acpc_file",
            *(() if plan.has_t1w else REGISTERED.values()),
            "normalise_record",
        ],
    )
    align, to_mni, record = _add_alignment(workflow, plan)
    records = pe.Node(niu.Merge(2), name="list_records", run_without_submitting=True)
    merge = pe.Node(MergeRecords(), name="merge_records", run_without_submitting=True)
    workflow.connect([
        (align, outputnode, [(f, f) for f in ("to_acpc_file", "from_acpc_file")]),
        (record, records, [("record", "in1")]),
        (records, merge, [("out", "in_records")]),
        (merge, outputnode, [("record", "normalise_record")]),
    ])  # fmt: skip
    for grid, outputs in grids.items():
        resample = _resample_node(plan, resources, grid, encoder=encoders.get(grid))
        if grid == "acpc":
            workflow.connect(resample, "record", records, "in2")
        chain = pe.Node(
            niu.Merge(1 if grid == "acpc" else 2),
            name=f"chain_{grid}",
            run_without_submitting=True,
        )
        if grid not in encoders:
            workflow.connect([(inputnode, resample, [(f, f) for f in bias])])
        workflow.connect(align, "to_acpc_file", chain, "in1")
        if grid != "acpc":
            workflow.connect(to_mni, "to_mni_file", chain, "in2")
        workflow.connect([
            (inputnode, resample, [*((f, f) for f in series), *field.items(),
                                   ("dwi_mask_file", "mask_file")]),
            (chain, resample, [("out", "xfm_files")]),
            (resample, outputnode, [(f, f"{grid}_{f}") for f in outputs]),
        ])  # fmt: skip
    return workflow


def init_deviation_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "deviation_wf"
) -> pe.Workflow:
    """Bring the deviation of the gradient coils into ACPC.

    Inputs
    ------
    to_acpc_file
        Transform that resamples the reference into ACPC.
    acpc_mask_file
        Brain of the series in ACPC, gives the grid.

    Outputs
    -------
    acpc_deviation_file
        Deviation of the gradient coils, RAS+, nine volumes.
    """
    inputs = {"to_acpc_file": "xfm_file", "acpc_mask_file": "mask_file"}
    workflow, inputnode, outputnode = open_workflow(name, inputs, ["acpc_deviation_file"])
    assert plan.preprocessing is not None
    turn = pe.Node(
        ResampleDeviation(deviation_file=str(plan.preprocessing.gradient_deviation)),
        name="resample_deviation",
        mem_gb=1,
    )
    workflow.connect([
        (inputnode, turn, list(inputs.items())),
        (turn, outputnode, [("out_file", "acpc_deviation_file")]),
    ])  # fmt: skip
    return workflow


def _resample_node(
    plan: SeriesPlan, resources: Resources, grid: str, *, encoder: str | None
) -> pe.Node:
    """Return the node of one grid: `acpc`, `mni`, or that of an encoder."""
    resample = pe.Node(
        ResampleDwi(
            grid="features" if encoder else grid,
            order=1 if plan.sloppy else 3,
            n_threads=resources.omp_nthreads,
        ),
        name=f"resample_{grid}",
        n_procs=resources.omp_nthreads,
        mem_gb=6 * plan.size_gb,
    )
    if encoder:
        resample.inputs.model = encoder
        resample.inputs.has_rotations = "rotations_file" in model_inputs(plan, encoder)
    if grid == "acpc":
        resample.inputs.keeps_voxels = plan.keeps_voxels
    if grid == "acpc" and plan.voxel_size_mm is not None:
        resample.inputs.voxel_size_mm = plan.voxel_size_mm
    return resample


def _add_alignment(workflow: pe.Workflow, plan: SeriesPlan) -> tuple[pe.Node, pe.Node, pe.Node]:
    """Add the alignment; return the nodes with transforms to ACPC, to MNI, and the record."""
    inputnode, outputnode = map(workflow.get_node, ("inputnode", "outputnode"))
    if plan.is_on_t1w:
        align = pe.Node(TakeT1wAlignment(), name="take_t1w_alignment", mem_gb=0.5)
        workflow.connect([
            (inputnode, align, [(f, f) for f in (
                "dwi_mask_file", "t1w_brain_file", "to_t1w_acpc_file", "from_t1w_acpc_file")]),
        ])  # fmt: skip
        return align, inputnode, align
    if plan.has_t1w:
        register = CoregisterReference(contrast=plan.contrast)
        align = pe.Node(register, name="coregister_t1w", mem_gb=1)
        workflow.connect([
            (inputnode, align, [(f, f) for f in (
                "dwi_brain_file", "t1w_brain_file", "to_t1w_acpc_file")]),
        ])  # fmt: skip
        return align, inputnode, align
    align = pe.Node(KeepAcpc() if plan.is_in_acpc else AlignAcpc(), name="align_acpc", mem_gb=1)
    register = pe.Node(
        RegisterTemplate(method=plan.normalisation, sloppy=plan.sloppy),
        name="register_template",
        mem_gb=2,
    )
    workflow.connect([
        (inputnode, align, [("dwiref_file", "in_file"), ("dwi_mask_file", "mask_file")]),
        (align, register, [("brain_file", "brain_file"), ("mask_file", "mask_file")]),
        (register, outputnode, list(REGISTERED.items())),
    ])  # fmt: skip
    return align, register, register
