"""No correction of head motion: identity transforms."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.interfaces.motion import SkipMotion
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources
from dmri_fm_workflows.stages.hmc.engine import HmcEngine, wire_estimate


def init_no_motion_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "hmc_wf"
) -> pe.Workflow:
    """Give each volume the identity transform; the series passes unchanged.

    Inputs
    ------
    denoised_file, bval_file, raw_bvec_file, volumes_file
        Merged series.
    field_file
        Off-resonance, Hz, if there is any.

    Outputs
    -------
    dwi_file, bvec_file, remaining_field_file
        The same series, and the uncorrected distortion field.
    motion_file, motion_record, confounds_file, confounds_record, outliers_file
        Transforms and their description, confounds, outlier slices.
    hmc_record
        Method, with its version.
    """
    return wire_estimate(name, pe.Node(SkipMotion(), name="skip_motion"), plan)


ENGINE = HmcEngine(
    builder=init_no_motion_wf,
    describe=lambda plan: "none",
)
