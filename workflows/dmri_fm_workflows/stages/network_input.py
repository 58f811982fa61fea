"""Stages of the input of tensor networks: noise of the runs, and the volumes as acquired."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.network_input import MapNoise, ResampleChosen
from dmri_fm_workflows.interfaces.records import MergeRecords, MergeRunRecords
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import RUN_FILES, Resources, open_workflow


def init_noise_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "noise_wf"
) -> pe.Workflow:
    """Map the noise of each run as acquired.

    Inputs
    ------
    run_dwi_files, run_bval_files, run_bvec_files
        The runs.
    run_kspace_extents
        Share of k-space that is filled in plane, by run.

    Outputs
    -------
    noise_files
        Standard deviation of one volume's noise, by run.
    noise_record
        Method, with its version.
    """
    inputs = {**RUN_FILES, "run_kspace_extents": "kspace_extent"}
    workflow, inputnode, outputnode = open_workflow(name, inputs, ["noise_files", "noise_record"])
    noise = pe.MapNode(
        MapNoise(), iterfield=list(inputs.values()), name="map_noise", mem_gb=4 * plan.size_gb
    )
    collect = pe.Node(MergeRunRecords(), name="collect_records", run_without_submitting=True)
    workflow.connect([
        (inputnode, noise, list(inputs.items())),
        (noise, collect, [("record", "in_records")]),
        (noise, outputnode, [("noise_file", "noise_files")]),
        (collect, outputnode, [("record", "noise_record")]),
    ])  # fmt: skip
    return workflow


def init_network_input_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "network_input_wf"
) -> pe.Workflow:
    """Resample the b=0 volumes and six directions that tensor networks read, not denoised.

    A motion engine that interpolates by itself, and preprocessing before, leave one series only.

    Inputs
    ------
    raw_file, bval_file, raw_bvec_file
        Merged series as acquired.
    dwi_file, bvec_file
        That one series, instead.
    volumes_file, motion_file, outliers_file
        Phase encoding, transform and outlier slices of each volume; not of a preprocessed series.
    remaining_field_file
        Uncorrected distortion field, Hz, if there is any.
    to_acpc_file
        Transform that resamples the reference into ACPC.
    acpc_bval_file, acpc_bvec_file, acpc_mask_file
        Gradients and brain of the series in ACPC.
    noise_files, run_scales
        Noise and intensity factor of each run; not with such a series.

    Outputs
    -------
    chosen_file
        The volumes in ACPC, b=0 first.
    chosen_noise_file
        Noise of one weighted volume of them; not with such a series.
    choice_file
        Which volumes of the series they are.
    network_input_record
        Treatment of the volumes.
    """
    inputs = _list_inputs(plan)
    outputs = {"dwi_file": "chosen_file", "choice_file": "choice_file"}
    if plan.is_raw_for_networks:
        outputs["noise_file"] = "chosen_noise_file"
    workflow, inputnode, outputnode = open_workflow(
        name, inputs, [*outputs.values(), "network_input_record"]
    )
    resample = _resample_node(plan, resources)
    record = pe.Node(
        MergeRecords(base={"NetworkInput": plan.network_input}),
        name="record_input",
        run_without_submitting=True,
    )
    workflow.connect([
        (inputnode, resample, list(inputs.items())),
        (resample, outputnode, list(outputs.items())),
        (record, outputnode, [("record", "network_input_record")]),
    ])  # fmt: skip
    return workflow


def _list_inputs(plan: SeriesPlan) -> dict[str, str]:
    """Return the inputs of the workflow, with the trait of `ResampleChosen` that each sets."""
    is_raw = plan.is_raw_for_networks
    source = ("raw_file", "raw_bvec_file") if is_raw else ("dwi_file", "bvec_file")
    motion = () if plan.is_preprocessed else ("volumes_file", "motion_file", "outliers_file")
    noise = ("noise_files", "run_scales") if is_raw else ()
    same = (
        "bval_file", *motion, "acpc_bval_file", "acpc_bvec_file", "acpc_mask_file", *noise,
    )  # fmt: skip
    field = {"remaining_field_file": "field_file"} if plan.has_remaining_field else {}
    files = dict(zip(source, ("dwi_file", "bvec_file"), strict=True))
    return files | {name: name for name in same} | {"to_acpc_file": "xfm_file"} | field


def _resample_node(plan: SeriesPlan, resources: Resources) -> pe.Node:
    """Return the node that chooses and resamples the volumes."""
    return pe.Node(
        ResampleChosen(
            unring=plan.unring and plan.is_raw_for_networks,
            order=1 if plan.sloppy else 3,
            seed=plan.random_seed,
            n_threads=resources.omp_nthreads,
        ),
        name="resample_chosen",
        n_procs=resources.omp_nthreads,
        mem_gb=3 * plan.size_gb,
    )
