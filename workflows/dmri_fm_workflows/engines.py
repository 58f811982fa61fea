"""Which program does each step, decided before any work starts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from dmri_fm.bids import DwiSeries, UnusedImage
from dmri_fm.errors import MissingToolError

__all__ = ["Engines", "SdcChoice", "check_tools", "choose_engines", "choose_sdc"]

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
class Engines:
    """Programs chosen for a whole run: `denoise`, `sdc` for pairs, `hmc`."""

    denoise: str
    pair_sdc: str
    hmc: str


@dataclass(frozen=True)
class SdcChoice:
    """Susceptibility correction of one series.

    Attributes
    ----------
    method
        `topup`, `pepolar` or `none`.
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


def choose_engines(*, denoise: str, sdc: str, hmc: str, unring: bool) -> Engines:
    """Resolve `auto` against what is installed; FSL and MRtrix3 first.

    Raises
    ------
    MissingToolError
        If a program was asked for by name and is missing.
    """
    if denoise == "auto":
        has_mrtrix = is_present("dwidenoise") and (not unring or is_present("mrdegibbs"))
        denoise = "dwidenoise" if has_mrtrix else "mppca"
    if sdc == "auto":
        sdc = "topup" if is_present("topup") else "pepolar"
    if hmc == "auto":
        hmc = "eddy" if is_present("eddy") else "builtin"
    check_tools(denoise, sdc, hmc, *(["mrdegibbs"] if unring and denoise == "dwidenoise" else []))
    return Engines(denoise=denoise, pair_sdc=sdc, hmc=hmc)


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
        return "there is no image of the opposite phase encoding"
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
