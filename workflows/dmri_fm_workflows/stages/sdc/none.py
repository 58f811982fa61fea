"""No susceptibility correction: the b=0 reference alone."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.preprocess import MakeReference
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources, open_workflow
from dmri_fm_workflows.stages.sdc.engine import FIELDS, SdcEngine


def init_reference_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "sdc_wf"
) -> pe.Workflow:
    """Make the b=0 reference.

    Inputs
    ------
    denoised_file, bval_file, raw_bvec_file
        Merged series.

    Outputs
    -------
    biased_dwiref_file, uncorrected_file
        b=0 reference before bias correction; the same image.
    sdc_record
        Method, with its version.
    """
    workflow, inputnode, outputnode = open_workflow(
        name, ["denoised_file", "bval_file", "raw_bvec_file"], FIELDS[ENGINE.gives]
    )
    reference = pe.Node(MakeReference(), name="make_reference", mem_gb=2 * plan.size_gb)
    outputnode.inputs.sdc_record = {"SDCMethod": ENGINE.describe(plan)}
    workflow.connect([
        (inputnode, reference, [("denoised_file", "dwi_file"), ("bval_file", "bval_file"),
                                ("raw_bvec_file", "bvec_file")]),
        (reference, outputnode, [("dwiref_file", "biased_dwiref_file"),
                                 ("dwiref_file", "uncorrected_file")]),
    ])  # fmt: skip
    return workflow


ENGINE = SdcEngine(
    builder=init_reference_wf,
    describe=lambda plan: "none",
    gives=None,
    reason=lambda series: "switched off on the command line",
)
