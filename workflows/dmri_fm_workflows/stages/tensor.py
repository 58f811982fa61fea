"""Tensor stages: the least-squares fit, and one stage per tensor network."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.identity import label_of
from dmri_fm_workflows.interfaces.models import FitTensor, PredictTensor
from dmri_fm_workflows.interfaces.normalise import ResampleMaps
from dmri_fm_workflows.interfaces.report import PlotComparison
from dmri_fm_workflows.outputs.maps import OutputType, load_catalogue
from dmri_fm_workflows.outputs.steps import LESION_KEY
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.plan.records import SMALLEST_BRAIN_ML
from dmri_fm_workflows.stages.base import ACPC_FILES, Resources, Stage, open_workflow
from dmri_fm_workflows.stages.lines import describe_network
from dmri_fm_workflows.stages.outputs import MNI, map_outputs

#: Maps of a network that its figure shows where it gives them, by output type.
_SHOWN = {"fa_std": "std_file", "ood": "ood_file"}


def network_stage(network: str, maps: Collection[str]) -> Stage:
    """Return the stage of a tensor network with the output types of its maps."""
    return Stage(
        name=label_of(network),
        describe=partial(describe_network, network=network),
        builder=partial(init_tensor_network_wf, network=network),
        outputs=map_outputs(network, maps),
    )


def init_tensor_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "tensor_wf"
) -> pe.Workflow:
    """Fit tensors in ACPC by least squares, and warp scalar maps to MNI.

    Inputs
    ------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_mask_file
        Series in ACPC.
    to_mni_file, mni_mask_file
        Transform that resamples ACPC into MNI, and the brain there.
    acpc_deviation_file
        Deviation of the gradient coils in ACPC, if it is known.

    Outputs
    -------
    tensor_<type>_file, tensor_<type>_mni_file
        Maps of the fit by their output type in `maps.yaml`, in ACPC; scalars in MNI as well.
    tensor_v1_file
        Main eigenvector in ACPC.
    tensor_record
        How the maps were made.
    """
    fit = pe.Node(
        FitTensor(
            n_threads=resources.omp_nthreads,
            base={} if plan.has_gradient_deviation else plan.model_base,
        ),
        name="fit_tensor",
        n_procs=resources.omp_nthreads,
        mem_gb=3 * plan.size_gb,
    )
    types = load_catalogue().maps_of("tensor")
    deviation = ("acpc_deviation_file",) if plan.has_gradient_deviation else ()
    workflow = _maps_wf(
        name,
        fit,
        model="tensor",
        types=types,
        more_inputs=deviation,
        more_outputs=("tensor_v1_file",),
    )
    for field in deviation:
        workflow.connect(workflow.get_node("inputnode"), field, fit, "deviation_file")
    workflow.connect(fit, "v1_file", workflow.get_node("outputnode"), "tensor_v1_file")
    return workflow


def init_tensor_network_wf(
    plan: SeriesPlan,
    resources: Resources,
    *,
    network: str,
    name: str = "network_wf",
) -> pe.Workflow:
    """Estimate tensors in ACPC by a network, warp scalar maps to MNI, and compare with the fit.

    Inputs
    ------
    acpc_dwi_file, acpc_bval_file, acpc_bvec_file, acpc_mask_file
        Series in ACPC.
    to_mni_file, mni_mask_file
        Transform that resamples ACPC into MNI, and the brain there.
    chosen_file, choice_file, chosen_noise_file, noise_record
        Volumes that the network reads, which of the series they are, their noise and its method;
        the two of noise not with a motion engine that interpolates.
    tensor_fa_file
        FA of the tensor fit, for the figure.

    Outputs
    -------
    <label>_<type>_file, <label>_<type>_mni_file
        Maps of the network by their output type in `maps.yaml`, in ACPC; scalars in MNI as well.
        A network whose weights give no intervals has no `<label>_fa_std_file` and
        `<label>_md_std_file`; without an out-of-distribution score, no `<label>_ood_file`.
    <label>_record
        How the maps were made.
    <label>_figure
        The network's FA beside that of the fit, SVG.
    """
    label, maps = label_of(network), plan.maps[network]
    predict = _predict_node(plan, network)
    given = {"chosen_file": "chosen_file", "choice_file": "choice_file"}
    if plan.reads_noise_maps:
        given |= {"chosen_noise_file": "noise_file", "noise_record": "noise_record"}
    compare = pe.Node(PlotComparison(model=network), name="plot_comparison")
    workflow = _maps_wf(
        name,
        predict,
        model=network,
        types=[load_catalogue().output_type(name) for name in maps],
        more_inputs=("tensor_fa_file", *given),
        more_outputs=(f"{label}_figure",),
    )
    shown = [(f"{name}_file", _SHOWN[name]) for name in maps if name in _SHOWN]
    workflow.connect([
        (workflow.get_node("inputnode"), compare, [("tensor_fa_file", "tensor_file"),
                                                   ("acpc_mask_file", "mask_file")]),
        (workflow.get_node("inputnode"), predict, list(given.items())),
        (predict, compare, [("fa_file", "network_file"), ("record", "record"), *shown]),
        (compare, workflow.get_node("outputnode"), [("out_file", f"{label}_figure")]),
    ])  # fmt: skip
    return workflow


def _predict_node(plan: SeriesPlan, network: str) -> pe.Node:
    """Return the node that runs a tensor network."""
    predict = PredictTensor(
        model=network,
        maps=list(plan.maps[network]),
        reasons=list(plan.network_reasons),
        base={
            "Input": plan.network_input,
            "ParticipantAge": plan.age_check,
            **({LESION_KEY: plan.lesion_mask.name} if plan.lesion_mask is not None else {}),
            **plan.model_base,
        },
        **plan.network_inputs(network),
    )
    if plan.age.years is None:
        predict.inputs.smallest_brain_ml = SMALLEST_BRAIN_ML
    return pe.Node(predict, name="predict_tensor", mem_gb=3 * plan.size_gb + 1)


def _maps_wf(
    name: str,
    maps: pe.Node,
    *,
    model: str,
    types: Sequence[OutputType],
    more_inputs: tuple[str, ...] = (),
    more_outputs: tuple[str, ...] = (),
) -> pe.Workflow:
    """Return the workflow of a model's node; its scalar maps are warped into MNI."""
    label = label_of(model)
    in_acpc = {f"{t.name}_file": f"{label}_{t.name}_file" for t in types}
    scalars = [t.name for t in types if MNI in t.spaces]
    in_mni = [f"{label}_{s}_mni_file" for s in scalars]
    workflow, inputnode, outputnode = open_workflow(
        name,
        [*ACPC_FILES, "to_mni_file", "mni_mask_file", *more_inputs],
        [*in_acpc.values(), *in_mni, f"{label}_record", *more_outputs],
    )
    files = pe.Node(niu.Merge(len(scalars)), name="list_maps", run_without_submitting=True)
    warp = pe.Node(ResampleMaps(), name="warp_maps", mem_gb=0.5)
    split = pe.Node(
        niu.Split(splits=[1] * len(scalars), squeeze=True),
        name="split_maps",
        run_without_submitting=True,
    )
    workflow.connect([
        (inputnode, maps, list(ACPC_FILES.items())),
        (maps, outputnode, [*in_acpc.items(), ("record", f"{label}_record")]),
        (maps, files, [(f"{s}_file", f"in{i}") for i, s in enumerate(scalars, start=1)]),
        (files, warp, [("out", "in_files")]),
        (inputnode, warp, [("to_mni_file", "xfm_file"), ("mni_mask_file", "mask_file")]),
        (warp, split, [("out_files", "inlist")]),
        (split, outputnode, [(f"out{i}", f) for i, f in enumerate(in_mni, start=1)]),
    ])  # fmt: skip
    return workflow
