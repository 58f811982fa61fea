"""No correction of head motion: identity transforms."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.motion import SkipMotion
from dmri_fm_workflows.outputs.steps import Method
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources, open_workflow
from dmri_fm_workflows.stages.hmc.engine import INPUTS, ONCE, RESULTS, HmcEngine

__all__ = ["ENGINE", "init_no_motion_wf"]


def init_no_motion_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "hmc_wf"
) -> pe.Workflow:
    """Hand on the series as it is, with one identity transform per volume.

    Inputs
    ------
    denoised_file, bval_file, raw_bvec_file, volumes_file
        Merged series.
    field_file
        Off-resonance, Hz, if there is any.

    Outputs
    -------
    dwi_file, bvec_file, remaining_field_file
        The same series, and the field that is still to be corrected.
    motion_file, motion_record, confounds_file, confounds_record, outliers_file
        Transforms, what they are, and confounds.
    hmc_record
        What ran.
    """
    field = {"field_file": "remaining_field_file"} if plan.sdc.has_field else {}
    kept = {"denoised_file": "dwi_file", "raw_bvec_file": "bvec_file", **field}
    workflow, inputnode, outputnode = open_workflow(
        name, {**INPUTS, **field}, [*kept.values(), *RESULTS.values()]
    )
    skip = pe.Node(SkipMotion(), name="skip_motion")
    workflow.connect([
        (inputnode, skip, list(INPUTS.items())),
        (skip, outputnode, list(RESULTS.items())),
        (inputnode, outputnode, list(kept.items())),
    ])  # fmt: skip
    return workflow


ENGINE = HmcEngine(
    name="none",
    builder=init_no_motion_wf,
    describe=lambda sloppy: "none",
    methods=(Method("none", f"Head motion and eddy currents were not corrected; {ONCE}."),),
)
