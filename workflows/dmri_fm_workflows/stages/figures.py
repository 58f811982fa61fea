"""Report stage: the figures of a scan that are drawn in its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.normalise import ResampleTo
from dmri_fm_workflows.interfaces.quality_figures import PlotCarpet, PlotCnr, PlotNoise
from dmri_fm_workflows.interfaces.report import (
    PlotBeforeAfter,
    PlotBias,
    PlotColourFa,
    PlotField,
    PlotInTemplate,
    PlotMask,
    PlotRegistration,
    PlotRemoval,
    PlotScheme,
)
from dmri_fm_workflows.plan import SeriesPlan, SessionPlan
from dmri_fm_workflows.report.participant import SERIES_FIGURES
from dmri_fm_workflows.stages.base import SERIES_FILES, Resources, open_workflow
from dmri_fm_workflows.stages.noise_maps import has_residual

#: Figures of a series that this stage draws; networks and encoders draw their own.
DRAWN = SERIES_FIGURES[:-2]

#: A figure's interface and, by field of the graph, its inputs.
Drawing = tuple[Any, Mapping[str, str]]

_MASKED = {"dwi_mask_file": "mask_file"}
_IN_TEMPLATE = {
    "mni_brain_file": "moving_file",
    "template_file": "fixed_file",
    "template_mask_file": "mask_file",
}


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
    mask = PlotMask(title=f"{plan.contrast} image and brain mask")
    drawings = {
        "t1wmask": (mask, {"t1w_file": "in_file", "t1w_mask_file": "mask_file"}),
        "t1wtemplate": (_plot_registration(f"{plan.contrast} image", "template"), _IN_TEMPLATE),
    }
    return _figures_wf(name, drawings)


def init_series_figures_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "figures_wf"
) -> pe.Workflow:
    """Draw one series, by the stages that run.

    Inputs
    ------
    run_dwi_files, denoised_files, ringing_files, run_bval_files
        Runs as acquired, corrected, and before the removal of Gibbs ringing, with b-values.
    raw_file, bval_file, raw_bvec_file, motion_file, outliers_file
        Merged series as acquired, with gradients and motion.
    dwi_file, bvec_file
        Preprocessed series, instead.
    dwiref_file, uncorrected_file, dwi_mask_file
        b=0 reference after and before distortion correction, and its mask.
    biased_dwiref_file, bias_file
        b=0 reference with its bias, and the receive field that the series is divided by.
    acpc_dwiref_file, acpc_mask_file, mni_mask_file
        The same after the one resampling.
    acpc_field_file
        Distortion field, Hz, if there is any.
    acpc_noise_file, acpc_residual_files
        Noise map, and residual map if there is one; not of a preprocessed series.
    t1w_brain_file, mni_brain_file, template_file, template_mask_file
        Anatomy, or the series' own registration to the template.
    tensor_fa_file, tensor_v1_file, tensor_fa_mni_file
        Maps of the tensor fit.
    cnr_files, cnr_record
        Contrast-to-noise ratio by shell, or nothing, and the shells.

    Outputs
    -------
    samplingscheme_figure, dwiref_figure, coreg_figure
        SVG files of every series.
    cnr_figure
        None where no shell has enough directions.
    carpetplot_figure, denoising_figure, unringing_figure, noise_figure, sdc_figure,
    fieldmap_figure, bias_figure, fa_figure, famni_figure
        Of the stages that run.
    """
    drawings = _drawings(plan)
    if not plan.has_t1w:
        drawings["coreg"] = (_plot_registration("b=0 reference", "template"), _IN_TEMPLATE)
        return _figures_wf(name, drawings)
    drawings["coreg"] = (
        _plot_registration("b=0 reference", f"{plan.contrast} image"),
        {"acpc_dwiref_file": "moving_file", "acpc_mask_file": "mask_file"},
    )
    workflow = _figures_wf(name, drawings, more_inputs=["t1w_brain_file"])
    resample = pe.Node(ResampleTo(), name="resample_t1w")
    workflow.connect([
        (workflow.get_node("inputnode"), resample, [("t1w_brain_file", "in_file"),
                                                    ("acpc_dwiref_file", "reference_file")]),
        (resample, workflow.get_node("plot_coreg"), [("out_file", "fixed_file")]),
    ])  # fmt: skip
    return workflow


def _drawings(plan: SeriesPlan) -> dict[str, Drawing]:
    """Return the figures of a series by `desc` label, without its registration."""
    raw = {"raw_file": "dwi_file", "bval_file": "bval_file"}
    scheme = raw | {"raw_bvec_file": "bvec_file"}
    if plan.is_preprocessed:
        scheme = {f: f for f in SERIES_FILES}
    drawings: dict[str, Drawing] = {
        "cnr": (
            PlotCnr(),
            {"cnr_files": "cnr_files", "cnr_record": "record", "acpc_mask_file": "mask_file"},
        ),
        "samplingscheme": (PlotScheme(), scheme),
        "dwiref": (
            PlotMask(title="b=0 reference and brain mask"),
            {"dwiref_file": "in_file"} | _MASKED,
        ),
    }
    if not plan.is_preprocessed:
        motion = {"motion_file": "motion_file", "outliers_file": "outliers_file"}
        drawings["carpetplot"] = (PlotCarpet(), raw | _MASKED | motion)
        maps = {"acpc_noise_file": "noise_file", "acpc_mask_file": "mask_file"}
        maps |= {"acpc_residual_files": "residual_files"} if has_residual(plan) else {}
        drawings["noise"] = (PlotNoise(), maps)
    if plan.engines.denoise != "none":
        after = "ringing_files" if plan.unring else "denoised_files"
        drawings["denoising"] = _plot_removal("Denoising", "run_dwi_files", after)
    if plan.unring:
        drawings["unringing"] = _plot_removal("Gibbs ringing", "ringing_files", "denoised_files")
    if plan.unbias:
        inputs = {"biased_dwiref_file": "in_file", "bias_file": "bias_file"}
        drawings["bias"] = (PlotBias(), inputs | _MASKED)
    if plan.sdc.has_field:
        inputs = {"uncorrected_file": "before_file", "dwiref_file": "after_file"}
        drawings["sdc"] = (PlotBeforeAfter(title="Susceptibility distortion"), inputs | _MASKED)
        inputs = {"acpc_dwiref_file": "in_file", "acpc_field_file": "field_file"}
        drawings["fieldmap"] = (PlotField(), inputs | {"acpc_mask_file": "mask_file"})
    if plan.has_tensor:
        inputs = {"tensor_fa_file": "fa_file", "tensor_v1_file": "v1_file"}
        drawings["fa"] = (PlotColourFa(), inputs | {"acpc_mask_file": "mask_file"})
        drawings["famni"] = (
            PlotInTemplate(title="FA in the template"),
            {"tensor_fa_mni_file": "in_file", "mni_mask_file": "mask_file"},
        )
    return drawings


def _plot_removal(title: str, before: str, after: str) -> Drawing:
    """Return the figure of what a correction took from the runs, by the fields of its ends."""
    inputs = {before: "before_files", after: "after_files", "run_bval_files": "bval_files"}
    return PlotRemoval(title=title), inputs | _MASKED


def _plot_registration(moving: str, fixed: str) -> PlotRegistration:
    return PlotRegistration(moving_label=moving, fixed_label=fixed, title=f"{moving} to {fixed}")


def _figures_wf(
    name: str, drawings: Mapping[str, Drawing], *, more_inputs: Sequence[str] = ()
) -> pe.Workflow:
    """Return the workflow of figures by their `desc` label, a node `plot_<label>` each."""
    inputs = dict.fromkeys(field for _, fields in drawings.values() for field in fields)
    workflow, inputnode, outputnode = open_workflow(
        name, [*inputs, *more_inputs], [f"{label}_figure" for label in drawings]
    )
    for label, (interface, fields) in drawings.items():
        node = pe.Node(interface, name=f"plot_{label}")
        workflow.connect([
            (inputnode, node, list(fields.items())),
            (node, outputnode, [("out_file", f"{label}_figure")]),
        ])  # fmt: skip
    return workflow
