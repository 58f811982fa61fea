"""The built-in estimate of the distortion field, from images of opposite phase encoding."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm.preprocess import susceptibility
from dmri_fm_workflows.interfaces.preprocess import EstimatePairField
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources
from dmri_fm_workflows.stages.sdc.engine import (
    SdcEngine,
    connect_estimate,
    explain_no_pair,
    name_pair,
    reverse_inputs,
)


def init_pepolar_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "sdc_wf"
) -> pe.Workflow:
    """Estimate the distortion field, and the b=0 reference that it corrects.

    Inputs
    ------
    denoised_file, bval_file, raw_bvec_file, volumes_file
        Merged series.

    Outputs
    -------
    biased_dwiref_file, uncorrected_file
        b=0 reference before bias correction, and the image it was corrected from.
    field_file
        Off-resonance, Hz.
    sdc_record
        Method, with its version.
    """
    assert plan.series.blip_pair is not None
    up, down = plan.series.blip_pair
    estimate = pe.Node(
        EstimatePairField(
            up_encoding=up.phase_encoding,
            down_encoding=down.phase_encoding,
            **reverse_inputs(plan),
        ),
        name="estimate_field",
        mem_gb=2 * plan.size_gb,
    )
    return connect_estimate(name, estimate)


ENGINE = SdcEngine(
    builder=init_pepolar_wf,
    describe=lambda plan: susceptibility.PAIR_METHOD,
    gives="field",
    reason=name_pair,
    applies=explain_no_pair,
    uses_pair=True,
)
