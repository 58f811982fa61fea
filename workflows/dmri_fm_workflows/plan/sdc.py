"""Choice of the method that corrects the susceptibility distortion of a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dmri_fm_workflows.bids import DwiSeries, UnusedImage
from dmri_fm_workflows.engines import SDC


@dataclass(frozen=True)
class SdcChoice:
    """Susceptibility correction of one series.

    Attributes
    ----------
    method
        Name of a method of :data:`~dmri_fm_workflows.engines.SDC`.
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
        return SDC.load(self.method).has_field

    @property
    def uses_pair(self) -> bool:
        """Whether a pair of images of opposite phase encoding corrects it."""
        return SDC.load(self.method).uses_pair


def choose_sdc(series: DwiSeries, names: Sequence[str]) -> SdcChoice:
    """Choose the susceptibility correction of a series: the first method that can do it.

    `names` are the methods to try, in order. `none` is chosen where no other can.

    The user's own `none` needs no warning, unless runs of unlike distortion are merged or an
    image that could have corrected it lies unused.
    """
    is_own_choice = tuple(names) == ("none",)
    problems: list[str] = []
    for name in names:
        engine = SDC.load(name)
        problem = engine.applies(series)
        if problem is not None:
            problems.append(problem)
        elif name != "none":
            unused = series.unused
            if not engine.uses_pair:
                unused = _with_outside(series, f"--sdc {name} uses no such image")
            return SdcChoice(name, engine.reason(series), unused=unused)
    if is_own_choice:
        reason = SDC.load("none").reason(series)
        unused = _with_outside(series, reason)
    else:
        reason = "; ".join(dict.fromkeys(problems))
        unused = series.unused
    consequence = _consequence(series, is_own_choice=is_own_choice)
    warning = f"Susceptibility distortion was NOT corrected: {reason}. {consequence}"
    return SdcChoice("none", reason, None if consequence is None else warning, unused)


def _with_outside(series: DwiSeries, reason: str) -> tuple[UnusedImage, ...]:
    """Return the unused images, with that which opposes the series."""
    if series.outside_image is None:
        return series.unused
    return (UnusedImage(series.outside_image.path, reason), *series.unused)


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
