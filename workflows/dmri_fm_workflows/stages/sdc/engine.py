"""Record of a method that corrects susceptibility distortion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.stages.base import Engine

__all__ = ["SdcEngine", "reverse_inputs"]


@dataclass(frozen=True, kw_only=True)
class SdcEngine(Engine):
    """A method that corrects susceptibility distortion.

    Attributes
    ----------
    gives
        Output for later stages: `field`: `field_file`, Hz; `topup`: topup's own files besides;
        None: nothing. The motion stage is connected by it, so a new method needs no edge there.
    """

    gives: Literal["topup", "field"] | None

    @property
    def has_field(self) -> bool:
        """Whether there is a field in Hz."""
        return self.gives is not None


def reverse_inputs(series: DwiSeries) -> dict[str, Any]:
    """Return the inputs about the image outside a series that opposes it; none if it has both."""
    image = series.outside_image
    if image is None or series.blip_pair is None:
        return {}
    opposed = series.blip_pair[0]
    inputs: dict[str, Any] = {
        "epi_file": str(image.path),
        "epi_phase_encoding": image.phase_encoding,
        "epi_readout_s": image.readout_time_s or opposed.readout_time_s,
    }
    if image.bval is not None and image.bvec is not None:
        inputs |= {"epi_bval_file": str(image.bval), "epi_bvec_file": str(image.bvec)}
    if image.gradients is not None:
        inputs["epi_b0_threshold"] = image.gradients.gtab.b0_threshold
    return inputs
