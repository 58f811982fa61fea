"""Volumes of a series that a tensor network reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SixDirections, choose_six, find_six, skare_angle_deg


@dataclass(frozen=True)
class ChosenVolumes:
    """The b=0 volumes and six directions of a series.

    Attributes
    ----------
    b0
        Positions of the b=0 volumes in the series.
    six
        The six directions.
    n_directions
        Number of distinct directions in the series.
    angle_deg
        Mean angle of the six to the ideal set, see :func:`dmri_fm.qspace.skare_angle_deg`.
    excluded
        Volumes that were not to be among the six.
    seed
        Of the search.
    """

    b0: tuple[int, ...]
    six: SixDirections
    n_directions: int
    angle_deg: float
    excluded: tuple[int, ...] = ()
    seed: int = 0

    @property
    def index(self) -> tuple[int, ...]:
        """Positions of all of them in the series, b=0 first."""
        return (*self.b0, *self.six.index)

    @property
    def reasons(self) -> list[str]:
        """Reasons that the choice gives against primary maps."""
        used = sorted({*self.excluded} & {*self.six.index})
        if not used:
            return []
        return [
            "without the excluded volumes no six directions determine a tensor: "
            f"{', '.join(map(str, used))} of them are used"
        ]

    def describe(self) -> dict[str, Any]:
        """Return metadata about the choice."""
        return {
            "Volumes": list(self.six.index),
            "B0Volumes": list(self.b0),
            "ExcludedVolumes": list(self.excluded),
            "UsesAllDirections": self.n_directions == len(self.six.index),
            "BValue": round(self.six.bval),
            "ConditionNumber": round(self.six.condition_number, 3),
            "AngleToSkare": round(self.angle_deg, 1),
            "Seed": self.seed,
        }


def choose_volumes(
    gtab: GradientTable, *, exclude: Sequence[int] = (), seed: int = 0
) -> ChosenVolumes:
    """Choose the volumes of a series that a tensor network reads.

    Parameters
    ----------
    gtab
        Gradient table of the series.
    exclude
        Volumes that are not to be among the six, such as those with replaced slices. Where no
        six others determine a tensor, the six are chosen of all, and `reasons` says so.
    seed
        Seed of the search in large shells.

    Raises
    ------
    GradientError
        If there is no b=0 volume, or no shell has six directions that determine a tensor.
    """
    left = find_six(gtab, exclude=exclude, seed=seed) is not None
    six = choose_six(gtab, exclude=exclude if left else (), seed=seed)
    gtab.require_b0()
    return ChosenVolumes(
        b0=tuple(int(i) for i in np.flatnonzero(gtab.is_b0)),
        six=six,
        n_directions=gtab.count_directions(),
        angle_deg=skare_angle_deg(gtab.bvecs_ras[list(six.index)]),
        excluded=tuple(sorted(int(i) for i in exclude)),
        seed=seed,
    )
