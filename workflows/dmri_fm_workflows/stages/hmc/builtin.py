"""The built-in estimate of head motion and eddy currents: registration to predicted volumes."""

from __future__ import annotations

import nipype.pipeline.engine as pe

from dmri_fm.preprocess import motion
from dmri_fm.preprocess.slice_replacement import REPLACEMENT
from dmri_fm_workflows.interfaces.motion import EstimateMotion
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import Resources
from dmri_fm_workflows.stages.hmc.engine import HmcEngine, wire_estimate


def init_builtin_wf(
    plan: SeriesPlan, resources: Resources, *, name: str = "hmc_wf"
) -> pe.Workflow:
    """Estimate one transform per volume; nothing is resampled.

    Slices that lost signal are replaced by their prediction, if the plan says so.

    Inputs
    ------
    denoised_file, bval_file, raw_bvec_file, volumes_file
        Merged series.
    biased_dwiref_file, dwi_mask_file
        b=0 reference and brain mask.
    field_file
        Off-resonance, Hz, if there is any.

    Outputs
    -------
    dwi_file, bvec_file, remaining_field_file
        The series, lost slices replaced, and the uncorrected distortion field.
    motion_file, motion_record, confounds_file, confounds_record, outliers_file
        Transforms and their description, confounds, outlier slices.
    hmc_record
        Method, with its version.
    """
    estimate = pe.Node(
        EstimateMotion(sloppy=plan.sloppy, repol=plan.repol, n_threads=resources.omp_nthreads),
        name="estimate_motion",
        n_procs=resources.omp_nthreads,
        mem_gb=4 * plan.size_gb,
    )
    images = {
        "biased_dwiref_file": "dwiref_file",
        "dwi_mask_file": "mask_file",
        "field_file": "field_file",
    }
    return wire_estimate(name, estimate, plan, images, gives_series=True)


def _describe(plan: SeriesPlan) -> str:
    name = motion.name_motion(motion.N_PASSES_SLOPPY if plan.sloppy else motion.N_PASSES)
    return f"{name}, {REPLACEMENT}" if plan.repol else name


ENGINE = HmcEngine(
    builder=init_builtin_wf,
    describe=_describe,
)
