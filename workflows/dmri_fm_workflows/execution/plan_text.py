"""Text of a plan, for `--dry-run`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from dmri_fm.identity import ENCODERS, TENSOR_NETWORKS
from dmri_fm.shell_resampling import FEWEST_DIRECTIONS
from dmri_fm_workflows.plan import ParticipantPlan, SeriesPlan, SessionPlan
from dmri_fm_workflows.stages.base import Line
from dmri_fm_workflows.stages.table import list_session_stages, list_stages
from dmri_fm_workflows.templates import OWN_SPACES

#: Warnings that only a run can give.
LATER = (
    "Volumes without signal, images that were zero-filled in plane, doubtful masks and "
    "registrations, and b-vectors that do not follow the fibres are visible in the voxels only: "
    "the run adds them to the warnings."
)

#: Columns of a line; a file name that is longer stays whole.
WIDTH = 100

#: Columns of the name of a stage.
LABEL_WIDTH = 18

#: Spaces at which no line ends: those of "b = 1000", and those before a unit.
_TOGETHER = re.compile(r" (?==)|(?<==) |(?<=\d) (?=(?:s|mm|s/mm\^2)\b)")
_NO_BREAK = "\N{NO-BREAK SPACE}"


def describe_plan(plan: ParticipantPlan) -> str:
    """Return the text of a participant's plan, one stage a line."""
    lines: list[str] = []
    for session in plan.sessions:
        lines += _session_lines(session)
        for series in session.series:
            lines += ["", f"  {series.name}", *_series_lines(series)]
    return "\n".join(lines)


def list_omissions(plan: SeriesPlan) -> tuple[str, ...]:
    """Return the steps that are omitted for a series, and why."""
    omitted = [*_list_corrections(plan)]
    if not plan.has_t1w:
        omitted.append("There are no anatomical outputs: no T1w or T2w image can be used.")
    if not plan.has_tensor:
        omitted.append(
            f"No tensor is fitted, by least squares or a network: the "
            f"{plan.gtab.count_directions()} directions do not determine one."
        )
    wanted = [m for m in plan.models if m in TENSOR_NETWORKS]
    if plan.has_tensor and not wanted:
        omitted.append("No tensor network runs: --models does not name one.")
    elif plan.has_tensor and not plan.networks:
        omitted.append(
            f"{', '.join(wanted)} does not run: no shell has six directions that determine a "
            "tensor."
        )
    encoders = [m for m in plan.models if m in ENCODERS]
    if without := [m for m in encoders if m not in plan.encoders]:
        omitted.append(
            f"{', '.join(without)} does not run: no shell has {FEWEST_DIRECTIONS} directions that "
            "are spread over the sphere."
        )
    if not encoders:
        names = ", ".join(ENCODERS)
        omitted.append(f"There are no features: --models names no encoder ({names}).")
    omitted += [
        f"Series and maps are not written in {space}: --output-spaces does not name it."
        for space in OWN_SPACES
        if space not in plan.output_spaces
    ]
    return tuple(omitted)


def _list_corrections(plan: SeriesPlan) -> Iterator[str]:
    """Yield the corrections that are omitted for a series, and why."""
    if plan.is_preprocessed:
        yield "Nothing is corrected: the input is preprocessed (--input-type)."
        yield "Head motion, outlier slices and SNR are not measured: that needs the raw series."
        return
    if plan.engines.denoise == "none":
        yield "Noise is not removed: switched off by --denoise none."
    elif "too few" in plan.denoising:
        yield "Noise is not removed from runs of too few volumes."
    if not plan.unring:
        yield "Gibbs ringing is not removed: --unring does that."
    if not plan.sdc.has_field:
        yield "Susceptibility distortion is not corrected, for the reason above."
    if plan.engines.hmc == "none":
        yield "Head motion and eddy currents are not corrected: switched off by --hmc none."


def _session_lines(session: SessionPlan) -> list[str]:
    prefix = "" if session.label is None else f"ses-{session.label}: "
    if session.t1w is None:
        return [
            f"  {prefix}no T1w or T2w image: each series is registered to the template by itself"
        ]
    described = [
        line for stage in list_session_stages(session) for line in stage.describe(session)
    ]
    if not session.has_tissue:
        described.append(("  tissue", f"not segmented: the image is {session.contrast}"))
    lines: list[str] = []
    for number, (label, text) in enumerate(described):
        label, indent = (f"{prefix}{label}", 2) if number == 0 else (label, 4)
        lines += _item(label, text, indent=indent)
    return lines


def _item(label: str, text: str, *, indent: int = 4) -> list[str]:
    """Return the wrapped lines of a stage; file names stay whole."""
    lines = textwrap.wrap(
        _TOGETHER.sub(_NO_BREAK, text),
        WIDTH,
        initial_indent=f"{'':{indent}}{label:<{LABEL_WIDTH}}",
        subsequent_indent=" " * (indent + LABEL_WIDTH),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_NO_BREAK, " ") for line in lines]


def stage_lines(plan: SeriesPlan) -> Iterator[Line]:
    """Return label and text of each step of a series, in the order of processing."""
    for stage in list_stages(plan):
        yield from stage.describe(plan)


def _series_lines(plan: SeriesPlan) -> list[str]:
    lines: list[str] = []
    for label, text in stage_lines(plan):
        lines += _item(label, text)
    for number, omission in enumerate(list_omissions(plan)):
        lines += _item("will NOT be done" if number == 0 else "", omission)
    for warning in plan.warnings:
        lines += _item("WARNING", warning)
    return lines
