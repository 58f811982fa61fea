"""Tensor stages: the least-squares fit, and one stage per tensor network."""

from __future__ import annotations

from pathlib import Path

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.identity import label_of
from dmri_fm_workflows.interfaces.models import FitTensor, PredictTensor
from dmri_fm_workflows.interfaces.normalise import ResampleMaps
from dmri_fm_workflows.interfaces.report import PlotComparison
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.stages.outputs import MNI

__all__ = ["init_tensor_network_wf", "init_tensor_wf"]

_SERIES = ("dwi_file", "bval_file", "bvec_file", "mask_file")
_INPUTS = (*(f"acpc_{f}" for f in _SERIES), "to_mni_file", "mni_mask_file")


def init_tensor_wf(*, omp_nthreads: int, mem_gb: float, name: str = "tensor_wf") -> pe.Workflow:
    """Fit tensors in ACPC by least squares, and warp scalar maps to MNI.

    Parameters
    ----------
    omp_nthreads
        Threads a node may use.
    mem_gb
        Size of the series in ACPC, GB.
    name
        Name of the workflow.

    Inputs
    ------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_mask_file
        Series in ACPC.
    to_mni_file, mni_mask_file
        Transform that resamples ACPC into MNI, and the brain there.

    Outputs
    -------
    tensor_<type>_file, tensor_<type>_mni_file
        Maps of the fit by their output type in `maps.yaml`, in ACPC; scalars in MNI as well.
    tensor_v1_file
        Main eigenvector in ACPC.
    tensor_record
        How the maps were made.
    """
    workflow = _start("tensor", name, _INPUTS, ("tensor_v1_file",))
    fit = pe.Node(
        FitTensor(n_threads=omp_nthreads),
        name="fit_tensor",
        n_procs=omp_nthreads,
        mem_gb=3 * mem_gb,
    )
    workflow.connect(fit, "v1_file", workflow.get_node("outputnode"), "tensor_v1_file")
    _connect_maps(workflow, fit, model="tensor")
    return workflow


def init_tensor_network_wf(
    *,
    network: str,
    weights: Path | None,
    device: str,
    random_seed: int,
    mem_gb: float,
    name: str | None = None,
) -> pe.Workflow:
    """Estimate tensors in ACPC by a network, warp scalar maps to MNI, and compare with the fit.

    Parameters
    ----------
    network
        Registered tensor network; its label starts the fields of the outputs.
    weights
        Weights file; None for the packaged one.
    device
        Torch device.
    random_seed
        Seed of whatever the network draws.
    mem_gb
        Size of the series in ACPC, GB.
    name
        Name of the workflow; by default `<label>_wf`.

    Inputs
    ------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_mask_file
        Series in ACPC.
    to_mni_file, mni_mask_file
        Transform that resamples ACPC into MNI, and the brain there.
    tensor_fa_file
        FA of the tensor fit, for the figure.

    Outputs
    -------
    <label>_<type>_file, <label>_<type>_mni_file
        Maps of the network by their output type in `maps.yaml`, in ACPC; scalars in MNI as well.
        A network without intervals has no `<label>_fa_std_file` and `<label>_md_std_file`, one
        without an out-of-distribution score no `<label>_ood_file`.
    <label>_record
        How the maps were made.
    <label>_figure
        The network's FA beside that of the fit, SVG.
    """
    label = label_of(network)
    inputs = (*_INPUTS, "tensor_fa_file")
    workflow = _start(network, name or f"{label}_wf", inputs, (f"{label}_figure",))
    predict = pe.Node(
        PredictTensor(model=network, device=device, seed=random_seed),
        name="predict_tensor",
        mem_gb=3 * mem_gb + 1,
    )
    if weights is not None:
        predict.inputs.weights = str(weights)
    compare = pe.Node(PlotComparison(model=network), name="plot_comparison")
    inputnode = workflow.get_node("inputnode")
    uncertain = {"fa_std": "std_file", "ood": "ood_file"}
    workflow.connect([
        (inputnode, compare, [("tensor_fa_file", "tensor_file"),
                              ("acpc_mask_file", "mask_file")]),
        (predict, compare, [("fa_file", "network_file"), ("facts", "facts"),
                            *((f"{t.name}_file", uncertain[t.name])
                              for t in load_catalogue().maps_of(network)
                              if t.name in uncertain)]),
        (compare, workflow.get_node("outputnode"), [("out_file", f"{label}_figure")]),
    ])  # fmt: skip
    _connect_maps(workflow, predict, model=network)
    return workflow


def _start(
    model: str, name: str, inputs: tuple[str, ...], further_outputs: tuple[str, ...]
) -> pe.Workflow:
    """Return a workflow with an inputnode, and an outputnode for the maps of a model."""
    label, catalogue = label_of(model), load_catalogue()
    workflow = pe.Workflow(name=name)
    outputs = [
        *(f"{label}_{t.name}_file" for t in catalogue.maps_of(model)),
        *(f"{label}_{t.name}_mni_file" for t in catalogue.maps_of(model, space=MNI)),
        f"{label}_record",
        *further_outputs,
    ]
    workflow.add_nodes(
        [
            pe.Node(niu.IdentityInterface(list(inputs)), name="inputnode"),
            pe.Node(niu.IdentityInterface(outputs), name="outputnode"),
        ]
    )
    return workflow


def _connect_maps(workflow: pe.Workflow, maps: pe.Node, *, model: str) -> None:
    """Feed a model's node, warp its scalar maps into MNI, and hand all on to the outputnode."""
    label = label_of(model)
    in_acpc = [t.name for t in load_catalogue().maps_of(model)]
    in_mni = [t.name for t in load_catalogue().maps_of(model, space=MNI)]
    inputnode, outputnode = workflow.get_node("inputnode"), workflow.get_node("outputnode")
    files = pe.Node(niu.Merge(len(in_mni)), name="list_maps", run_without_submitting=True)
    warp = pe.Node(ResampleMaps(), name="warp_maps", mem_gb=0.5)
    split = pe.Node(
        niu.Split(splits=[1] * len(in_mni), squeeze=True),
        name="split_maps",
        run_without_submitting=True,
    )
    workflow.connect([
        (inputnode, maps, [(f"acpc_{f}", f) for f in _SERIES]),
        (maps, outputnode, [("facts", f"{label}_record"),
                            *((f"{t}_file", f"{label}_{t}_file") for t in in_acpc)]),
        (maps, files, [(f"{t}_file", f"in{i}") for i, t in enumerate(in_mni, start=1)]),
        (files, warp, [("out", "in_files")]),
        (inputnode, warp, [("to_mni_file", "xfm_file"), ("mni_mask_file", "mask_file")]),
        (warp, split, [("out_files", "inlist")]),
        (split, outputnode, [(f"out{i}", f"{label}_{t}_mni_file")
                             for i, t in enumerate(in_mni, start=1)]),
    ])  # fmt: skip
