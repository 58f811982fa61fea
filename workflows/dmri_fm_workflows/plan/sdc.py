"""Choice of the method that corrects the susceptibility distortion of a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dmri_fm.distortion import fill_readouts
from dmri_fm.errors import ConfigError
from dmri_fm_workflows.bids import DwiSeries, EpiImage, UnusedImage
from dmri_fm_workflows.engines import SDC

if TYPE_CHECKING:
    from dmri_fm_workflows.stages.sdc.engine import SdcEngine


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

    @property
    def uses_fieldmap(self) -> bool:
        """Whether a gradient-echo field map corrects it."""
        return SDC.load(self.method).uses_fieldmap


def choose_sdc(series: DwiSeries, names: Sequence[str], *, has_t1w: bool = False) -> SdcChoice:
    """Choose the susceptibility correction of a series: the first method that can do it.

    `names` are the methods to try, in order. `none` is chosen where no other can, if it is among
    them. `has_t1w` tells whether the session has a T1w image.

    The user's own `none` needs no warning, unless runs of unlike distortion are merged or an
    image that could have corrected it lies unused.

    Raises
    ------
    ConfigError
        If no method can correct the series and `none` is not among them: the user asked for one.
    """
    is_own_choice = tuple(names) == ("none",)
    problems: dict[str, str] = {}
    for name in names:
        engine = SDC.load(name)
        problem = engine.applies(series)
        if engine.needs_t1w and not has_t1w:
            problem = "the participant has no T1w image"
        if problem is not None:
            problems[name] = problem
        elif name != "none":
            return SdcChoice(
                name,
                engine.reason(series),
                _warn_of_method(series, engine),
                _list_unused(series, name),
            )
    if "none" not in names:
        raise ConfigError(
            f"{series.name} cannot be corrected by --sdc {' or '.join(names)}: "
            f"{'; '.join(dict.fromkeys(problems.values()))}",
            path=series.runs[0].path,
            expected="the images that this method needs",
            advice="add or link them, leave --sdc to auto, or process the series by itself with "
            "another --sdc",
        )
    if is_own_choice:
        reason = SDC.load("none").reason(series)
        unused = (*_outside(series, reason), *_fieldmaps(series, reason), *series.unused)
    else:
        reason = "; ".join(dict.fromkeys(problems.values()))
        unused = (*_fieldmaps(series, problems.get("fieldmap", reason)), *series.unused)
    consequence = _consequence(series, is_own_choice=is_own_choice)
    warning = f"Susceptibility distortion was NOT corrected: {reason}. {consequence}"
    return SdcChoice("none", reason, None if consequence is None else warning, unused)


def list_sources(series: DwiSeries, choice: SdcChoice) -> tuple[EpiImage, ...]:
    """Return the raw images behind the outputs: the runs, and the image that corrects them."""
    outside = series.outside_image if choice.uses_pair else None
    return (*series.runs, *([outside] if outside else []))


def list_readouts(series: DwiSeries, choice: SdcChoice) -> tuple[float, ...]:
    """Return the total readout time of each, s; assumed where no sidecar has one."""
    stated = [image.readout_time_s for image in list_sources(series, choice)]
    n_runs = len(series.runs)
    opposed = series.blip_pair[0].readout_time_s if series.blip_pair else None
    return fill_readouts(stated[:n_runs], stated[n_runs:], opposed=opposed)


def _list_unused(series: DwiSeries, name: str) -> tuple[UnusedImage, ...]:
    """Return the images that a method does not use; usable ones come first."""
    engine = SDC.load(name)
    unused: tuple[UnusedImage, ...] = ()
    if not engine.uses_pair:
        unused = _outside(series, f"--sdc {name} uses no such image")
    if engine.uses_fieldmap:
        unused += _fieldmaps(series, "not needed: another field map is used", first=1)
    else:
        pair = series.blip_pair if engine.uses_pair else None
        names = " and ".join(image.path.name for image in pair or ())
        unused += _fieldmaps(
            series, f"not needed: {names} are used" if pair else f"--sdc {name} uses no such image"
        )
    return (*unused, *series.unused)


def _outside(series: DwiSeries, reason: str) -> tuple[UnusedImage, ...]:
    """Return the image outside a series that opposes it, if there is one, as not used."""
    image = series.outside_image
    return () if image is None else (UnusedImage(image.path, reason),)


def _fieldmaps(series: DwiSeries, reason: str, *, first: int = 0) -> tuple[UnusedImage, ...]:
    """Return the images of the usable field maps, from a number on, as not used."""
    usable = [f for f in series.fieldmaps if not f.problem]
    return tuple(UnusedImage(path, reason) for f in usable[first:] for path in f.sources)


def _warn_of_method(series: DwiSeries, engine: SdcEngine) -> str | None:
    """Return the warning of a method that corrects a series; None if there is nothing to say."""
    if engine.needs_t1w:
        return (
            f"The distortion of {series.name} was estimated from the T1w image alone, which is "
            "approximate: it lowers the displacement on average and can raise it in places. Look "
            "at the figure of the correction, and do not mix such scans with others."
        )
    return _warn_of_session(series) if engine.uses_fieldmap else None


def _warn_of_session(series: DwiSeries) -> str | None:
    """Return the warning of a field map of another session; None if it is of the series' own."""
    fieldmap = series.usable_fieldmap
    if fieldmap is None or fieldmap.sources[0].parent.parent == series.runs[0].path.parent.parent:
        return None
    return (
        f"{fieldmap.sources[0].name}, which corrects {series.name}, is not of its session: the "
        "head was placed anew and the magnet shimmed anew, so the field may differ. A rigid "
        "movement between the two is estimated. Look at the figure of the correction."
    )


def _consequence(series: DwiSeries, *, is_own_choice: bool) -> str | None:
    """Return the consequence of no correction; None where no warning is due."""
    could = _list_able(series) if is_own_choice else []
    encodings = sorted({run.phase_encoding or "unknown" for run in series.runs})
    if len(encodings) > 1:
        advice = "Leave --sdc to auto, or choose" if could else "Choose"
        return (
            f"The merged runs have different phase encodings, {', '.join(encodings)}: tissue lies "
            "at different positions in them, and maps made of all of them are blurred. "
            f"{advice} one phase encoding with --bids-filter-file."
        )
    if could:
        return f"{could[0].name} could correct it: leave --sdc to auto."
    if is_own_choice:
        return None
    return (
        "Expect displaced and stretched tissue near air, above all in frontal and temporal lobes."
    )


def _list_able(series: DwiSeries) -> list[Path]:
    """Return the images that could correct a series in `auto`, those of a pair first."""
    able = [series.blip_pair[1].path] if series.blip_pair else []
    if series.usable_fieldmap and SDC.load("fieldmap").applies(series) is None:
        able.append(series.usable_fieldmap.sources[0])
    return able
