"""Features stage: one encoder on its own grid of the template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nipype.pipeline.engine as pe
from nipype.interfaces import utility as niu

from dmri_fm.identity import label_of
from dmri_fm_workflows.interfaces.models import ExtractFeatures
from dmri_fm_workflows.interfaces.report import PlotFeatures

__all__ = ["init_features_wf"]

_SERIES = ("dwi_file", "bval_file", "bvec_file", "mask_file")


def init_features_wf(
    *,
    encoder: str,
    weights: Path | None,
    device: str,
    random_seed: int,
    entities: Mapping[str, str],
    name: str | None = None,
) -> pe.Workflow:
    """Extract features of a series with an encoder, and draw them.

    Parameters
    ----------
    encoder
        Registered encoder; its label starts the fields of the outputs.
    weights
        Weights file; None for the packaged one.
    device
        Torch device.
    random_seed
        Seed of the choice of directions.
    entities
        Entities of the scan, long names; they lead the table's row.
    name
        Name of the workflow; by default `<label>_wf`.

    Inputs
    ------
    <label>_grid_dwi_file, <label>_grid_bval_file, <label>_grid_bvec_file, <label>_grid_mask_file
        Series on the encoder's grid.

    Outputs
    -------
    <label>_scan_file, <label>_patch_file
        Scan features, patch features.
    <label>_ood
        Score and percentile of the distance to the training features.
    <label>_record
        Model, preprocessing and seed, for the sidecars.
    <label>_figure
        Scan and patch features, SVG.
    """
    label = label_of(encoder)
    workflow = pe.Workflow(name=name or f"{label}_wf")
    inputnode = pe.Node(
        niu.IdentityInterface([f"{label}_grid_{f}" for f in _SERIES]), name="inputnode"
    )
    extracted = {
        "scan_file": f"{label}_scan_file",
        "patch_file": f"{label}_patch_file",
        "ood": f"{label}_ood",
        "facts": f"{label}_record",
    }
    outputnode = pe.Node(
        niu.IdentityInterface([*extracted.values(), f"{label}_figure"]), name="outputnode"
    )
    extract = pe.Node(
        ExtractFeatures(model=encoder, device=device, seed=random_seed, entities=dict(entities)),
        name="extract_features",
        mem_gb=4,
    )
    if weights is not None:
        extract.inputs.weights = str(weights)
    plot = pe.Node(PlotFeatures(), name="plot_features")
    workflow.connect([
        (inputnode, extract, [(f"{label}_grid_{f}", f) for f in _SERIES]),
        (extract, plot, [("scan_file", "scan_file"), ("patch_file", "patch_file")]),
        (extract, outputnode, list(extracted.items())),
        (plot, outputnode, [("out_file", f"{label}_figure")]),
    ])  # fmt: skip
    return workflow
