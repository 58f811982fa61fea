"""Templates of TemplateFlow: registration to them, and what is written in their spaces.

Scalar maps and the brain mask are resampled from ACPC. Networks keep the space that they were
trained in, and series are written in ACPC and the packaged template only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.identity import label_of
from dmri_fm_workflows.interfaces.normalise import BringMask, ResampleMaps
from dmri_fm_workflows.interfaces.records import MergeRecords
from dmri_fm_workflows.interfaces.templates import RegisterOtherTemplate
from dmri_fm_workflows.outputs.maps import OutputType, load_catalogue
from dmri_fm_workflows.plan import SeriesPlan, SessionPlan
from dmri_fm_workflows.plan.anatomy import name_other_templates
from dmri_fm_workflows.stages.base import Line, Resources, Stage, open_workflow
from dmri_fm_workflows.stages.outputs import ACPC, Output, transform
from dmri_fm_workflows.templates import TemplateFiles


def list_template_fields(templates: Iterable[TemplateFiles]) -> list[str]:
    """Return the fields that the registrations of a session hand to its series."""
    fields = [f"to_{template.name}_file" for template in templates]
    return [*fields, "templates_record"] if fields else []


def list_transforms(of: str, templates: Iterable[TemplateFiles]) -> tuple[Output, ...]:
    """Return the transforms to templates and back, of type `anat_xfm` or `dwi_xfm`."""
    return tuple(
        transform(of, f"{way}_{t.name}_file", *ends, record=f"{t.name}_record")
        for t in templates
        for way, ends in (("to", (ACPC, t.name)), ("from", (t.name, ACPC)))
    )


def registration_stage(plan: SessionPlan | SeriesPlan) -> Stage:
    """Return the stage that registers the anatomy, or a series without one, to the templates."""
    of = "anat_xfm" if isinstance(plan, SessionPlan) else "dwi_xfm"
    return Stage(
        name="templates",
        builder=init_templates_wf,
        outputs=list_transforms(of, plan.templates),
        record="templates_record",
        describe=_describe_registrations,
    )


def _describe_registrations(plan: SessionPlan | SeriesPlan) -> Iterator[Line]:
    for template in plan.templates:
        yield "  other template", f"{template.name}: {plan.normalisation}, {template.t1w}"


def init_templates_wf(
    plan: SessionPlan | SeriesPlan, resources: Resources, *, name: str = "templates_wf"
) -> pe.Workflow:
    """Register the brain in ACPC to each template: of the T1w image, else the b=0 reference.

    Inputs
    ------
    t1w_brain_file, t1w_mask_file
        Brain and mask of a session's T1w image in ACPC.
    lesion_file
        Lesions in it, if the dataset has a mask of them.
    acpc_dwiref_file, acpc_mask_file
        b=0 reference and mask in ACPC of a series without a T1w image.

    Outputs
    -------
    to_<space>_file, from_<space>_file
        Transforms between ACPC and a template.
    <space>_record
        Method and agreement.
    templates_record
        Warnings of all of them, and the entry of the sidecars.
    """
    head, mask = ("acpc_dwiref_file", "acpc_mask_file")
    lesion: dict[str, str] = {}
    if isinstance(plan, SessionPlan):
        head, mask = ("t1w_brain_file", "t1w_mask_file")
        lesion = {"lesion_file": "lesion_file"} if plan.lesion_mask is not None else {}
    templates = plan.templates
    workflow, inputnode, outputnode = open_workflow(
        name,
        [head, mask, *lesion],
        [
            *(f for t in templates for f in (
                f"to_{t.name}_file", f"from_{t.name}_file", f"{t.name}_record")),
            "templates_record",
        ],
    )  # fmt: skip
    listed = pe.Node(niu.Merge(len(templates)), name="list_records", run_without_submitting=True)
    base = name_other_templates(templates, plan.normalisation)
    merged = pe.Node(MergeRecords(base=base), name="merge_records", run_without_submitting=True)
    for number, template in enumerate(templates, start=1):
        register = pe.Node(
            RegisterOtherTemplate(
                space=template.name,
                template_file=str(template.t1w),
                method=plan.normalisation,
                sloppy=plan.sloppy,
            ),
            name=f"register_{template.name}",
            mem_gb=3,
        )
        if template.mask is not None:
            register.inputs.template_mask_file = str(template.mask)
        workflow.connect([
            (inputnode, register, [(head, "in_file"), (mask, "mask_file"), *lesion.items()]),
            (register, listed, [("warnings_record", f"in{number}")]),
            (register, outputnode, [("to_file", f"to_{template.name}_file"),
                                    ("from_file", f"from_{template.name}_file"),
                                    ("record", f"{template.name}_record")]),
        ])  # fmt: skip
    workflow.connect([
        (listed, merged, [("out", "in_records")]),
        (merged, outputnode, [("record", "templates_record")]),
    ])  # fmt: skip
    return workflow


def list_scalars(plan: SeriesPlan) -> list[tuple[str, OutputType]]:
    """Return model and type of each scalar map of a series that templates get."""
    if not plan.has_tensor:
        return []
    types = load_catalogue()
    made = [("tensor", [t.name for t in types.maps_of("tensor")])]
    made += [(network, list(plan.maps[network])) for network in plan.networks]
    found = [(model, types.output_type(name)) for model, names in made for name in names]
    return [(model, of) for model, of in found if of.in_templates]


def template_stage(plan: SeriesPlan, template: TemplateFiles) -> Stage:
    """Return the stage that writes mask and scalar maps of a series in the space of a template."""
    label = template.name
    grid = {"Resolution": f"res-{template.resolution} of tpl-{label}"}
    place = Output(
        "dwi_mask",
        (f"{label}_mask_file",),
        label,
        "record",
        metadata={"SpatialReference": template.uri} | (grid if template.resolution else {}),
        resolution=template.resolution or None,
    )
    maps = tuple(
        replace(
            place,
            type=of.name,
            fields=(f"{label_of(model)}_{of.name}_{label}_file",),
            record=f"{label_of(model)}_record",
            model=label_of(model),
        )
        for model, of in list_scalars(plan)
    )
    return Stage(
        name=f"maps_{label}",
        builder=partial(init_template_maps_wf, template=template),
        outputs=(place, *maps),
        describe=partial(_describe_maps, template=template),
    )


def _describe_maps(plan: SeriesPlan, template: TemplateFiles) -> Iterator[Line]:
    grid = f" at res-{template.resolution}" if template.resolution else ""
    names = dict.fromkeys(of.name.upper() for _, of in list_scalars(plan))
    yield (
        f"in {template.name}" if len(template.name) < 15 else "other space",
        f"{template.name}{grid}: brain mask{''.join(f', {n}' for n in names)}, resampled from "
        "ACPC; no series, no features",
    )


def init_template_maps_wf(
    plan: SeriesPlan, resources: Resources, *, template: TemplateFiles, name: str = "maps_wf"
) -> pe.Workflow:
    """Resample the brain mask and scalar maps of a series from ACPC onto a template's grid.

    Inputs
    ------
    acpc_mask_file
        Brain of the series in ACPC.
    to_<space>_file
        Transform that resamples ACPC into the template.
    <label>_<type>_file
        Scalar maps in ACPC.

    Outputs
    -------
    <space>_mask_file
        Brain mask on the grid of the template.
    <label>_<type>_<space>_file
        Maps on it, 0 outside the brain.
    """
    fields = [f"{label_of(model)}_{of.name}" for model, of in list_scalars(plan)]
    xfm = f"to_{template.name}_file"
    workflow, inputnode, outputnode = open_workflow(
        name,
        ["acpc_mask_file", xfm, *(f"{field}_file" for field in fields)],
        [f"{template.name}_mask_file", *(f"{field}_{template.name}_file" for field in fields)],
    )
    mask = pe.Node(BringMask(reference_file=str(template.t1w)), name="bring_mask", mem_gb=1)
    workflow.connect([
        (inputnode, mask, [("acpc_mask_file", "in_file"), (xfm, "xfm_file")]),
        (mask, outputnode, [("out_file", f"{template.name}_mask_file")]),
    ])  # fmt: skip
    if not fields:
        return workflow
    files = pe.Node(niu.Merge(len(fields)), name="list_maps", run_without_submitting=True)
    warp = pe.Node(ResampleMaps(), name="warp_maps", mem_gb=1)
    split = pe.Node(
        niu.Split(splits=[1] * len(fields), squeeze=True),
        name="split_maps",
        run_without_submitting=True,
    )
    workflow.connect([
        (inputnode, files, [(f"{field}_file", f"in{i}") for i, field in enumerate(fields, 1)]),
        (files, warp, [("out", "in_files")]),
        (inputnode, warp, [(xfm, "xfm_file")]),
        (mask, warp, [("out_file", "mask_file")]),
        (warp, split, [("out_files", "inlist")]),
        (split, outputnode, [(f"out{i}", f"{field}_{template.name}_file")
                             for i, field in enumerate(fields, 1)]),
    ])  # fmt: skip
    return workflow
