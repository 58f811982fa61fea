"""FSL's topup: the distortion field from images of opposite phase encoding."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.interfaces.fsl import (
    CollectTopup,
    RunTopup,
    choose_topup_config,
)
from dmri_fm_workflows.interfaces.fsl_files import WriteFslFiles
from dmri_fm_workflows.interfaces.programs import TOPUP, name_topup
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import MERGED_FILES, Resources, open_workflow
from dmri_fm_workflows.stages.sdc.engine import (
    FIELDS,
    SdcEngine,
    explain_no_pair,
    name_pair,
    reverse_inputs,
)


def init_topup_wf(plan: SeriesPlan, resources: Resources, *, name: str = "sdc_wf") -> pe.Workflow:
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
    fieldcoef_file, movpar_file, topup_acqp_file
        topup's own files, and the phase encodings that it was given.
    sdc_record
        Method, with its version.
    """
    workflow, inputnode, outputnode = open_workflow(name, MERGED_FILES, FIELDS[ENGINE.gives])
    files = pe.Node(
        WriteFslFiles(**reverse_inputs(plan)),
        name="write_fsl_files",
        mem_gb=2 * plan.size_gb,
    )
    topup = pe.Node(
        RunTopup(
            config=choose_topup_config(plan.series.runs[0].shape),
            n_threads=resources.omp_nthreads,
        ),
        name="topup",
        n_procs=resources.omp_nthreads,
        mem_gb=2,
    )
    collect = pe.Node(CollectTopup(), name="collect_topup")
    workflow.connect([
        (inputnode, files, list(MERGED_FILES.items())),
        (files, topup, [("b0_file", "in_file"), ("b0_acqp_file", "encoding_file")]),
        (topup, collect, [("out_corrected", "corrected_file"), ("out_field", "field_file")]),
        (files, collect, [("first_b0_file", "reference_file")]),
        (files, outputnode, [("first_b0_file", "uncorrected_file"),
                             ("b0_acqp_file", "topup_acqp_file")]),
        (topup, outputnode, [("out_fieldcoef", "fieldcoef_file"), ("out_movpar", "movpar_file")]),
        (collect, outputnode, [("dwiref_file", "biased_dwiref_file"),
                               ("field_file", "field_file"), ("record", "sdc_record")]),
    ])  # fmt: skip
    return workflow


def _explain(series: DwiSeries) -> str | None:
    """Return the reason why topup cannot correct a series; None if it can."""
    if problem := explain_no_pair(series):
        return problem
    if any(run.phase_encoding in ("k", "k-") for run in series.runs):
        return "FSL's topup takes phase encoding along i and j alone"
    return None


ENGINE = SdcEngine(
    builder=init_topup_wf,
    describe=lambda plan: name_topup(),
    programs=TOPUP,
    gives="topup",
    reason=name_pair,
    applies=_explain,
    uses_pair=True,
)
