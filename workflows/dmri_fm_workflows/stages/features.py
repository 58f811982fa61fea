"""Features stage: one encoder on its own grid of the template."""

from __future__ import annotations

from functools import partial

import nipype.pipeline.engine as pe

from dmri_fm.identity import label_of
from dmri_fm_workflows.interfaces.models import ExtractFeatures
from dmri_fm_workflows.interfaces.report import PlotFeatures
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources, Stage, open_workflow
from dmri_fm_workflows.stages.lines import describe_encoder
from dmri_fm_workflows.stages.normalise import model_inputs
from dmri_fm_workflows.stages.outputs import FEATURE_FILES, feature_outputs


def encoder_stage(encoder: str) -> Stage:
    """Return the stage of an encoder."""
    return Stage(
        name=label_of(encoder),
        builder=partial(init_features_wf, encoder=encoder),
        outputs=feature_outputs(encoder),
        describe=partial(describe_encoder, encoder=encoder),
    )


def init_features_wf(
    plan: SeriesPlan, resources: Resources, *, encoder: str, name: str = "features_wf"
) -> pe.Workflow:
    """Extract features of a series with an encoder, and draw them.

    Inputs
    ------
    <label>_grid_dwi_file, <label>_grid_bval_file, <label>_grid_bvec_file, <label>_grid_mask_file
        Series on the encoder's grid; fields bear the encoder's label.
    <label>_grid_rotations_file, <label>_grid_rotations_record
        Rotations of directions by a warp, and their record, for encoders that read them.

    Outputs
    -------
    <label>_scan_file, <label>_patch_file, <label>_sensitivity_file
        Scan features; patch features and sensitivity, of encoders that give them.
    <label>_ood
        Score and percentile of the distance to the training features.
    <label>_record
        Model, preprocessing and seed, for the sidecars.
    <label>_figure
        Scan and patch features, SVG.
    """
    label = label_of(encoder)
    inputs = {f"{label}_grid_{f}": f for f in model_inputs(plan, encoder)}
    files = [
        f for of, f in FEATURE_FILES.items() if load_catalogue().output_type(of).is_of(encoder)
    ]
    outputs = {f: f"{label}_{f}" for f in (*files, "ood", "record")}
    workflow, inputnode, outputnode = open_workflow(
        name, inputs, [*outputs.values(), f"{label}_figure"]
    )
    extract = pe.Node(
        ExtractFeatures(
            model=encoder,
            entities=plan.entities,
            region=plan.region_of(encoder),
            seed=plan.random_seed,
            base=plan.model_base,
            **plan.network_inputs(encoder),
        ),
        name="extract_features",
        mem_gb=4,
    )
    plot = pe.Node(PlotFeatures(), name="plot_features")
    workflow.connect([
        (inputnode, extract, list(inputs.items())),
        (extract, plot, [(f, f) for f in files]),
        (extract, outputnode, list(outputs.items())),
        (plot, outputnode, [("out_file", f"{label}_figure")]),
    ])  # fmt: skip
    return workflow
