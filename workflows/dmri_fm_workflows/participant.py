"""The graph of one participant: anatomy once a session, then every series."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.gradient_files import B0_THRESHOLD_KEY
from dmri_fm_workflows.bids.names import SCAN_ENTITIES
from dmri_fm_workflows.interfaces.facts import MergeFacts
from dmri_fm_workflows.interfaces.models import AssessQuality, CheckFreeWater, CheckGradients
from dmri_fm_workflows.outputs.sidecars import raw_uri
from dmri_fm_workflows.plan import ParticipantPlan, SeriesPlan, SessionPlan
from dmri_fm_workflows.stages.features import init_features_wf
from dmri_fm_workflows.stages.figures import init_anat_figures_wf, init_series_figures_wf
from dmri_fm_workflows.stages.normalise import init_anat_wf, init_normalise_wf
from dmri_fm_workflows.stages.outputs import (
    ANAT_OUTPUTS,
    SERIES_OUTPUTS,
    SERIES_TEMPLATE_OUTPUTS,
    Output,
    feature_outputs,
    figure_outputs,
    init_derivatives_wf,
    map_outputs,
)
from dmri_fm_workflows.stages.preprocess import init_preprocess_wf
from dmri_fm_workflows.stages.tensor import init_tensor_network_wf, init_tensor_wf

__all__ = ["init_dwi_wf", "init_participant_wf"]

_SERIES = ("dwi_file", "bval_file", "bvec_file", "mask_file")


def init_participant_wf(
    *, plan: ParticipantPlan, bids_root: Path, output_dir: Path, omp_nthreads: int
) -> pe.Workflow:
    """Build everything that is computed for one participant.

    Parameters
    ----------
    plan
        What is to be done.
    bids_root
        Root of the raw dataset, for the sources in the sidecars.
    output_dir
        Root of the output dataset.
    omp_nthreads
        Threads a node may use.

    Returns
    -------
    Workflow
        Named `sub_<label>_wf`.
    """
    workflow = pe.Workflow(name=f"sub_{_word(plan.label)}_wf")
    for session in plan.sessions:
        anat_wf = None
        if session.t1w is not None:
            anat_wf = _init_session_anat_wf(
                plan, session, bids_root=bids_root, output_dir=output_dir
            )
            workflow.add_nodes([anat_wf])
        for series in session.series:
            dwi_wf = init_dwi_wf(
                plan=series,
                bids_root=bids_root,
                output_dir=output_dir,
                omp_nthreads=omp_nthreads,
            )
            workflow.add_nodes([dwi_wf])
            if anat_wf is not None:
                workflow.connect([
                    (anat_wf, dwi_wf, [(f"anat_wf.outputnode.{source}", f"inputnode.{target}")
                                       for source, target in (
                        ("brain_file", "t1w_brain_file"),
                        ("to_acpc_file", "to_t1w_acpc_file"),
                        ("to_mni_file", "to_mni_file"),
                        ("dice", "anat_dice"),
                        ("facts", "anat_facts"))]),
                ])  # fmt: skip
    return workflow


def _init_session_anat_wf(
    plan: ParticipantPlan, session: SessionPlan, *, bids_root: Path, output_dir: Path
) -> pe.Workflow:
    """Process and write the T1w image of a session."""
    assert session.t1w is not None
    entities = _anat_entities(plan.label, session.label)
    label = "" if session.label is None else f"_ses_{_word(session.label)}"
    workflow = pe.Workflow(name=f"session_anat{label}_wf")
    anat_wf = init_anat_wf(normalisation=plan.normalisation, sloppy=plan.sloppy)
    anat_wf.inputs.inputnode.t1w_file = str(session.t1w)
    figures_wf = init_anat_figures_wf()
    derivatives_wf = init_derivatives_wf(
        outputs=(*ANAT_OUTPUTS, *figure_outputs(("t1wmask", "t1wtemplate"))),
        output_dir=output_dir,
        entities=entities,
        sources=[raw_uri(session.t1w, bids_root)],
        anat_entities=entities,
        normalisation=plan.normalisation,
    )
    _connect_outputs(workflow, anat_wf, derivatives_wf, ANAT_OUTPUTS)
    workflow.connect(anat_wf, "outputnode.facts", derivatives_wf, "inputnode.facts")
    workflow.connect([
        (anat_wf, figures_wf, [(f"outputnode.{f}", f"inputnode.{f}") for f in (
            "t1w_file", "mask_file", "mni_brain_file", "template_file",
            "template_mask_file")]),
        (figures_wf, derivatives_wf, [(f"outputnode.{f}_figure", f"inputnode.{f}_figure")
                                      for f in ("t1wmask", "t1wtemplate")]),
    ])  # fmt: skip
    return workflow


def _anat_entities(subject: str, session: str | None) -> dict[str, str]:
    """Return the entities of the anatomical outputs of a session."""
    return {"subject": subject} | ({} if session is None else {"session": session})


def _connect_outputs(
    workflow: pe.Workflow,
    stage_wf: pe.Workflow,
    derivatives_wf: pe.Workflow,
    outputs: tuple[Output, ...],
) -> None:
    """Wire the fields that outputs name, where the stage has them.

    `facts` is left to the caller: several stages have them, and one sidecar holds them all.
    """
    offered = {*_field_names(stage_wf, "outputnode")} - {"facts"}
    wanted = dict.fromkeys(
        f for output in outputs for f in (*output.fields, *([output.facts] * bool(output.facts)))
    )
    pairs = [(f"outputnode.{f}", f"inputnode.{f}") for f in wanted if f in offered]
    workflow.connect([(stage_wf, derivatives_wf, pairs)])


def _word(label: str) -> str:
    """Return a label as part of a node's name, which holds letters, digits and `_` only.

    Examples
    --------
    >>> _word("b1000"), _word("b1000+")
    ('b1000', 'b1000x2b')
    """
    return "".join(c if c.isalnum() and c.isascii() else f"x{ord(c):x}" for c in label)


def init_dwi_wf(
    *, plan: SeriesPlan, bids_root: Path, output_dir: Path, omp_nthreads: int
) -> pe.Workflow:
    """Build preprocess, normalise, models and outputs of one series.

    Parameters are those of :func:`init_participant_wf`, with the plan of the series. Where it
    has a T1w image, the anatomy of the session has to be connected.

    Inputs
    ------
    t1w_brain_file, to_t1w_acpc_file, to_mni_file
        Anatomy in ACPC and its transforms.
    anat_dice, anat_facts
        Quality and method of the anatomy's registration.

    Outputs
    -------
    out_files
        Files that were written.
    """
    series = plan.series
    pieces = [
        f"{key}_{_word(series.entities[name])}"
        for key, name in SCAN_ENTITIES.items()
        if name in series.entities and name != "subject"
    ]
    workflow = pe.Workflow(name="_".join(["dwi", *pieces, "wf"]))
    inputnode = pe.Node(
        niu.IdentityInterface(
            ["t1w_brain_file", "to_t1w_acpc_file", "to_mni_file", "anat_dice", "anat_facts"]
        ),
        name="inputnode",
    )
    outputnode = pe.Node(niu.IdentityInterface(["out_files"]), name="outputnode")
    mem_gb, entities = plan.size_gb, plan.entities
    preprocess_wf = init_preprocess_wf(plan=plan, omp_nthreads=omp_nthreads, mem_gb=mem_gb)
    preprocess_wf.inputs.inputnode.dwi_files = [str(run.path) for run in series.runs]
    preprocess_wf.inputs.inputnode.bval_files = [str(run.bval) for run in series.runs]
    preprocess_wf.inputs.inputnode.bvec_files = [str(run.bvec) for run in series.runs]
    normalise_wf = init_normalise_wf(
        has_t1w=plan.has_t1w,
        normalisation=plan.normalisation,
        sloppy=plan.sloppy,
        voxel_size_mm=plan.voxel_size_mm,
        encoders=plan.encoders,
        omp_nthreads=omp_nthreads,
        mem_gb=mem_gb,
    )
    quality = pe.Node(
        AssessQuality(plan.networks, plan.encoders, entities=entities),
        name="assess_quality",
        mem_gb=4 * mem_gb,
    )
    # The series' own facts come after those of the anatomy: of two masks its own is named.
    facts = pe.Node(niu.Merge(5), name="list_facts", run_without_submitting=True)
    merge_facts = pe.Node(
        MergeFacts(base=_planned_facts(plan, bids_root)),
        name="merge_facts",
        run_without_submitting=True,
    )
    outputs = [*SERIES_OUTPUTS, *(() if plan.has_t1w else SERIES_TEMPLATE_OUTPUTS)]
    for model in (*(["tensor"] if plan.has_tensor else []), *plan.networks):
        outputs += map_outputs(model)
    outputs = [o for o in outputs if o.space is None or o.space in plan.output_spaces]
    # Features live on the template's grid whatever else is asked for.
    for encoder in plan.encoders:
        outputs += feature_outputs(encoder, plan.features[encoder])
    figures_wf = init_series_figures_wf(
        has_t1w=plan.has_t1w,
        has_sdc=plan.sdc.has_field,
        has_denoising=plan.engines.denoise != "none",
        has_tensor=plan.has_tensor,
    )
    figure_names = tuple(
        f.removesuffix("_figure")
        for f in figures_wf.get_node("outputnode").inputs.copyable_trait_names()
    )
    derivatives_wf = init_derivatives_wf(
        outputs=(*outputs, *figure_outputs(figure_names)),
        output_dir=output_dir,
        entities=entities,
        sources=[raw_uri(image.path, bids_root) for image in plan.sources],
        raw_metadata=[run.metadata for run in series.runs],
        anat_entities=_anat_entities(entities["subject"], entities.get("session"))
        if plan.has_t1w
        else None,
        normalisation=plan.normalisation,
    )
    workflow.connect([
        (preprocess_wf, normalise_wf, [(f"outputnode.{f}", f"inputnode.{f}") for f in (
            "dwi_file", "bval_file", "bvec_file", "volumes_file", "motion_file", "field_file",
            "dwiref_file", "dwi_brain_file", "dwi_mask_file")]),
        (preprocess_wf, facts, [("outputnode.facts", "in2")]),
        (normalise_wf, facts, [("outputnode.facts", "in3")]),
        (facts, merge_facts, [("out", "in_facts")]),
        (merge_facts, derivatives_wf, [("facts", "inputnode.facts")]),
        (preprocess_wf, derivatives_wf, [(f"outputnode.{f}", f"inputnode.{f}") for f in (
            "motion_file", "motion_facts", "confounds_file", "confounds_facts")]),
        (normalise_wf, quality, [("outputnode.acpc_dwi_file", "dwi_file"),
                                 ("outputnode.acpc_bval_file", "bval_file"),
                                 ("outputnode.acpc_bvec_file", "bvec_file"),
                                 ("outputnode.acpc_mask_file", "mask_file")]),
        (preprocess_wf, quality, [("outputnode.raw_file", "raw_file"),
                                  ("outputnode.bval_file", "raw_bval_file"),
                                  ("outputnode.raw_bvec_file", "raw_bvec_file"),
                                  ("outputnode.dwi_mask_file", "raw_mask_file"),
                                  ("outputnode.motion_file", "motion_file"),
                                  ("outputnode.outliers_file", "outliers_file")]),
        (quality, derivatives_wf, [("qc_file", "inputnode.qc_file"),
                                   ("facts", "inputnode.qc_facts")]),
        (derivatives_wf, outputnode, [("outputnode.out_files", "out_files")]),
    ])  # fmt: skip
    _connect_outputs(workflow, normalise_wf, derivatives_wf, tuple(outputs))
    if plan.has_t1w:
        workflow.connect([
            (inputnode, normalise_wf, [(f, f"inputnode.{f}") for f in (
                "t1w_brain_file", "to_t1w_acpc_file", "to_mni_file")]),
            (inputnode, quality, [("anat_dice", "registration_dice")]),
            (inputnode, facts, [("anat_facts", "in1")]),
            (inputnode, figures_wf, [("t1w_brain_file", "inputnode.t1w_brain_file")]),
        ])  # fmt: skip
    else:
        workflow.connect([
            (normalise_wf, quality, [("outputnode.dice", "registration_dice")]),
            (normalise_wf, figures_wf, [(f"outputnode.{f}", f"inputnode.{f}") for f in (
                "mni_brain_file", "template_file", "template_mask_file")]),
        ])  # fmt: skip
    workflow.connect([
        (preprocess_wf, figures_wf, [(f"outputnode.{f}", f"inputnode.{f}") for f in (
            "denoised_file", "raw_file", "bval_file", "raw_bvec_file", "dwiref_file",
            "uncorrected_file", "dwi_mask_file", "motion_file", "outliers_file")]),
        (normalise_wf, figures_wf, [(f"outputnode.{f}", f"inputnode.{f}") for f in (
            "acpc_dwiref_file", "acpc_mask_file", "mni_mask_file")]),
        (figures_wf, derivatives_wf, [(f"outputnode.{f}_figure", f"inputnode.{f}_figure")
                                      for f in figure_names]),
    ])  # fmt: skip
    series_in_acpc = [(f"outputnode.acpc_{f}", f) for f in _SERIES]
    for model_wf in _init_model_wfs(plan, omp_nthreads=omp_nthreads, mem_gb=mem_gb):
        taken = set(_field_names(model_wf, "inputnode"))
        offered = _field_names(model_wf, "outputnode")
        workflow.connect([
            (normalise_wf, model_wf, [(f"outputnode.{f}", f"inputnode.{f}")
                                      for f in _field_names(normalise_wf, "outputnode")
                                      if f in taken]),
            (model_wf, quality, [(f"outputnode.{f}", f) for f in offered
                                 if f in quality.inputs.copyable_trait_names()]),
        ])  # fmt: skip
        if model_wf.name == "tensor_wf":
            tensor_wf = model_wf
            workflow.connect([
                (tensor_wf, figures_wf, [(f"outputnode.{f}", f"inputnode.{f}") for f in (
                    "tensor_fa_file", "tensor_v1_file", "tensor_fa_mni_file")]),
            ])  # fmt: skip
        elif "tensor_fa_file" in taken:
            workflow.connect(
                tensor_wf, "outputnode.tensor_fa_file", model_wf, "inputnode.tensor_fa_file"
            )
        _connect_outputs(workflow, model_wf, derivatives_wf, tuple(outputs))
    if plan.has_tensor:
        gradients = pe.Node(CheckGradients(), name="check_gradients", mem_gb=3 * mem_gb)
        workflow.connect([
            (normalise_wf, gradients, list(series_in_acpc)),
            (gradients, facts, [("facts", "in4")]),
        ])  # fmt: skip
    if plan.length_scaling is not None:
        method, common_length = plan.length_scaling
        check = pe.Node(CheckFreeWater(method=method), name="check_free_water")
        if common_length is not None:
            check.inputs.common_length = common_length
        workflow.connect([
            (normalise_wf, check, list(series_in_acpc)),
            (check, facts, [("facts", "in5")]),
        ])  # fmt: skip
    _set_b0_threshold(workflow, plan.b0_threshold)
    return workflow


def _init_model_wfs(
    plan: SeriesPlan, *, omp_nthreads: int, mem_gb: float
) -> Iterator[pe.Workflow]:
    """Yield the stage of the tensor fit, then those of networks and encoders."""
    options: dict[str, Any] = {
        "device": plan.engines.device,
        "random_seed": plan.random_seed,
    }
    if plan.has_tensor:
        yield init_tensor_wf(omp_nthreads=omp_nthreads, mem_gb=mem_gb)
    for network in plan.networks:
        weights = plan.weights.get(network)
        yield init_tensor_network_wf(network=network, weights=weights, mem_gb=mem_gb, **options)
    for encoder in plan.encoders:
        weights = plan.weights.get(encoder)
        yield init_features_wf(encoder=encoder, weights=weights, entities=plan.entities, **options)


def _field_names(workflow: pe.Workflow, node_name: str) -> list[str]:
    return list(workflow.get_node(node_name).inputs.copyable_trait_names())


def _planned_facts(plan: SeriesPlan, bids_root: Path) -> dict[str, Any]:
    """Return what the plan says and every sidecar of the series repeats."""
    facts: dict[str, Any] = {
        "Warnings": list(plan.warnings),
        B0_THRESHOLD_KEY: plan.b0_threshold,
        "SDCReason": plan.sdc.reason,
    }
    if plan.sdc.unused:
        facts["SDCImagesNotUsed"] = [
            {"File": raw_uri(image.path, bids_root), "Reason": image.reason}
            for image in plan.sdc.unused
        ]
    if plan.sdc.has_field:
        pair = plan.series.blip_pair or ()
        facts["SDCPair"] = [raw_uri(image.path, bids_root) for image in pair]
    return facts


def _set_b0_threshold(workflow: pe.Workflow, b0_threshold: float) -> None:
    """Let every node that reads gradient files take the same volumes as b=0."""
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        if "b0_threshold" in node.interface.inputs.traits():
            node.inputs.b0_threshold = b0_threshold
