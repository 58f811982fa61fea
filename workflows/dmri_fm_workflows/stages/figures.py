"""Report stage: the figures of the graph, and the page made from the output folder."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nipype.pipeline.engine as pe

from dmri_fm import __version__
from dmri_fm.gradient_files import read_gradients, stated_b0_threshold
from dmri_fm.identity import IDENTITIES
from dmri_fm.json_files import read_object
from dmri_fm.series import load_image
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.bids.scans import ASSUMED_READOUT_NOTE
from dmri_fm_workflows.interfaces.normalise import ResampleTo
from dmri_fm_workflows.interfaces.report import (
    PlotBeforeAfter,
    PlotCarpet,
    PlotColourFa,
    PlotDenoising,
    PlotInTemplate,
    PlotMask,
    PlotRegistration,
    PlotScheme,
)
from dmri_fm_workflows.outputs.methods import describe_methods, find_processed
from dmri_fm_workflows.outputs.naming import identify, sidecar_path
from dmri_fm_workflows.outputs.publish import publish_text
from dmri_fm_workflows.outputs.tsv import read_table, scan_columns
from dmri_fm_workflows.plan import SeriesPlan, SessionPlan
from dmri_fm_workflows.report import (
    AnatomySection,
    Fact,
    Figure,
    ReportData,
    ReportWarning,
    RunError,
    SeriesSection,
    describe_series,
    quality_rows,
    render_report,
    standard_figure,
)
from dmri_fm_workflows.stages.base import Resources, open_workflow

__all__ = ["init_anat_figures_wf", "init_series_figures_wf", "write_participant_page"]

#: Order of the figures on the page.
FIGURES = (
    "samplingscheme",
    "denoising",
    "sdc",
    "dwiref",
    "coreg",
    "carpetplot",
    "fa",
    "famni",
    "tensorvsnetwork",
    "features",
)

#: Of these, what the stage of figures draws; networks and encoders draw their own.
DRAWN = FIGURES[:-2]

#: Entries of the preprocessed series' sidecar that the page shows, with their headings.
FACTS = {
    "B0Threshold": "b-values below this count as b=0, s/mm^2",
    "BScaling": "b-vectors of another length than 1",
    "BScalingCheck": "Check of the b-values",
    "VolumesLeftOut": "Volumes left out (counted from 0)",
    "VolumesCutShort": "Volumes cut short (counted from 0; share of slices that are zero)",
    "Denoising": "Denoising",
    "GibbsCorrection": "Gibbs ringing",
    "SDCMethod": "Susceptibility distortion",
    "SDCReason": "because",
    "HMCMethod": "Head motion and eddy currents",
    "MaskMethod": "Brain mask",
    "CoregistrationMethod": "Registration to the T1w image",
    "NormalisationMethod": "Registration to the template",
    "RunIntensityScales": "Intensity factor per run",
    "TotalReadoutTimeAssumed": f"Readout times assumed, s ({ASSUMED_READOUT_NOTE})",
}

#: Packages whose versions decide the numbers.
PACKAGES = ("antspyx", "deepbet", "dipy", "nibabel", "nipype", "niworkflows", "numpy", "torch")


def init_anat_figures_wf(
    plan: SessionPlan, resources: Resources, *, name: str = "figures_wf"
) -> pe.Workflow:
    """Draw the anatomy.

    Inputs
    ------
    t1w_file, t1w_mask_file
        T1w image in ACPC and its mask.
    mni_brain_file, template_file, template_mask_file
        Brain in MNI, template, template's brain.

    Outputs
    -------
    t1wmask_figure, t1wtemplate_figure
        SVG files.
    """
    mask = pe.Node(PlotMask(title="T1w image and brain mask"), name="plot_t1w_mask")
    template = pe.Node(
        PlotRegistration(
            moving_label="T1w image", fixed_label="template", title="T1w image to template"
        ),
        name="plot_template",
    )
    drawings = {
        "t1wmask": (mask, {"t1w_file": "in_file", "t1w_mask_file": "mask_file"}),
        "t1wtemplate": (template, _IN_TEMPLATE),
    }
    return _figures_wf(name, drawings)


#: A figure's node and, by field of the graph, its inputs.
Drawing = tuple[pe.Node, Mapping[str, str]]

_IN_TEMPLATE = {
    "mni_brain_file": "moving_file",
    "template_file": "fixed_file",
    "template_mask_file": "mask_file",
}


def _figures_wf(
    name: str, drawings: Mapping[str, Drawing], *, more_inputs: Sequence[str] = ()
) -> pe.Workflow:
    """Return the workflow of figures by their `desc` label."""
    inputs = dict.fromkeys(field for _, fields in drawings.values() for field in fields)
    workflow, inputnode, outputnode = open_workflow(
        name, [*inputs, *more_inputs], [f"{label}_figure" for label in drawings]
    )
    for label, (node, fields) in drawings.items():
        workflow.connect([
            (inputnode, node, list(fields.items())),
            (node, outputnode, [("out_file", f"{label}_figure")]),
        ])  # fmt: skip
    return workflow


def init_series_figures_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "figures_wf"
) -> pe.Workflow:
    """Draw one series, by the stages that run.

    Inputs
    ------
    denoised_file, raw_file, bval_file, raw_bvec_file, motion_file, outliers_file
        Merged series, as denoised and as acquired, with gradients and motion.
    dwiref_file, uncorrected_file, dwi_mask_file
        b=0 reference after and before distortion correction, and its mask.
    acpc_dwiref_file, acpc_mask_file, mni_mask_file
        The same after the one resampling.
    t1w_brain_file, mni_brain_file, template_file, template_mask_file
        Anatomy, or the series' own registration to the template.
    tensor_fa_file, tensor_v1_file, tensor_fa_mni_file
        Maps of the tensor fit.

    Outputs
    -------
    samplingscheme_figure, dwiref_figure, carpetplot_figure, coreg_figure
        SVG files of every series.
    denoising_figure, sdc_figure, fa_figure, famni_figure
        Of the stages that run.
    """
    drawings: dict[str, Drawing] = {
        "samplingscheme": (
            pe.Node(PlotScheme(), name="plot_scheme"),
            {"raw_file": "dwi_file", "bval_file": "bval_file", "raw_bvec_file": "bvec_file"},
        ),
        "dwiref": (
            pe.Node(PlotMask(title="b=0 reference and brain mask"), name="plot_dwiref"),
            {"dwiref_file": "in_file", "dwi_mask_file": "mask_file"},
        ),
        "carpetplot": (
            pe.Node(PlotCarpet(), name="plot_carpet"),
            {
                "raw_file": "dwi_file",
                "bval_file": "bval_file",
                "dwi_mask_file": "mask_file",
                "motion_file": "motion_file",
                "outliers_file": "outliers_file",
            },
        ),
    }
    if plan.engines.denoise != "none":
        drawings["denoising"] = (
            pe.Node(PlotDenoising(), name="plot_denoising"),
            {
                "raw_file": "raw_file",
                "bval_file": "bval_file",
                "denoised_file": "dwi_file",
                "dwi_mask_file": "mask_file",
            },
        )
    if plan.sdc.has_field:
        drawings["sdc"] = (
            pe.Node(PlotBeforeAfter(title="Susceptibility distortion"), name="plot_sdc"),
            {
                "uncorrected_file": "before_file",
                "dwiref_file": "after_file",
                "dwi_mask_file": "mask_file",
            },
        )
    drawings |= _model_drawings(plan)
    if not plan.has_t1w:
        drawings["coreg"] = (_plot_registration("template"), _IN_TEMPLATE)
        return _figures_wf(name, drawings)
    coreg = _plot_registration("T1w image")
    drawings["coreg"] = (
        coreg,
        {"acpc_dwiref_file": "moving_file", "acpc_mask_file": "mask_file"},
    )
    workflow = _figures_wf(name, drawings, more_inputs=["t1w_brain_file"])
    resample = pe.Node(ResampleTo(), name="resample_t1w")
    workflow.connect([
        (workflow.get_node("inputnode"), resample, [("t1w_brain_file", "in_file"),
                                                    ("acpc_dwiref_file", "reference_file")]),
        (resample, coreg, [("out_file", "fixed_file")]),
    ])  # fmt: skip
    return workflow


def _plot_registration(fixed: str) -> pe.Node:
    """Return the node that draws the b=0 reference over what it was registered to."""
    return pe.Node(
        PlotRegistration(
            moving_label="b=0 reference", fixed_label=fixed, title=f"b=0 reference to {fixed}"
        ),
        name="plot_coreg",
    )


def _model_drawings(plan: SeriesPlan) -> dict[str, Drawing]:
    """Return the figures of the tensor fit."""
    drawings: dict[str, Drawing] = {}
    if plan.has_tensor:
        drawings["fa"] = (
            pe.Node(PlotColourFa(), name="plot_colour_fa"),
            {
                "tensor_fa_file": "fa_file",
                "tensor_v1_file": "v1_file",
                "acpc_mask_file": "mask_file",
            },
        )
        drawings["famni"] = (
            pe.Node(PlotInTemplate(title="FA in the template"), name="plot_fa_mni"),
            {"tensor_fa_mni_file": "in_file", "mni_mask_file": "mask_file"},
        )
    return drawings


def write_participant_page(
    output_dir: Path,
    label: str,
    *,
    dataset: str,
    errors: Sequence[RunError],
    config: str,
    hidden: Collection[Path] = (),
) -> Path:
    """Write `sub-<label>.html` from what stands in the output folder.

    Parameters
    ----------
    output_dir
        Root of the output dataset.
    label
        Participant, without `sub-`.
    dataset
        Name of the raw dataset.
    errors
        What failed in this run.
    config
        The request, as TOML.
    hidden
        Outputs of earlier runs that this one should have replaced.
    """
    subject = output_dir / f"sub-{label}"
    warnings: list[ReportWarning] = []
    there = set(subject.rglob("*")).difference(hidden)
    series = [
        _series_section(output_dir, path, warnings, there)
        for path in sorted(p for p in there if p.match("*_space-ACPC_desc-preproc_dwi.json"))
    ]
    anatomy = [
        _anatomy_section(output_dir, path, warnings, there)
        for path in sorted(p for p in there if p.match("*_space-ACPC_desc-preproc_T1w.json"))
    ]
    page = output_dir / f"sub-{label}.html"
    report = ReportData(
        participant=label,
        dataset=dataset,
        version=__version__,
        summary=(
            Fact("Series", ", ".join(s.name for s in series) or "none completed"),
            Fact("T1w images", str(len(anatomy))),
        ),
        warnings=tuple(warnings),
        anatomy=tuple(anatomy),
        series=tuple(series),
        methods=describe_methods(find_processed(there)),
        software=tuple(Fact(name, version(name)) for name in PACKAGES),
        command=shlex.join(["drope-bidsapp", *sys.argv[1:]]),
        config=config,
        errors=tuple(errors),
    )
    publish_text(render_report(report), page)
    return page


def _figures(
    output_dir: Path,
    there: Collection[Path],
    entities: dict[str, str],
    labels: Sequence[str],
    suffix: str,
) -> tuple[Figure, ...]:
    """Return the figures of a scan among the files that are there; of several models in order."""
    found = []
    for label in labels:
        for model in (None, *(record.label for record in IDENTITIES.values())):
            of_model = "" if model is None else f"_model-{model}"
            name = f"{scan_name(entities)}{of_model}_desc-{label}_{suffix}.svg"
            path = f"sub-{entities['subject']}/figures/{name}"
            if output_dir / path in there:
                found.append(standard_figure(label, path, model=model))
    return tuple(found)


def _facts(sidecar: dict[str, Any]) -> tuple[Fact, ...]:
    return tuple(
        Fact(title, _in_words(sidecar[key])) for key, title in FACTS.items() if key in sidecar
    )


def _warnings(sidecar: dict[str, Any], where: str) -> list[ReportWarning]:
    found = sidecar.get("Warnings")
    texts = found if isinstance(found, list) else []
    return [ReportWarning("warning", str(text), where=where) for text in texts]


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        # A measure with a summary, or a value for each file.
        told = "; ".join(f"{name}: {_in_words(part)}" for name, part in value.items())
        return str(value.get("Summary") or told)
    if isinstance(value, list):
        return ", ".join(map(_in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _anatomy_section(
    output_dir: Path, path: Path, warnings: list[ReportWarning], there: Collection[Path]
) -> AnatomySection:
    entities = identify(path.relative_to(output_dir)).source_entities
    name = scan_name(entities)
    sidecar = read_object(path)
    warnings += _warnings(sidecar, f"Anatomy of {name}")
    own = _figures(output_dir, there, entities, ("t1wmask", "t1wtemplate"), "T1w")
    return AnatomySection(f"Anatomy of {name}", _facts(sidecar), own)


def _series_section(
    output_dir: Path, path: Path, warnings: list[ReportWarning], there: Collection[Path]
) -> SeriesSection:
    entities = identify(path.relative_to(output_dir)).source_entities
    name = scan_name(entities)
    sidecar = read_object(path)
    warnings += _warnings(sidecar, name)
    stem = path.name.removesuffix(".json")
    facts: tuple[Fact, ...] = ()
    if path.parent / f"{stem}.nii.gz" in there:
        image = load_image(path.parent / f"{stem}.nii.gz", ndim=4)
        gtab = read_gradients(
            path.parent / f"{stem}.bval",
            path.parent / f"{stem}.bvec",
            affine=image.affine,
            n_volumes=image.shape[3],
            b0_threshold=stated_b0_threshold(sidecar),
        )
        facts = describe_series(image.shape, image.affine, gtab)
    quality = path.parent / f"{name}_desc-image_qc.tsv"
    measures: dict[str, float | None] = {}
    if quality in there:
        described = read_object(Path(sidecar_path(quality)))
        (row,) = read_table(quality)
        scan = scan_columns(entities)
        measures = {
            k: None if v == "n/a" else float(v)
            for k, v in row.items()
            if k in described and k not in scan
        }
    return SeriesSection(
        name,
        facts=(*facts, *_facts(sidecar)),
        figures=_figures(output_dir, there, entities, FIGURES, "dwi"),
        quality=quality_rows(measures),
        not_used=tuple(
            Fact(entry["File"].removeprefix("bids:raw:"), entry["Reason"])
            for entry in sidecar.get("SDCImagesNotUsed", [])
        ),
    )
