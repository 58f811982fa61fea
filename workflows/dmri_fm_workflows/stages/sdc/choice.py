"""Choice of the method that corrects the susceptibility distortion of a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmri_fm_workflows.bids import DwiSeries, UnusedImage
from dmri_fm_workflows.stages.sdc import load

__all__ = ["SdcChoice", "choose_sdc"]

#: Images that a reason names; the plan, the sidecar and the report list them all.
N_NAMED = 2


@dataclass(frozen=True)
class SdcChoice:
    """Susceptibility correction of one series.

    Attributes
    ----------
    method
        Name of a method of this package.
    reason
        Reason, for sidecar and report.
    warning
        Warning for the user, or None.
    unused
        Images that could have corrected the series and do not.
    """

    method: str
    reason: str
    warning: str | None = None
    unused: tuple[UnusedImage, ...] = ()

    @property
    def has_field(self) -> bool:
        """Whether the series is corrected."""
        return bool(load(self.method).has_field)


def choose_sdc(series: DwiSeries, pair_sdc: str) -> SdcChoice:
    """Choose the susceptibility correction of a series.

    `pair_sdc` is the method for a series that has a pair of images.

    The user's own `none` needs no warning, unless runs of unlike distortion are merged or an
    image that could have corrected it lies unused.
    """
    unused = series.unused
    if pair_sdc == "none":
        reason = "switched off on the command line"
        if series.outside_image is not None:
            unused = (UnusedImage(series.outside_image.path, reason), *unused)
    elif series.blip_pair is not None:
        return SdcChoice(pair_sdc, _describe_pair(series), unused=unused)
    elif all(run.phase_encoding is None for run in series.runs):
        reason = "PhaseEncodingDirection is missing from the sidecars"
    else:
        reason = _why_none(unused)
    consequence = _consequence(series, is_own_choice=pair_sdc == "none")
    warning = f"Susceptibility distortion was NOT corrected: {reason}. {consequence}"
    return SdcChoice("none", reason, None if consequence is None else warning, unused)


def _describe_pair(series: DwiSeries) -> str:
    """Name the two images of the pair, and their tie."""
    names = " and ".join(f"{i.path.name} ({i.phase_encoding})" for i in series.blip_pair or ())
    return f"{names}: {series.pair_reason}" if series.pair_reason else names


def _why_none(unused: Sequence[UnusedImage]) -> str:
    """Return the reason why no image corrects a series of known phase encoding."""
    if not unused:
        return "the session has no image of the opposite phase encoding"
    said = "; ".join(f"{image.path.name}: {image.reason}" for image in unused[:N_NAMED])
    n_more = len(unused) - N_NAMED
    more = f"; and {n_more} more, each with its reason in SDCImagesNotUsed" if n_more > 0 else ""
    return f"no image fits ({said}{more})"


def _consequence(series: DwiSeries, *, is_own_choice: bool) -> str | None:
    """Return the consequence of no correction; None where no warning is due."""
    encodings = sorted({run.phase_encoding or "unknown" for run in series.runs})
    if len(encodings) > 1:
        advice = "Leave --sdc to auto, or choose" if series.blip_pair else "Choose"
        return (
            f"The merged runs have different phase encodings, {', '.join(encodings)}: tissue lies "
            "at different positions in them, and maps made of all of them are blurred. "
            f"{advice} one phase encoding with --bids-filter-file."
        )
    if series.blip_pair is not None:
        return f"{series.blip_pair[1].path.name} could correct it: leave --sdc to auto."
    if is_own_choice:
        return None
    return (
        "Expect displaced and stretched tissue near air, above all in frontal and temporal lobes."
    )
