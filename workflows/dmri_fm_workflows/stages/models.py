"""Models stage: tensor fit, tensor network and encoder's features of a corrected series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm_workflows.interfaces.models import (
    CheckGradients,
    ExtractFeatures,
    FitTensor,
    PredictTensor,
)
from dmri_fm_workflows.interfaces.normalise import ResampleMaps
from dmri_fm_workflows.stages.outputs import REFINER_MAPS, SCALARS

__all__ = ["init_features_wf", "init_models_wf"]

_ACPC_FIELDS = ("dwi_file", "bval_file", "bvec_file", "mask_file")


def init_models_wf(
    *,
    networks: tuple[str, ...],
    weights: Mapping[str, Path],
    device: str,
    random_seed: int,
    omp_nthreads: int,
    mem_gb: float,
    name: str = "models_wf",
) -> pe.Workflow:
    """Estimate tensors in ACPC, by least squares and by a network, and warp their scalars to MNI.

    Parameters
    ----------
    networks
        Of the registered tensor networks, those to run: `("tensor-refiner",)` or none.
    weights
        Checkpoint by model, for those that do not use the packaged one.
    device
        Torch device.
    random_seed
        Seed of whatever a model draws.
    omp_nthreads
        Threads a node may use.
    mem_gb
        Size of the series in ACPC, GB.
    name
        Name of the workflow.

    Inputs
    ------
    dwi_file, bval_file, bvec_file, mask_file
        Series in ACPC.
    to_mni_file, mni_mask_file
        Transform that resamples ACPC into MNI, and the brain there.

    Outputs
    -------
    tensor_diffusivity_file, tensor_s0_file, tensor_fa_file, tensor_md_file, tensor_ad_file, tensor_rd_file, tensor_v1_file
        Tensor fit in ACPC.
    tensor_fa_mni_file, tensor_md_mni_file, tensor_ad_mni_file, tensor_rd_mni_file
        Its scalars in MNI.
    tensorrefiner_diffusivity_file, tensorrefiner_fa_file, tensorrefiner_md_file, tensorrefiner_ad_file, tensorrefiner_rd_file, tensorrefiner_fa_std_file, tensorrefiner_md_std_file, tensorrefiner_unfamiliarity_file
        Tensor refiner in ACPC, if it was asked for.
    tensorrefiner_fa_mni_file, tensorrefiner_md_mni_file, tensorrefiner_ad_mni_file, tensorrefiner_rd_mni_file
        Its scalars in MNI.
    tensor_facts, tensorrefiner_facts
        How the maps were made.
    gradient_facts
        Check of the b-vectors against the fibres.
    """  # noqa: E501 - one field list per line is what the contract test reads
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(
        niu.IdentityInterface([*_ACPC_FIELDS, "to_mni_file", "mni_mask_file"]), name="inputnode"
    )
    tensor_fields = ("diffusivity_file", "s0_file", *(f"{s}_file" for s in SCALARS), "v1_file")
    tensorrefiner_fields = tuple(f"{name}_file" for name in REFINER_MAPS)
    outputnode = pe.Node(
        niu.IdentityInterface(
            [
                *(f"tensor_{f}" for f in tensor_fields),
                *(f"tensor_{s}_mni_file" for s in SCALARS),
                *(f"tensorrefiner_{f}" for f in tensorrefiner_fields),
                *(f"tensorrefiner_{s}_mni_file" for s in SCALARS),
                "tensor_facts",
                "tensorrefiner_facts",
                "gradient_facts",
            ]
        ),
        name="outputnode",
    )
    series = [(f, f) for f in _ACPC_FIELDS]
    fit = pe.Node(
        FitTensor(n_threads=omp_nthreads),
        name="fit_tensor",
        n_procs=omp_nthreads,
        mem_gb=3 * mem_gb,
    )
    check = pe.Node(CheckGradients(), name="check_gradients", mem_gb=3 * mem_gb)
    workflow.connect([
        (inputnode, fit, list(series)),
        (inputnode, check, list(series)),
        (fit, outputnode, [(f, f"tensor_{f}") for f in tensor_fields]),
        (fit, outputnode, [("facts", "tensor_facts")]),
        (check, outputnode, [("facts", "gradient_facts")]),
    ])  # fmt: skip
    _connect_warp(workflow, fit, label="tensor")
    if "tensor-refiner" in networks:
        predict = pe.Node(
            PredictTensor(model="tensor-refiner", device=device, seed=random_seed),
            name="predict_tensor",
            mem_gb=3 * mem_gb + 1,
        )
        if "tensor-refiner" in weights:
            predict.inputs.weights = str(weights["tensor-refiner"])
        workflow.connect([
            (inputnode, predict, list(series)),
            (predict, outputnode, [(f, f"tensorrefiner_{f}") for f in tensorrefiner_fields]),
            (predict, outputnode, [("facts", "tensorrefiner_facts")]),
        ])  # fmt: skip
        _connect_warp(workflow, predict, label="tensorrefiner")
    return workflow


def _connect_warp(workflow: pe.Workflow, maps: pe.Node, *, label: str) -> None:
    """Warp the scalars of a model into MNI, and hand them to the outputnode."""
    files = pe.Node(niu.Merge(len(SCALARS)), name=f"list_{label}", run_without_submitting=True)
    warp = pe.Node(ResampleMaps(), name=f"warp_{label}", mem_gb=0.5)
    split = pe.Node(
        niu.Split(splits=[1] * len(SCALARS), squeeze=True),
        name=f"split_{label}",
        run_without_submitting=True,
    )
    inputnode = workflow.get_node("inputnode")
    outputnode = workflow.get_node("outputnode")
    workflow.connect([
        (maps, files, [(f"{s}_file", f"in{i}") for i, s in enumerate(SCALARS, start=1)]),
        (files, warp, [("out", "in_files")]),
        (inputnode, warp, [("to_mni_file", "xfm_file"), ("mni_mask_file", "mask_file")]),
        (warp, split, [("out_files", "inlist")]),
        (split, outputnode, [(f"out{i}", f"{label}_{s}_mni_file")
                             for i, s in enumerate(SCALARS, start=1)]),
    ])  # fmt: skip


def init_features_wf(
    *,
    model: str,
    weights: Mapping[str, Path],
    device: str,
    random_seed: int,
    entities: Mapping[str, str],
    name: str = "features_wf",
) -> pe.Workflow:
    """Extract latent features of a series on the encoder's grid.

    Parameters
    ----------
    model
        Registered encoder.
    weights
        Checkpoint by model, for those that do not use the packaged one.
    device
        Torch device.
    random_seed
        Seed of the choice of directions.
    entities
        Entities of the scan, long names; they lead the table's row.
    name
        Name of the workflow.

    Inputs
    ------
    dwi_file, bval_file, bvec_file, mask_file
        Series on the model's grid.

    Outputs
    -------
    scan_file, patch_file
        Scan features, patch features.
    ood
        Score and percentile of the distance to the training features.
    features_facts
        Model, preprocessing and seed, for the sidecars.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(list(_ACPC_FIELDS)), name="inputnode")
    outputnode = pe.Node(
        niu.IdentityInterface(["scan_file", "patch_file", "ood", "features_facts"]),
        name="outputnode",
    )
    extract = pe.Node(
        ExtractFeatures(model=model, device=device, seed=random_seed, entities=dict(entities)),
        name="extract_features",
        mem_gb=4,
    )
    if model in weights:
        extract.inputs.weights = str(weights[model])
    workflow.connect([
        (inputnode, extract, [(f, f) for f in _ACPC_FIELDS]),
        (extract, outputnode, [("scan_file", "scan_file"), ("patch_file", "patch_file"),
                               ("ood", "ood"), ("facts", "features_facts")]),
    ])  # fmt: skip
    return workflow
