"""The distortion field from a gradient-echo field map."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm.preprocess.phase_fieldmap import name_unwrapping
from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.interfaces.fieldmap import EstimateFieldmap
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources
from dmri_fm_workflows.stages.sdc.engine import (
    SdcEngine,
    b0_encoding,
    connect_estimate,
    explain_no_shift,
)

#: Names of the methods of field maps.
_NAMES = {
    "phasediff": "Gradient-echo phase difference",
    "phase1phase2": "Two gradient-echo phase images",
    "fieldmap": "Gradient-echo field map in Hz",
}


def init_fieldmap_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "sdc_wf"
) -> pe.Workflow:
    """Bring a gradient-echo field map to the b=0 reference, and correct that.

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
    fieldmap = plan.series.usable_fieldmap
    assert fieldmap is not None
    estimate = pe.Node(
        EstimateFieldmap(
            encoding=b0_encoding(plan),
            source_files=[str(path) for path in fieldmap.sources],
            magnitude_file=str(fieldmap.magnitude),
            units=fieldmap.units,
            method=ENGINE.describe(plan),
        ),
        name="estimate_field",
        mem_gb=2 + plan.size_gb,
    )
    if fieldmap.echo_times_s is not None:
        estimate.inputs.echo_times_s = fieldmap.echo_times_s
    return connect_estimate(name, estimate)


def _describe(plan: SeriesPlan) -> str:
    fieldmap = plan.series.usable_fieldmap
    assert fieldmap is not None
    name = _NAMES[fieldmap.method]
    return name if fieldmap.echo_times_s is None else f"{name}, unwrapped by {name_unwrapping()}"


def _explain(series: DwiSeries) -> str | None:
    """Return the reason why no field map can correct a series; None if one can."""
    if not series.fieldmaps:
        return "the session has no gradient-echo field map that is linked to the series"
    if series.usable_fieldmap is None:
        problems = (f"{f.sources[0].name}: {f.problem}" for f in series.fieldmaps)
        return f"no gradient-echo field map can be used ({'; '.join(problems)})"
    return explain_no_shift(series)


def _name_fieldmap(series: DwiSeries) -> str:
    fieldmap = series.usable_fieldmap
    assert fieldmap is not None
    return f"{' and '.join(path.name for path in fieldmap.sources)}, linked to the series"


ENGINE = SdcEngine(
    builder=init_fieldmap_wf,
    describe=_describe,
    gives="field",
    reason=_name_fieldmap,
    applies=_explain,
    uses_fieldmap=True,
)
