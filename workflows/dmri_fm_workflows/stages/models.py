"""Stages of the models: tensor fit, tensor networks and encoders of a corrected series."""

from __future__ import annotations

from functools import partial
from typing import Any

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.identity import label_of
from dmri_fm_workflows.interfaces.models import ExtractFeatures, FitTensor, PredictTensor
from dmri_fm_workflows.interfaces.normalise import ResampleMaps
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources, Stage, open_workflow
from dmri_fm_workflows.stages.outputs import (
    FEATURE_OUTPUTS,
    REFINER_MAPS,
    REFINER_OUTPUTS,
    SCALARS,
)

__all__ = [
    "encoder_stage",
    "init_features_wf",
    "init_network_wf",
    "init_tensor_wf",
    "network_stage",
]

_SERIES = ("dwi_file", "bval_file", "bvec_file", "mask_file")
_ACPC = {f"acpc_{f}": f for f in _SERIES}


def network_stage(model: str) -> Stage:
    """Return the stage of a tensor network."""
    return Stage(
        name=label_of(model),
        builder=partial(init_network_wf, model=model),
        outputs=REFINER_OUTPUTS,
        options=("models", "weights", "device", "random_seed"),
    )


def encoder_stage(model: str) -> Stage:
    """Return the stage of an encoder."""
    return Stage(
        name=label_of(model),
        builder=partial(init_features_wf, model=model),
        outputs=FEATURE_OUTPUTS,
        options=("models", "weights", "device", "random_seed"),
    )


def init_tensor_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "tensor_wf"
) -> pe.Workflow:
    """Fit the tensor in ACPC by least squares, and warp its scalars into MNI.

    Inputs
    ------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_mask_file
        Series in ACPC.
    to_mni_file, mni_mask_file
        Transform that resamples ACPC into MNI, and the brain there.

    Outputs
    -------
    tensor_diffusivity_file, tensor_s0_file, tensor_v1_file
        Tensor fit in ACPC.
    tensor_fa_file, tensor_md_file, tensor_ad_file, tensor_rd_file
        Its scalars in ACPC.
    tensor_fa_mni_file, tensor_md_mni_file, tensor_ad_mni_file, tensor_rd_mni_file
        Its scalars in MNI.
    tensor_record
        How the maps were made.
    """
    fit = pe.Node(
        FitTensor(n_threads=resources.omp_nthreads),
        name="fit_tensor",
        n_procs=resources.omp_nthreads,
        mem_gb=3 * plan.size_gb,
    )
    return _maps_wf(name, fit, "tensor", ("diffusivity", "s0", *SCALARS, "v1"))


def init_network_wf(
    plan: SeriesPlan,
    resources: Resources,
    *,
    model: str = "tensor-refiner",
    name: str = "network_wf",
) -> pe.Workflow:
    """Estimate the tensor in ACPC by a network, and warp its scalars into MNI.

    Inputs
    ------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_mask_file
        Series in ACPC.
    to_mni_file, mni_mask_file
        Transform that resamples ACPC into MNI, and the brain there.

    Outputs
    -------
    tensorrefiner_diffusivity_file, tensorrefiner_fa_std_file, tensorrefiner_md_std_file
        Tensor, and standard deviations of its scalars, in ACPC; fields bear the model's label.
    tensorrefiner_fa_file, tensorrefiner_md_file, tensorrefiner_ad_file, tensorrefiner_rd_file
        Its scalars in ACPC.
    tensorrefiner_unfamiliarity_file
        Percentile among the network's training data.
    tensorrefiner_fa_mni_file, tensorrefiner_md_mni_file, tensorrefiner_ad_mni_file
        Its scalars in MNI.
    tensorrefiner_rd_mni_file
        The last of them.
    tensorrefiner_record
        How the maps were made.
    """
    label = label_of(model)
    predict = pe.Node(
        PredictTensor(model=model, **_network_inputs(plan, model)),
        name="predict_tensor",
        mem_gb=3 * plan.size_gb + 1,
    )
    return _maps_wf(name, predict, label, REFINER_MAPS)


def _network_inputs(plan: SeriesPlan, model: str) -> dict[str, Any]:
    """Return the inputs that every network's interface has."""
    own = {"weights": str(plan.weights[model])} if model in plan.weights else {}
    return {"device": plan.engines.device, "seed": plan.random_seed, **own}


def _maps_wf(name: str, maps: pe.Node, label: str, params: tuple[str, ...]) -> pe.Workflow:
    """Return the workflow of a node that makes maps in ACPC; their scalars are warped into MNI."""
    outputs = {f"{p}_file": f"{label}_{p}_file" for p in params}
    in_mni = [f"{label}_{s}_mni_file" for s in SCALARS]
    workflow, inputnode, outputnode = open_workflow(
        name,
        [*_ACPC, "to_mni_file", "mni_mask_file"],
        [*outputs.values(), *in_mni, f"{label}_record"],
    )
    files = pe.Node(niu.Merge(len(SCALARS)), name="list_maps", run_without_submitting=True)
    warp = pe.Node(ResampleMaps(), name="warp_maps", mem_gb=0.5)
    split = pe.Node(
        niu.Split(splits=[1] * len(SCALARS), squeeze=True),
        name="split_maps",
        run_without_submitting=True,
    )
    workflow.connect([
        (inputnode, maps, list(_ACPC.items())),
        (maps, outputnode, [*outputs.items(), ("facts", f"{label}_record")]),
        (maps, files, [(f"{s}_file", f"in{i}") for i, s in enumerate(SCALARS, start=1)]),
        (files, warp, [("out", "in_files")]),
        (inputnode, warp, [("to_mni_file", "xfm_file"), ("mni_mask_file", "mask_file")]),
        (warp, split, [("out_files", "inlist")]),
        (split, outputnode, [(f"out{i}", f) for i, f in enumerate(in_mni, start=1)]),
    ])  # fmt: skip
    return workflow


def init_features_wf(
    plan: SeriesPlan, resources: Resources, *, model: str = "drope", name: str = "features_wf"
) -> pe.Workflow:
    """Extract latent features of a series on the encoder's grid.

    Inputs
    ------
    drope_grid_dwi_file, drope_grid_bval_file, drope_grid_bvec_file, drope_grid_mask_file
        Series on the encoder's grid; fields bear the model's label.

    Outputs
    -------
    drope_scan_file, drope_patch_file
        Scan features, patch features.
    drope_ood
        Score and percentile of the distance to the training features.
    drope_record
        Model, preprocessing and seed, for the sidecars.
    """
    label = label_of(model)
    inputs = {f"{label}_grid_{f}": f for f in _SERIES}
    outputs = {
        "scan_file": f"{label}_scan_file",
        "patch_file": f"{label}_patch_file",
        "ood": f"{label}_ood",
        "facts": f"{label}_record",
    }
    workflow, inputnode, outputnode = open_workflow(name, inputs, outputs.values())
    extract = pe.Node(
        ExtractFeatures(model=model, entities=plan.entities, **_network_inputs(plan, model)),
        name="extract_features",
        mem_gb=4,
    )
    workflow.connect([
        (inputnode, extract, list(inputs.items())),
        (extract, outputnode, list(outputs.items())),
    ])  # fmt: skip
    return workflow
