"""Options of the request about preprocessing and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dmri_fm.gradient_options import B_SCALINGS
from dmri_fm_workflows.engines import DENOISE, HMC, SDC
from dmri_fm_workflows.options import PREPROCESSING, option


@dataclass(frozen=True, kw_only=True)
class PreprocessingOptions:
    """A field for each option of a heading of `--help`, with its argument."""

    b_scaling: str = option(
        "auto",
        PREPROCESSING,
        "b-vectors whose length is not 1: `length` multiplies the b-value by the squared length, "
        "`none` does not (default: auto, by the squared length where lengths vary within a shell; "
        "a length that all share is refused)",
        choices=B_SCALINGS,
        stages=("read",),
    )
    b0_threshold: float | None = option(
        None,
        PREPROCESSING,
        "volumes with a b-value below this, in s/mm^2, count as b=0 (default: 50; or 150, where "
        "none lies below 50 and the lowest, up to 100, are followed by a gap of 200 or more)",
        metavar="B",
        stages=("read",),
    )
    denoise: str = option(
        "auto",
        PREPROCESSING,
        f"denoising: {DENOISE.summary} (default: auto, the first that is installed)",
        choices=("auto", *DENOISE.names),
        stages=("denoise",),
    )
    b1_biascorrect_stage: str = option(
        "none",
        PREPROCESSING,
        "correct the bias of the receive field by N4, in the `final` series (default: none)",
        choices=("final", "none"),
        stages=("bias",),
    )
    unring: bool = option(False, PREPROCESSING, "remove Gibbs ringing", stages=("denoise",))
    sdc: str = option(
        "auto",
        PREPROCESSING,
        f"susceptibility distortion: {SDC.summary} (default: auto, the first that is installed "
        "and has the images it needs; one that is named and cannot correct a series is an error)",
        choices=("auto", *SDC.names),
        stages=("sdc",),
    )
    hmc: str = option(
        "auto",
        PREPROCESSING,
        f"head motion and eddy currents: {HMC.summary} (default: auto, the first that is "
        "installed and takes the series; one that is named and does not is an error)",
        choices=("auto", *HMC.names),
        stages=("hmc",),
    )
    repol: str = option(
        "on", PREPROCESSING, "replace slices that lost signal, in the built-in correction of head "
        "motion (default: on); eddy: --eddy-config", choices=("on", "off"), stages=("hmc",)
    )  # fmt: skip
    normalisation: str = option(
        "affine",
        PREPROCESSING,
        "registration to the template (default: affine)",
        choices=("affine", "syn"),
        stages=("anat", "normalise"),
    )
    subject_anatomical_reference: str = option(
        "sessionwise",
        PREPROCESSING,
        "T1w image of a participant with several sessions: `sessionwise`, each session its own "
        "and another's only where it has none; `first`, that of the first session for all "
        "(default: sessionwise)",
        choices=("first", "sessionwise"),
        stages=("anat", "normalise"),
    )
    distortion_group_merge: str = option(
        "concatenate",
        PREPROCESSING,
        "runs of one scan with different phase encodings: `concatenate` merges them into one "
        "series, `none` makes a series of each phase encoding (default: concatenate)",
        choices=("concatenate", "none"),
        stages=("merge",),
    )
    separate_all_dwis: bool = option(
        False, PREPROCESSING, "make a series of every run, merge none", stages=("merge",)
    )

    @property
    def merging(self) -> Literal["all", "phase encoding", "none"]:
        """Which runs of a scan are merged."""
        if self.separate_all_dwis:
            return "none"
        return "all" if self.distortion_group_merge == "concatenate" else "phase encoding"
