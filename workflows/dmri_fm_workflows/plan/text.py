"""Text of a plan, for `--dry-run`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from dmri_fm.identity import ENCODERS, TENSOR_NETWORKS
from dmri_fm.normalise.registration import name_normalisation
from dmri_fm.preprocess.mask import name_mask
from dmri_fm_workflows.bids import EpiImage
from dmri_fm_workflows.config import OUTPUT_SPACES
from dmri_fm_workflows.plan import ParticipantPlan, SeriesPlan, SessionPlan

__all__ = ["LATER", "describe_plan", "list_omissions"]

#: Warnings that only a run can give.
LATER = (
    "Volumes without signal, doubtful masks and registrations, and b-vectors that do not follow "
    "the fibres are visible in the voxels only: the run adds them to the warnings."
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
    omitted: list[str] = []
    if plan.engines.denoise == "none":
        omitted.append("Noise is not removed: switched off by --denoise none.")
    elif "too few" in plan.denoising:
        omitted.append("Noise is not removed from runs of too few volumes.")
    if not plan.unring:
        omitted.append("Gibbs ringing is not removed: --unring does that.")
    if not plan.sdc.has_field:
        omitted.append("Susceptibility distortion is not corrected, for the reason above.")
    if plan.engines.hmc == "none":
        omitted.append(
            "Head motion and eddy currents are not corrected: switched off by --hmc none."
        )
    if not plan.has_t1w:
        omitted.append("There are no anatomical outputs: no T1w image can be used.")
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
    if not plan.encoders:
        names = ", ".join(ENCODERS)
        omitted.append(f"There are no features: --models names no encoder ({names}).")
    omitted += [
        f"Series and maps are not written in {space}: --output-spaces does not name it."
        for space in OUTPUT_SPACES
        if space not in plan.output_spaces
    ]
    return tuple(omitted)


def _session_lines(session: SessionPlan) -> list[str]:
    prefix = "" if session.label is None else f"ses-{session.label}: "
    if session.t1w is None:
        return [f"  {prefix}no T1w image: each series is registered to the template by itself"]
    text = (
        f"{session.t1w.name}: bias correction (N4), brain mask by {name_mask('t1w')}, ACPC; to "
        f"the template: {name_normalisation(session.normalisation)}"
    )
    lines = _item(f"{prefix}T1w image", text, indent=2)
    for path in session.unused_t1w:
        lines += _item("not used", f"{path.name}: one T1w image is used", indent=4)
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


def _series_lines(plan: SeriesPlan) -> list[str]:
    lines: list[str] = []
    for label, text in _stages(plan):
        lines += _item(label, text)
    for number, omission in enumerate(list_omissions(plan)):
        lines += _item("will NOT be done" if number == 0 else "", omission)
    for warning in plan.warnings:
        lines += _item("WARNING", warning)
    return lines


def _stages(plan: SeriesPlan) -> Iterator[tuple[str, str]]:
    runs = plan.series.runs
    readouts_s = plan.readouts_s
    for number, (run, n_usable) in enumerate(zip(runs, plan.run_sizes, strict=True)):
        yield ("files" if number == 0 else ""), _run_text(run, n_usable, readouts_s[number])
    for image, readout_s in zip(plan.sources[len(runs) :], readouts_s[len(runs) :], strict=True):
        yield "  reverse", f"{image.path.name} ({_encoding_text(image, readout_s)})"
    yield "volumes", _volumes_text(plan)
    yield "denoise", plan.denoising
    yield "Gibbs ringing", plan.unringing
    if len(runs) > 1:
        yield "merge", f"{len(runs)} runs, brought to the b=0 level of the first"
    yield "distortion", f"{plan.sdc_name}: {plan.sdc.reason}"
    for unused in plan.sdc.unused:
        said = f"{unused.path.name}: {unused.reason}"
        if said not in plan.sdc.reason:
            yield "  not used", said
    yield "motion and eddy", plan.hmc_name
    yield "mask", _mask_text(plan)
    yield "registration", _alignment_text(plan)
    yield "resampling", _resampling_text(plan)
    if plan.length_scaling is not None:
        yield "b-value check", "MD of the ventricles beside that of free water"
    if plan.has_tensor:
        yield (
            "gradient check",
            "b-vectors against the fibres, beside other orders and signs",
        )
    yield "tensor", _tensor_text(plan)
    for network in plan.networks:
        yield "network", f"{network}: {_six_text(plan)}{_weights_text(plan, network)}"
    if not plan.networks:
        yield "network", "none"
    for encoder in plan.encoders:
        yield "features", _features_text(plan, encoder)
    if not plan.encoders:
        yield "features", "none"
    yield "output spaces", ", ".join(plan.output_spaces)


def _run_text(run: EpiImage, n_usable: int, readout_s: float) -> str:
    n_all = run.shape[3]
    unusable = f", {n_all - n_usable} of them left out" if n_all != n_usable else ""
    plural = "volume" if n_all == 1 else "volumes"
    return f"{run.path.name} ({n_all} {plural}{unusable}; {_encoding_text(run, readout_s)})"


def _encoding_text(image: EpiImage, readout_s: float) -> str:
    assumed = "" if image.readout_time_s else " (assumed)"
    encoding = image.phase_encoding or "unknown"
    return f"phase encoding {encoding}, readout {readout_s:.4g} s{assumed}"


def _volumes_text(plan: SeriesPlan) -> str:
    gtab = plan.gtab
    shells = ", ".join(f"{len(s.index)} at b = {s.bval:.0f}" for s in gtab.shells)
    return (
        f"{len(gtab)}: {int(gtab.is_b0.sum())} b=0 (b < {plan.b0_threshold:g} s/mm^2), "
        f"{shells or 'none weighted'}"
    )


def _alignment_text(plan: SeriesPlan) -> str:
    if plan.t1w is None:
        return f"b=0 reference rigidly to ACPC; to the template: {plan.normalisation_name}"
    source = f" of ses-{plan.t1w_session}" if plan.t1w_session else ""
    return (
        f"b=0 reference to {plan.t1w.name}{source}: {plan.coregistration_name}; to the template "
        f"by that image's: {plan.normalisation_name}"
    )


def _mask_text(plan: SeriesPlan) -> str:
    text = f"of the b=0 reference: {plan.mask_name}"
    if plan.is_slab:
        return f"{text} (the field of view is too short for a whole head)"
    return f"{text}; median_otsu alone where deepbet finds no brain of a possible volume"


def _resampling_text(plan: SeriesPlan) -> str:
    size = plan.voxel_size_mm
    if size is None:
        size = float(np.linalg.norm(plan.series.runs[0].affine[:3, :3], axis=0).min())
    asked = " (--output-resolution)" if plan.voxel_size_mm is not None else ""
    spaces = [f"ACPC at {size:.3g} mm{asked}"]
    spaces += [f"{space} at 2 mm" for space in plan.output_spaces if space != "ACPC"]
    # eddy hands on its own series, built-in motion correction the volumes as they were acquired.
    how = "by eddy on the grid of the series; then " if plan.is_resampled_by_hmc else ""
    return f"{how}one interpolation into each space; {', '.join(spaces)}"


def _tensor_text(plan: SeriesPlan) -> str:
    if not plan.has_tensor:
        return "none"
    table = plan.gtab.select(plan.tensor_volumes)
    which = f"all {len(table)}" if len(table) == len(plan.gtab) else f"{len(table)}"
    shells = " and ".join(f"{s.bval:.0f}" for s in table.shells)
    text = (
        f"weighted least squares on {which} volumes, b=0 and b = {shells} "
        f"({table.count_directions()} directions)"
    )
    return f"{text}; {plan.tensor_widening}" if plan.tensor_widening else text


def _six_text(plan: SeriesPlan) -> str:
    assert plan.six is not None
    volumes = _numbers(plan.six.index)
    return (
        f"six of {plan.n_six_candidates} directions at b = {plan.six.bval:.0f}, those of lowest "
        f"condition number once b-vectors are turned into ACPC (as acquired: volumes {volumes}, "
        f"counted from 0, {plan.six.condition_number:.2f}), {_device(plan)}"
    )


def _weights_text(plan: SeriesPlan, model: str) -> str:
    path = plan.weights.get(model)
    return "" if path is None else f"; own weights {path}"


def _features_text(plan: SeriesPlan, encoder: str) -> str:
    n_weighted = int((~plan.gtab.is_b0).sum())
    n = plan.n_feature_directions
    which = f"all {n} directions" if n == n_weighted else f"{n} of {n_weighted} directions, spread"
    own = _weights_text(plan, encoder)
    return f"{encoder}: {which}, on the model's MNI grid, {_device(plan)}{own}"


def _device(plan: SeriesPlan) -> str:
    return f"on {'a GPU' if plan.engines.device == 'cuda' else 'the CPU'}"


def _numbers(index: Sequence[int]) -> str:
    return " ".join(str(i) for i in index)
