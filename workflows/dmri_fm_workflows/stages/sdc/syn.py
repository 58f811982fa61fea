"""The distortion field from the T1w image, where there is neither a pair nor a field map."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm.preprocess.anatomical_field import ANATOMICAL_METHOD
from dmri_fm_workflows.interfaces.anatomical_field import EstimateAnatomicalField
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources
from dmri_fm_workflows.stages.sdc.engine import (
    SdcEngine,
    b0_encoding,
    connect_estimate,
    explain_no_shift,
)


def init_syn_wf(plan: SeriesPlan, resources: Resources, *, name: str = "sdc_wf") -> pe.Workflow:
    """Register the b=0 reference to the T1w image along phase encoding.

    Inputs
    ------
    denoised_file, bval_file, raw_bvec_file, volumes_file
        Merged series.
    t1w_brain_file, to_t1w_acpc_file
        T1w brain in ACPC, and the transform of the T1w image there.

    Outputs
    -------
    biased_dwiref_file, uncorrected_file
        b=0 reference, and the image it was corrected from.
    field_file
        Off-resonance, Hz.
    sdc_record
        Method, and what it changed.
    """
    estimate = pe.Node(
        EstimateAnatomicalField(encoding=b0_encoding(plan)),
        name="estimate_field",
        mem_gb=2 + plan.size_gb,
    )
    return connect_estimate(name, estimate, "t1w_brain_file", "to_t1w_acpc_file")


ENGINE = SdcEngine(
    builder=init_syn_wf,
    describe=lambda plan: ANATOMICAL_METHOD,
    gives="field",
    reason=lambda series: "asked for (--sdc syn)",
    applies=explain_no_shift,
    needs_t1w=True,
    in_auto=False,
)
