"""What was done to a series before this run, and the masks that come with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dmri_fm.gradient_deviation import DEVIATION_KEY, NOMINAL
from dmri_fm.vector_lengths import share_length
from dmri_fm_workflows.bids import DwiSeries
from dmri_fm_workflows.bids.prepared import Preprocessing
from dmri_fm_workflows.outputs.steps import LEFT


@dataclass(frozen=True, eq=False, kw_only=True)
class EarlierSteps:
    """A series, and what its plan has to know of earlier preprocessing.

    Attributes
    ----------
    series
        Its runs, and the image that opposes them.
    """

    series: DwiSeries

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What was done to the series before this run; None for a raw series."""
        return self.series.preprocessing

    @property
    def is_preprocessed(self) -> bool:
        """Whether nothing is corrected in this run, as it was done before."""
        return self.preprocessing is not None

    @property
    def is_in_acpc(self) -> bool:
        """Whether the series lies on the axes of a template already."""
        return self.preprocessing is not None and self.preprocessing.space == "ACPC"

    @property
    def given_mask(self) -> Path | None:
        """Brain mask of the user, or of the input, for the series; None: it is made here."""
        if self.series.user_mask is not None:
            return self.series.user_mask.path
        return self.preprocessing.mask if self.preprocessing is not None else None

    @property
    def deviation_file(self) -> Path | None:
        """Deviation of the gradient coils; None if the input has none."""
        return self.preprocessing.gradient_deviation if self.preprocessing is not None else None

    @property
    def model_base(self) -> dict[str, str]:
        """Entries of the records of networks about gradients that a tensor fit would correct."""
        is_nominal = self.preprocessing is not None and self.preprocessing.is_nominal
        return {DEVIATION_KEY: NOMINAL} if is_nominal or self.deviation_file is not None else {}

    @property
    def earlier_steps(self) -> dict[str, str]:
        """Entries of the sidecar about steps that were done before this run, if at all."""
        if self.preprocessing is None:
            return {}
        left = {key: f"{LEFT}: {by}" for key, by in self.preprocessing.corrections.items()}
        return left | {"GradientSource": self.preprocessing.gradients}

    @property
    def length_scaling(self) -> tuple[str, float | None] | None:
        """Reading of b-vectors whose length is not 1, and the length that all runs share, if any.

        None if all lengths are 1 but for rounding: then MD of the ventricles is not checked.
        """
        lengths = [r.gradients.lengths for r in self.series.runs]
        read_as = [x.method for x in lengths if x is not None and not x.is_rounding]
        if not read_as:
            return None
        common = [1.0 if x is None else x.common for x in lengths]
        shared = [c for c in common if c is not None]
        return read_as[0], share_length(shared) if len(shared) == len(lengths) else None
