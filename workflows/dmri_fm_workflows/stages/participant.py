"""The graph of one participant: anatomy once a session, then every series."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.gradient_deviation import DEVIATION_KEY, UNCHANGED
from dmri_fm.gradient_files import B0_THRESHOLD_KEY
from dmri_fm_workflows.bids.names import SCAN_ENTITIES
from dmri_fm_workflows.interfaces.records import MergeRecords
from dmri_fm_workflows.outputs.sources import anatomy_uri, raw_uri
from dmri_fm_workflows.plan import ParticipantPlan, SeriesPlan, SessionPlan
from dmri_fm_workflows.stages.base import (
    Resources,
    Source,
    Stage,
    connect_stages,
    field_names,
    open_workflow,
)
from dmri_fm_workflows.stages.derivatives import Origin, init_derivatives_wf
from dmri_fm_workflows.stages.outputs import ACPC
from dmri_fm_workflows.stages.table import list_session_stages, list_stages
from dmri_fm_workflows.stages.templates import list_template_fields, list_transforms

#: Fields that the anatomy of a session hands to its series.
ANAT_FIELDS = (
    "t1w_brain_file",
    "t1w_mask_file",
    "to_t1w_acpc_file",
    "to_mni_file",
    "registration_dice",
    "anat_record",
)


def init_participant_wf(plan: ParticipantPlan, resources: Resources) -> pe.Workflow:
    """Build the graph of one participant, `sub_<label>_wf`."""
    workflow = pe.Workflow(name=f"sub_{_word(plan.label)}_wf")
    for session in plan.sessions:
        anat_wf = None
        if session.t1w is not None:
            anat_wf = _init_session_anat_wf(plan.label, session, resources)
            workflow.add_nodes([anat_wf])
        for series in session.series:
            dwi_wf = init_dwi_wf(series, resources)
            workflow.add_nodes([dwi_wf])
            if anat_wf is not None:
                others = list_template_fields(session.templates)
                workflow.connect([
                    (anat_wf, dwi_wf, [
                        (f"{'templates' if f in others else 'anat'}_wf.outputnode.{f}",
                         f"inputnode.{f}")
                        for f in field_names(dwi_wf, "inputnode")
                    ]),
                ])  # fmt: skip
    return workflow


def _init_session_anat_wf(subject: str, session: SessionPlan, resources: Resources) -> pe.Workflow:
    """Process and write the T1w image of a session."""
    assert session.t1w is not None
    entities = _anat_entities(subject, session.label)
    label = "" if session.label is None else f"_ses_{_word(session.label)}"
    workflow = pe.Workflow(name=f"session_anat{label}_wf")
    stages = list_session_stages(session)
    sources = connect_stages(workflow, stages, session, resources, {})
    origin = Origin(
        entities=entities,
        sources=_list_sources(session, resources),
        normalisation=session.normalisation,
        anat_entities=entities,
        contrast=session.contrast,
        is_t1w_brain=session.prepared_t1w is not None and session.prepared_t1w.is_brain,
    )
    sources["record"] = sources["anat_record"]
    if session.templates:
        sources["record"] = _join_records(workflow, sources, ["anat_record", "templates_record"])
    _connect_outputs(workflow, stages, sources, [ACPC], resources, origin)
    return workflow


def _list_sources(session: SessionPlan, resources: Resources) -> list[str]:
    """Return the BIDS URIs of the files that the anatomy of a session is made from."""
    assert session.t1w is not None
    root, prepared = resources.anatomy_root, session.prepared_t1w
    if prepared is None or root is None:
        return [raw_uri(session.t1w, resources.bids_root)]
    return [
        anatomy_uri(path, root)
        if path.is_relative_to(root)
        else raw_uri(path, resources.bids_root)
        for path in prepared.files
    ]


def _anat_entities(subject: str, session: str | None) -> dict[str, str]:
    """Return the entities of the anatomical outputs of a session."""
    return {"subject": subject} | ({} if session is None else {"session": session})


def _word(label: str) -> str:
    """Return a label as part of a node's name, which holds letters, digits and `_` only.

    Examples
    --------
    >>> _word("b1000"), _word("b1000+")
    ('b1000', 'b1000x2b')
    """
    return "".join(c if c.isalnum() and c.isascii() else f"x{ord(c):x}" for c in label)


def init_dwi_wf(plan: SeriesPlan, resources: Resources) -> pe.Workflow:
    """Build all stages of one series.

    The anatomy of the session has to be connected where there is a T1w image.

    Inputs
    ------
    t1w_brain_file, t1w_mask_file, to_t1w_acpc_file, from_t1w_acpc_file, to_mni_file
        Anatomy in ACPC and its transforms; only with a T1w image, as all inputs. The inverse only
        where the series lies in the space of that image, the mask where the input has none for
        the series.
    registration_dice, anat_record
        Quality and methods of the anatomy.
    to_<space>_file, templates_record
        Transforms into templates of TemplateFlow, and warnings of these registrations.

    Outputs
    -------
    out_files
        Files that were written.
    """
    entities = plan.entities
    pieces = [
        f"{key}_{_word(entities[name])}"
        for key, name in SCAN_ENTITIES.items()
        if name in entities and name != "subject"
    ]
    fields = [f for f in ANAT_FIELDS if f != "t1w_mask_file" or plan.is_masked_by_t1w]
    fields += ["from_t1w_acpc_file"] if plan.is_on_t1w else []
    fields += list_template_fields(plan.templates)
    workflow, inputnode, outputnode = open_workflow(
        "_".join(["dwi", *pieces, "wf"]), fields if plan.has_t1w else (), ["out_files"]
    )
    offered = {f: (inputnode, f) for f in field_names(workflow, "inputnode")}
    stages = list_stages(plan)
    sources = connect_stages(workflow, stages, plan, resources, offered)
    sources["record"] = _merge_records(workflow, plan, resources, stages, sources)
    origin = Origin(
        entities=entities,
        sources=[raw_uri(path, resources.bids_root) for path in plan.source_paths],
        normalisation=plan.normalisation,
        contrast=plan.contrast,
        raw_metadata=[run.metadata for run in plan.series.runs],
        anat_transforms=list_transforms("anat_xfm", plan.templates),
        anat_entities=_anat_entities(entities["subject"], entities.get("session"))
        if plan.has_t1w
        else None,
    )
    derivatives_wf = _connect_outputs(
        workflow,
        stages,
        sources,
        [*plan.output_spaces, *(template.name for template in plan.templates)],
        resources,
        origin,
    )
    workflow.connect(derivatives_wf, "outputnode.out_files", outputnode, "out_files")
    _set_b0_threshold(workflow, plan.b0_threshold)
    return workflow


def _merge_records(
    workflow: pe.Workflow,
    plan: SeriesPlan,
    resources: Resources,
    stages: Iterable[Stage],
    sources: Mapping[str, Source],
) -> Source:
    """Join the records of all stages into that of the series."""
    # Records of the series come after that of the anatomy: of two masks its own is named.
    fields = ["anat_record"] if plan.has_t1w else []
    fields += ["templates_record"] if plan.has_t1w and plan.templates else []
    fields += [stage.record for stage in stages if stage.record is not None]
    return _join_records(workflow, sources, fields, base=_planned_record(plan, resources))


def _join_records(
    workflow: pe.Workflow,
    sources: Mapping[str, Source],
    fields: Sequence[str],
    *,
    base: Mapping[str, Any] = MappingProxyType({}),
) -> Source:
    """Join the records of some fields into one."""
    listed = pe.Node(niu.Merge(len(fields)), name="list_records", run_without_submitting=True)
    merged = pe.Node(
        MergeRecords(base=dict(base)), name="merge_records", run_without_submitting=True
    )
    for number, field in enumerate(fields, start=1):
        node, output = sources[field]
        workflow.connect(node, output, listed, f"in{number}")
    workflow.connect(listed, "out", merged, "in_records")
    return merged, "record"


def _connect_outputs(
    workflow: pe.Workflow,
    stages: Iterable[Stage],
    sources: Mapping[str, Source],
    spaces: Collection[str],
    resources: Resources,
    origin: Origin,
) -> pe.Workflow:
    """Add the sinks of the outputs whose fields a stage offers, in the spaces asked for."""
    outputs = [
        output
        for stage in stages
        for output in stage.outputs
        if set(output.fields) <= {*field_names(workflow.get_node(stage.wf_name), "outputnode")}
        and (output.space is None or output.in_any_space or output.space in spaces)
    ]
    derivatives_wf = init_derivatives_wf(
        outputs=outputs, output_dir=resources.output_dir, origin=origin
    )
    workflow.add_nodes([derivatives_wf])
    for field in field_names(derivatives_wf, "inputnode"):
        node, output = sources[field]
        workflow.connect(node, output, derivatives_wf, f"inputnode.{field}")
    return derivatives_wf


def _planned_record(plan: SeriesPlan, resources: Resources) -> dict[str, Any]:
    """Return the entries of every sidecar of the series that the plan decides."""

    def uri(path: Path) -> str:
        return raw_uri(path, resources.bids_root)

    record: dict[str, Any] = {
        "Warnings": list(plan.warnings),
        B0_THRESHOLD_KEY: plan.b0_threshold,
        "SDCReason": plan.sdc.reason,
    }
    record |= plan.model_base
    if not plan.is_preprocessed:
        record["B1Correction"] = plan.bias_name
    if plan.has_gradient_deviation:
        record[DEVIATION_KEY] = UNCHANGED
    if plan.sdc.unused:
        record["SDCImagesNotUsed"] = [
            {"File": uri(image.path), "Reason": image.reason} for image in plan.sdc.unused
        ]
    if plan.sdc.uses_pair:
        record["SDCPair"] = [uri(image.path) for image in plan.series.blip_pair or ()]
    if plan.fieldmap is not None:
        record["SDCFieldmap"] = [uri(path) for path in plan.fieldmap.images]
    return record


def _set_b0_threshold(workflow: pe.Workflow, b0_threshold: float) -> None:
    """Let every node that reads gradient files take the same volumes as b=0."""
    for name in workflow.list_node_names():
        node = workflow.get_node(name)
        if "b0_threshold" in node.interface.inputs.traits():
            node.inputs.b0_threshold = b0_threshold
