"""Which program does each step, decided before any work starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Literal

from dmri_fm.errors import ConfigError, MissingToolError
from dmri_fm_workflows.bids import DwiSeries, UnusedImage

__all__ = [
    "COREGISTRATION",
    "SDC_METHODS",
    "Engines",
    "SdcChoice",
    "SdcMethod",
    "check_tools",
    "choose_device",
    "choose_engines",
    "choose_sdc",
    "name_denoising",
    "name_hmc",
    "name_normalisation",
    "name_sdc",
    "name_unringing",
]

#: What registers the b=0 reference to the T1w image, for plan and sidecar.
COREGISTRATION = "rigid, mutual information (ANTs)"

#: Images that a reason names; the plan, the sidecar and the report list them all.
N_NAMED = 2

#: Programs behind each choice that needs one; any of them will do.
PROGRAMS = {
    "topup": ("topup",),
    "eddy": ("eddy_cpu", "eddy_openmp", "eddy"),
    "dwidenoise": ("dwidenoise",),
    "mrdegibbs": ("mrdegibbs",),
}


@dataclass(frozen=True)
class SdcMethod:
    """A way to correct susceptibility distortion.

    Attributes
    ----------
    gives
        What the estimate hands on: `topup`, topup's own files beside the field in Hz; `field`,
        the field alone; None, nothing. Whatever corrects motion afterwards takes the field from
        here, so that a method that is added needs no edge of its own.
    """

    gives: Literal["topup", "field"] | None

    @property
    def has_field(self) -> bool:
        """There is a field in Hz."""
        return self.gives is not None


#: Every method by name; the command line offers these and `auto`.
SDC_METHODS: Mapping[str, SdcMethod] = {
    "topup": SdcMethod("topup"),
    "pepolar": SdcMethod("field"),
    "none": SdcMethod(None),
}


@dataclass(frozen=True)
class Engines:
    """What does the steps of a whole run.

    Attributes
    ----------
    denoise, pair_sdc, hmc
        Noise, distortion where there is a pair of images, motion and eddy currents.
    device
        Torch device of the networks.
    """

    denoise: str
    pair_sdc: str
    hmc: str
    device: str = "cpu"


@dataclass(frozen=True)
class SdcChoice:
    """Susceptibility correction of one series.

    Attributes
    ----------
    method
        A key of :data:`SDC_METHODS`.
    reason
        Why, for sidecar and report.
    warning
        What the user should know, or None.
    unused
        Images that could have corrected the series and do not.
    """

    method: str
    reason: str
    warning: str | None = None
    unused: tuple[UnusedImage, ...] = ()

    @property
    def has_field(self) -> bool:
        """The series is corrected."""
        return SDC_METHODS[self.method].has_field


def is_present(tool: str) -> bool:
    """Tell whether a program behind a choice is on the PATH."""
    return any(shutil.which(program) for program in PROGRAMS[tool])


def check_tools(*requested: str) -> None:
    """Stop if a program that was asked for by name is missing.

    Raises
    ------
    MissingToolError
        Naming the first one that is not on the PATH.
    """
    for tool in requested:
        if tool in PROGRAMS and not is_present(tool):
            raise MissingToolError(
                f"{tool} was asked for and is not on the PATH",
                expected=" or ".join(PROGRAMS[tool]),
                advice="install or load it, or leave the choice to `auto`",
            )


def choose_engines(
    *, denoise: str, sdc: str, hmc: str, unring: bool, device: str = "cpu"
) -> Engines:
    """Resolve `auto` against what is installed; FSL, MRtrix3 and CUDA first.

    Raises
    ------
    MissingToolError
        If a program was asked for by name and is missing.
    ConfigError
        If the device is missing.
    """
    if denoise == "auto":
        has_mrtrix = is_present("dwidenoise") and (not unring or is_present("mrdegibbs"))
        denoise = "dwidenoise" if has_mrtrix else "mppca"
    if sdc == "auto":
        sdc = "topup" if is_present("topup") else "pepolar"
    if hmc == "auto":
        hmc = "eddy" if is_present("eddy") else "builtin"
    check_tools(denoise, sdc, hmc, *(["mrdegibbs"] if unring and denoise == "dwidenoise" else []))
    return Engines(denoise=denoise, pair_sdc=sdc, hmc=hmc, device=choose_device(device))


def choose_device(requested: str) -> str:
    """Resolve `auto`: a CUDA device where torch sees one.

    Raises
    ------
    ConfigError
        If CUDA was asked for and there is none.
    """
    if requested == "cpu":
        return "cpu"
    import torch

    has_cuda = torch.cuda.is_available()
    if requested == "cuda" and not has_cuda:
        raise ConfigError(
            "--device cuda was asked for and torch sees no CUDA device",
            expected="an NVIDIA GPU, its driver, and a CUDA build of torch",
            advice="use --device cpu, or leave the choice to `auto`",
        )
    return "cuda" if has_cuda else "cpu"


@cache
def mrtrix_version() -> str:
    """Return the version of the MRtrix3 on the PATH."""
    from nipype.interfaces.mrtrix3.base import Info

    return Info.version() or "of unknown version"


def fsl_version() -> str:
    """Return the version of the FSL that FSLDIR names."""
    from fsl.utils.platform import platform

    return platform.fslVersion or "version unknown"


def name_denoising(method: str, n_volumes: int) -> str:
    """Return what the plan and the sidecar say of a run of so many volumes."""
    from dmri_fm.preprocess.denoise import FEWEST_VOLUMES, name_denoiser, name_too_few

    if method != "dwidenoise":
        return name_denoiser(method, n_volumes)  # type: ignore[arg-type]
    if n_volumes < FEWEST_VOLUMES:
        return name_too_few(n_volumes)
    return f"MRtrix3 dwidenoise {mrtrix_version()}"


def name_unringing(denoise: str, *, unring: bool) -> str:
    """Return what removes Gibbs ringing beside a denoiser."""
    if not unring:
        return "none"
    if denoise == "dwidenoise":
        return f"MRtrix3 mrdegibbs {mrtrix_version()}"
    return f"DIPY gibbs_removal {version('dipy')}"


def name_sdc(method: str) -> str:
    """Return what estimates the distortion field."""
    from dmri_fm.preprocess.susceptibility import PAIR_METHOD

    names = {"none": "none", "pepolar": PAIR_METHOD, "topup": f"FSL topup ({fsl_version()})"}
    return names[method]


def name_hmc(method: str, *, sloppy: bool = False) -> str:
    """Return what estimates head motion and eddy currents."""
    from dmri_fm.preprocess.motion import N_PASSES, N_PASSES_SLOPPY, name_motion

    if method == "eddy":
        return f"FSL eddy ({fsl_version()}) with outlier replacement"
    return "none" if method == "none" else name_motion(N_PASSES_SLOPPY if sloppy else N_PASSES)


def name_normalisation(method: str) -> str:
    """Return what the plan and the sidecar say of the registration to the template."""
    from dmri_fm.normalise.template import TEMPLATE_NAME

    names = {"affine": "affine (ANTs)", "syn": "affine and SyN (ANTs)"}
    return f"{names[method]} to {TEMPLATE_NAME}"


def choose_sdc(series: DwiSeries, engines: Engines) -> SdcChoice:
    """Choose how the susceptibility distortion of a series is corrected.

    The user's own `none` needs no warning, unless runs of unlike distortion are merged or an
    image that could have corrected it lies unused.
    """
    unused = series.unused
    if engines.pair_sdc == "none":
        reason = "switched off on the command line"
        if series.outside_image is not None:
            unused = (UnusedImage(series.outside_image.path, reason), *unused)
    elif series.blip_pair is not None:
        return SdcChoice(engines.pair_sdc, _describe_pair(series), unused=unused)
    elif all(run.phase_encoding is None for run in series.runs):
        reason = "PhaseEncodingDirection is missing from the sidecars"
    else:
        reason = _why_none(unused)
    consequence = _consequence(series, is_own_choice=engines.pair_sdc == "none")
    warning = f"Susceptibility distortion was NOT corrected: {reason}. {consequence}"
    return SdcChoice("none", reason, None if consequence is None else warning, unused)


def _describe_pair(series: DwiSeries) -> str:
    """Name the two images of the pair, and what ties them."""
    names = " and ".join(f"{i.path.name} ({i.phase_encoding})" for i in series.blip_pair or ())
    return f"{names}: {series.pair_reason}" if series.pair_reason else names


def _why_none(unused: Sequence[UnusedImage]) -> str:
    """Say why no image corrects a series whose phase encoding is known."""
    if not unused:
        return "the session has no image of the opposite phase encoding"
    said = "; ".join(f"{image.path.name}: {image.reason}" for image in unused[:N_NAMED])
    n_more = len(unused) - N_NAMED
    more = f"; and {n_more} more, each with its reason in SDCImagesNotUsed" if n_more > 0 else ""
    return f"no image fits ({said}{more})"


def _consequence(series: DwiSeries, *, is_own_choice: bool) -> str | None:
    """Say what a series without correction suffers from; None where nobody has to be told."""
    encodings = sorted({run.phase_encoding or "unknown" for run in series.runs})
    if len(encodings) > 1:
        advice = "Leave --sdc to auto, or choose" if series.blip_pair else "Choose"
        return (
            f"The merged runs have different phase encodings, {', '.join(encodings)}: tissue lies "
            "at different places in them, and maps made of all of them are blurred. "
            f"{advice} one phase encoding with --bids-filter-file."
        )
    if series.blip_pair is not None:
        return f"{series.blip_pair[1].path.name} could correct it: leave --sdc to auto."
    if is_own_choice:
        return None
    return (
        "Expect displaced and stretched tissue near air, above all in frontal and temporal lobes."
    )
