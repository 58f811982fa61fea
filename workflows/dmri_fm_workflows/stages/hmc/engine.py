"""Record of a method that corrects head motion and eddy currents."""

from __future__ import annotations

from dataclasses import dataclass

from dmri_fm_workflows.stages.base import Engine

__all__ = ["INPUTS", "ONCE", "RESULTS", "ROTATED", "HmcEngine"]

#: Fields that every method takes: the merged series, denoised.
INPUTS = {
    "denoised_file": "dwi_file",
    "bval_file": "bval_file",
    "raw_bvec_file": "bvec_file",
    "volumes_file": "volumes_file",
}

#: Fields that every method offers besides the series, by output of its last node.
RESULTS = {
    "motion_file": "motion_file",
    "motion_record": "motion_record",
    "confounds_file": "confounds_file",
    "confounds_record": "confounds_record",
    "outliers_file": "outliers_file",
    "record": "hmc_record",
}

ROTATED = "b-vectors were rotated accordingly"
ONCE = (
    f"all transforms of a volume were composed, its voxels were interpolated once, and {ROTATED}"
)


@dataclass(frozen=True, kw_only=True)
class HmcEngine(Engine):
    """A method that corrects head motion and eddy currents.

    Attributes
    ----------
    resamples
        It interpolates the series itself and corrects the distortion with it; otherwise the field
        is handed on, and the normalise stage interpolates once.
    """

    resamples: bool = False
