"""Volumes of a series that a tensor network reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.shell_prediction import determines_left_out
from dmri_fm.qspace import SixDirections, choose_six, find_six, skare_angle_deg

#: Largest factor by which the lack of excluded volumes may raise a condition number to beyond
#: what is expected: more noise everywhere is worse than a slice that lost signal.
LARGEST_RISE = 1.25

#: Why volumes with outlier slices are read all the same.
DOUBTFUL = (
    "the other volumes of the shell do not determine a tensor that predicts them: anisotropy "
    "looks like lost signal"
)


@dataclass(frozen=True)
class ChosenVolumes:
    """The b=0 volumes and six directions of a series.

    Attributes
    ----------
    b0
        Positions of the b=0 volumes in the series.
    six
        The six directions.
    n_weighted
        Number of diffusion-weighted volumes of the series.
    angle_deg
        Mean angle of the six to the ideal set, see :func:`dmri_fm.qspace.skare_angle_deg`.
    excluded
        Volumes that were not to be read.
    doubtful
        Volumes with outlier slices that were not excluded, because these may be false.
    seed
        Of the search.
    """

    b0: tuple[int, ...]
    six: SixDirections
    n_weighted: int
    angle_deg: float
    excluded: tuple[int, ...] = ()
    doubtful: tuple[int, ...] = ()
    seed: int = 0

    @property
    def index(self) -> tuple[int, ...]:
        """Positions of all of them in the series, b=0 first."""
        return (*self.b0, *self.six.index)

    @property
    def reasons(self) -> list[str]:
        """Reasons that the choice gives against primary maps."""
        reasons = []
        if six := sorted({*self.excluded} & {*self.six.index}):
            reasons.append(
                "without the excluded volumes no six directions determine a tensor well: "
                f"{', '.join(map(str, six))} of them are used"
            )
        if {*self.excluded} & {*self.b0}:
            reasons.append("all b=0 volumes are among the excluded ones: they are used")
        return reasons if self.six.problem is None else [*reasons, self.six.problem]

    def describe(self) -> dict[str, Any]:
        """Return metadata about the choice."""
        doubtful = {"Volumes": list(self.doubtful), "Reason": DOUBTFUL}
        return {
            "Volumes": list(self.six.index),
            "B0Volumes": list(self.b0),
            "ExcludedVolumes": list(self.excluded),
            **({"OutliersNotExcluded": doubtful} if self.doubtful else {}),
            "WeightedVolumes": self.n_weighted,
            "BValue": round(self.six.bval),
            "ConditionNumber": round(self.six.condition_number, 3),
            "AngleToSkare": round(self.angle_deg, 1),
            "Seed": self.seed,
        }

    def as_json(self) -> dict[str, Any]:
        """Return the choice as an object of JSON, which :meth:`from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ChosenVolumes:
        """Read a choice that :meth:`as_json` wrote."""
        lists = {name: tuple(values[name]) for name in ("b0", "excluded", "doubtful")}
        six = values["six"] | {"index": tuple(values["six"]["index"])}
        return cls(**{**values, **lists, "six": SixDirections(**six)})


def split_outliers(is_outlier: ArrayLike, gtab: GradientTable) -> tuple[list[int], list[int]]:
    """Split volumes with outlier slices into those to exclude and those to read all the same.

    Parameters
    ----------
    is_outlier
        Shape (N, Z), bool: slices that are darker than the other volumes predict.
    gtab
        Gradient table of the volumes.

    Returns
    -------
    excluded, doubtful : list of int
        The doubtful ones are of shells that do not predict their volumes, see
        :func:`dmri_fm.preprocess.shell_prediction.determines_left_out`.
    """
    flagged = set(np.flatnonzero(np.asarray(is_outlier).any(axis=1)).tolist())
    unpredicted = (s.index for s in gtab.shells if not determines_left_out(gtab, s.index))
    doubtful = flagged & {int(i) for index in unpredicted for i in index}
    return sorted(flagged - doubtful), sorted(doubtful)


def choose_volumes(
    gtab: GradientTable,
    *,
    exclude: Sequence[int] = (),
    doubtful: Sequence[int] = (),
    seed: int = 0,
) -> ChosenVolumes:
    """Choose the volumes of a series that a tensor network reads.

    Parameters
    ----------
    gtab
        Gradient table of the series.
    exclude
        Volumes that are not to be read, such as those with replaced slices. Where no six others
        determine a tensor well, the six are chosen of all; where no other b=0 volume is left, all
        are read; `reasons` says so.
    doubtful
        Volumes with outlier slices that are not excluded, for the record.
    seed
        Seed of the search in large shells.

    Raises
    ------
    GradientError
        If there is no b=0 volume, or no shell has six directions that determine a tensor.
    """
    six = find_six(gtab, exclude=exclude, seed=seed) if exclude else None
    if six is None or six.problem is not None:
        of_all = choose_six(gtab, seed=seed)
        if six is None or six.condition_number > LARGEST_RISE * of_all.condition_number:
            six = of_all
    gtab.require_b0()
    b0 = np.flatnonzero(gtab.is_b0).tolist()
    return ChosenVolumes(
        b0=tuple([i for i in b0 if i not in exclude] or b0),
        six=six,
        n_weighted=len(gtab) - len(b0),
        angle_deg=skare_angle_deg(gtab.bvecs_ras[list(six.index)]),
        excluded=tuple(sorted(int(i) for i in exclude)),
        doubtful=tuple(sorted(int(i) for i in doubtful)),
        seed=seed,
    )
