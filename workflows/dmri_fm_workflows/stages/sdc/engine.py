"""Record of a method that corrects susceptibility distortion, and what those with a pair share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import nipype.pipeline.engine as pe

from dmri_fm_workflows.bids import DwiSeries, UnusedImage
from dmri_fm_workflows.bids.fieldmaps import FIELDMAP_SUFFIXES
from dmri_fm_workflows.bids.names import split_name
from dmri_fm_workflows.plan import SeriesPlan
from dmri_fm_workflows.stages.base import MERGED_FILES, Engine, open_workflow

_REFERENCE = ("biased_dwiref_file", "uncorrected_file", "sdc_record")

#: Fields that the workflow of a method has to offer, by what it gives. All have the b=0 reference
#: before bias correction, the image that it was corrected from, and a record with `SDCMethod`.
#: Inputs are any of :data:`~dmri_fm_workflows.stages.base.MERGED_FILES`, and fields of the T1w
#: image where the method needs it.
FIELDS: dict[str | None, tuple[str, ...]] = {
    None: _REFERENCE,
    "field": (*_REFERENCE, "field_file"),
    "topup": (*_REFERENCE, "field_file", "fieldcoef_file", "movpar_file", "topup_acqp_file"),
}

#: Images that a reason names; the plan, the sidecar and the report list them all.
N_NAMED = 2


@dataclass(frozen=True, kw_only=True)
class SdcEngine(Engine):
    """A method that corrects susceptibility distortion.

    Attributes
    ----------
    gives
        Output for later stages: `field`: `field_file`, Hz, on the grid of the b=0 reference;
        `topup`: topup's own files besides; None: nothing. The motion stage is connected by it, so
        a new method needs no edge there.
    reason
        Reason why a series is corrected by it, for sidecar and report.
    applies
        Reason why it cannot correct a series; None if it can.
    uses_pair
        Whether it uses the pair of images of opposite phase encoding, which the sidecars then
        name.
    uses_fieldmap
        Whether it uses the gradient-echo field map of the series, likewise.
    needs_t1w
        Whether it needs the T1w image of the session.
    """

    gives: Literal["topup", "field"] | None
    reason: Callable[[DwiSeries], str]
    applies: Callable[[DwiSeries], str | None] = lambda series: None
    uses_pair: bool = False
    uses_fieldmap: bool = False
    needs_t1w: bool = False

    @property
    def has_field(self) -> bool:
        """Whether there is a field in Hz."""
        return self.gives is not None


def connect_estimate(name: str, estimate: pe.Node, *anatomy: str) -> pe.Workflow:
    """Return the workflow of a node that estimates the field from the merged series.

    `anatomy` are fields of the T1w image that it reads as well, under their own names.
    """
    inputs = MERGED_FILES | {field: field for field in anatomy}
    workflow, inputnode, outputnode = open_workflow(name, inputs, FIELDS["field"])
    workflow.connect([
        (inputnode, estimate, list(inputs.items())),
        (estimate, outputnode, [("dwiref_file", "biased_dwiref_file"),
                                ("uncorrected_file", "uncorrected_file"),
                                ("field_file", "field_file"), ("record", "sdc_record")]),
    ])  # fmt: skip
    return workflow


def explain_no_pair(series: DwiSeries) -> str | None:
    """Return the reason why a series has no pair of images; None if it has one."""
    if series.blip_pair is not None:
        return None
    if all(run.phase_encoding is None for run in series.runs):
        return "PhaseEncodingDirection is missing from the sidecars"
    # Another method gives the reasons against gradient-echo field maps.
    gradient_echo = {s for s, method in FIELDMAP_SUFFIXES.items() if method}
    return _explain_unused(
        [i for i in series.unused if split_name(i.path)[1] not in gradient_echo]
    )


def _explain_unused(unused: Sequence[UnusedImage]) -> str:
    """Return the reason why no image opposes a series of known phase encoding."""
    if not unused:
        return "the session has no image of the opposite phase encoding"
    said = "; ".join(f"{image.path.name}: {image.reason}" for image in unused[:N_NAMED])
    n_more = len(unused) - N_NAMED
    more = f"; and {n_more} more, each with its reason in SDCImagesNotUsed" if n_more > 0 else ""
    return f"no image fits ({said}{more})"


def b0_encoding(plan: SeriesPlan) -> str | None:
    """Return the phase encoding of the first run with b=0 volumes."""
    return next(run.phase_encoding for run in plan.series.runs if run.has_b0)


def explain_no_shift(series: DwiSeries) -> str | None:
    """Return the reason why a field in Hz cannot be applied to a series; None if it can."""
    needed = {"phase_encoding": "PhaseEncodingDirection", "readout_time_s": "TotalReadoutTime"}
    for attribute, key in needed.items():
        without = [run.path.name for run in series.runs if not getattr(run, attribute)]
        if without:
            return (
                f"a field in Hz displaces by Hz times readout time along the phase encoding, and "
                f"{key} of {', '.join(without)} is missing or not usable"
            )
    return None


def name_pair(series: DwiSeries) -> str:
    """Name the two images of the pair, and their tie."""
    names = " and ".join(f"{i.path.name} ({i.phase_encoding})" for i in series.blip_pair or ())
    return f"{names}: {series.pair_reason}" if series.pair_reason else names


def reverse_inputs(plan: SeriesPlan) -> dict[str, Any]:
    """Return the inputs about the image outside a series that opposes it; none if it has both."""
    image = plan.series.outside_image
    if image is None:
        return {}
    inputs: dict[str, Any] = {
        "epi_file": str(image.path),
        "epi_phase_encoding": image.phase_encoding,
        "epi_readout_s": plan.readouts_s[-1],
    }
    if image.bval is not None and image.bvec is not None:
        inputs |= {"epi_bval_file": str(image.bval), "epi_bvec_file": str(image.bvec)}
    if image.gradients is not None:
        inputs["epi_b0_threshold"] = image.gradients.gtab.b0_threshold
    return inputs
