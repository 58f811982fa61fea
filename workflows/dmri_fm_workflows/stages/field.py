"""Stage that brings the distortion field into ACPC, as an output."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.fieldmap import ResampleField
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources, open_workflow


def init_field_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "field_wf"
) -> pe.Workflow:
    """Resample the distortion field into ACPC.

    Inputs
    ------
    field_file
        Off-resonance on the grid of the b=0 reference, Hz.
    to_acpc_file
        Transform of that reference.
    acpc_dwiref_file
        The reference in ACPC, gives the grid.

    Outputs
    -------
    acpc_field_file
        Off-resonance in ACPC, Hz.
    field_record
        B0 field and method.
    """
    inputs = {
        "field_file": "field_file",
        "to_acpc_file": "xfm_file",
        "acpc_dwiref_file": "reference_file",
    }
    workflow, inputnode, outputnode = open_workflow(
        name, inputs, ["acpc_field_file", "field_record"]
    )
    resample = pe.Node(ResampleField(), name="resample_field", mem_gb=0.5)
    outputnode.inputs.field_record = {
        "B0FieldIdentifier": list(plan.field_identifiers) or plan.name.replace("-", ""),
        "EstimationMethod": plan.sdc_name,
    }
    workflow.connect([
        (inputnode, resample, list(inputs.items())),
        (resample, outputnode, [("out_file", "acpc_field_file")]),
    ])  # fmt: skip
    return workflow
