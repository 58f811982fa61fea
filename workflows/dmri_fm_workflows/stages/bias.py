"""Stage of the receive-field (B1) bias of a series."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.bias import EstimateBias
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources, open_workflow


def init_bias_wf(plan: SeriesPlan, resources: Resources, *, name: str = "bias_wf") -> pe.Workflow:
    """Estimate the bias field that is divided out of the series after interpolation.

    Inputs
    ------
    biased_dwiref_file, dwi_mask_file
        b=0 reference before its own bias correction, and its brain mask.

    Outputs
    -------
    bias_file
        Factor of the signal, on the grid of the reference.
    bias_record
        Range of the field in the brain.
    """
    inputs = {"biased_dwiref_file": "in_file", "dwi_mask_file": "mask_file"}
    workflow, inputnode, outputnode = open_workflow(name, inputs, ["bias_file", "bias_record"])
    estimate = pe.Node(EstimateBias(), name="estimate_bias", mem_gb=0.5)
    workflow.connect([
        (inputnode, estimate, list(inputs.items())),
        (estimate, outputnode, [("out_file", "bias_file"), ("record", "bias_record")]),
    ])  # fmt: skip
    return workflow
