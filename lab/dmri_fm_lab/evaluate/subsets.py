"""Six-direction subsets of a series, and the volumes of their references."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.gradients import GradientTable, Shell
from dmri_fm.qspace import (
    LARGEST_SIX_CONDITION,
    condition_number,
    condition_numbers,
    list_subsets,
    skare_angle_deg,
)

#: Condition number below which subsets are chosen to differ, if there are more than asked for.
GOOD_CONDITION = 2.0

#: Condition number that the reference's directions must stay below.
LARGEST_REFERENCE_CONDITION = 10.0

#: Fewest distinct directions of a reference.
FEWEST_LEFT = 6

#: Largest number of subsets below :data:`GOOD_CONDITION` that are compared with one another.
MOST_COMPARED = 2_000


@dataclass(frozen=True)
class SixSubset:
    """One b=0 volume and six weighted ones of a test, and the volumes of its reference.

    Attributes
    ----------
    bval
        b-value of the shell, s/mm^2.
    b0
        Position of the test's b=0 volume in the series.
    weighted
        Positions of the six weighted volumes, ascending.
    repetition
        Which measurement of each direction the test takes, from zero.
    condition_number
        Condition number of the six directions.
    is_well_conditioned
        Whether that is below 3.
    skare_angle_deg
        Mean angle to the nearest rotated Skare set, degrees.
    reference_b0, reference_weighted
        Positions of the reference's volumes: the other b=0, and the rest of the shell.
    reference_condition_number
        Condition number of the reference's directions.
    shares_b0
        Whether the reference uses the test's own b=0, the only one.
    """

    bval: float
    b0: int
    weighted: tuple[int, ...]
    repetition: int
    condition_number: float
    is_well_conditioned: bool
    skare_angle_deg: float
    reference_b0: tuple[int, ...]
    reference_weighted: tuple[int, ...]
    reference_condition_number: float
    shares_b0: bool

    @property
    def volumes(self) -> tuple[int, ...]:
        """The seven volumes of the test, b=0 first."""
        return (self.b0, *self.weighted)

    @property
    def reference(self) -> tuple[int, ...]:
        """The volumes of the reference, b=0 first."""
        return (*self.reference_b0, *self.reference_weighted)


def choose_subsets(gtab: GradientTable, *, n_subsets: int = 6, seed: int = 0) -> list[SixSubset]:
    """Choose sets of six directions of each shell, of low condition number.

    Subsets of the lowest condition numbers below 3 are taken. Where more than `n_subsets` are
    below 2, subsets among these that differ most are taken; where none is below 3, the lowest one
    is, with :attr:`SixSubset.is_well_conditioned` false. The condition number is that of the
    columns gx^2, gy^2, gz^2, 2gxgy, 2gxgz, 2gygz, and differs a little between frames. Where each
    direction was measured several times, each measurement gives a test of its own. Tests take the
    b=0 volumes in turn.

    Parameters
    ----------
    gtab
        Gradient table of the series.
    n_subsets
        Largest number of sets per shell.
    seed
        Seed of random rotations, which stand for all subsets where these are too many.

    Returns
    -------
    list of SixSubset
        By shell, condition number and repetition. Empty where no shell has six directions and
        enough others for a reference.

    Raises
    ------
    GradientError
        If the series has no b=0 volume.
    ConfigError
        If no subset is asked for.
    """
    if n_subsets < 1:
        raise ConfigError(f"{n_subsets} subsets", expected="one or more")
    if not gtab.is_b0.any():
        raise GradientError(
            "no b=0 volume",
            expected=f"one volume with b < {gtab.b0_threshold:g} s/mm^2 or more",
            advice="evaluate a series that holds b=0 volumes",
        )
    rng = np.random.default_rng(seed)
    return [s for shell in gtab.shells for s in _of_shell(gtab, shell, n_subsets, rng)]


def _of_shell(
    gtab: GradientTable, shell: Shell, n_subsets: int, rng: np.random.Generator
) -> list[SixSubset]:
    groups = gtab.group_axes(shell.index)
    axes = np.array([gtab.bvecs_ras[group[0]] for group in groups])
    if len(groups) < 6:
        return []
    subsets = list_subsets(axes, rng)
    conditions = condition_numbers(axes[subsets])
    usable = np.array([_leaves_enough(axes, groups, s) for s in subsets]) & np.isfinite(conditions)
    subsets, conditions = subsets[usable], conditions[usable]
    chosen = []
    for number, k in enumerate(_choose_different(subsets, conditions, n_subsets)):
        six = [groups[i] for i in subsets[k]]
        for repetition in range(min(map(len, six))):
            weighted = sorted(group[repetition] for group in six)
            chosen.append(_describe(gtab, shell, weighted, repetition, turn=number + repetition))
    return chosen


def _leaves_enough(
    axes: NDArray[np.float64], groups: list[list[int]], subset: NDArray[np.int_]
) -> bool:
    chosen = set(subset.tolist())
    left = [i for i, group in enumerate(groups) if i not in chosen or len(group) > 1]
    if len(left) < FEWEST_LEFT:
        return False
    # More than twelve directions are seldom ill-conditioned, and the number takes long to compute.
    is_ample = len(left) > 2 * FEWEST_LEFT
    return is_ample or condition_number(axes[left]) < LARGEST_REFERENCE_CONDITION


def _choose_different(
    subsets: NDArray[np.int_], conditions: NDArray[np.float64], n_subsets: int
) -> list[int]:
    """Return rows of the best subsets, or of the most different ones where many are good."""
    order = np.argsort(conditions, kind="stable")
    usable = order[conditions[order] < LARGEST_SIX_CONDITION]
    order = usable if len(usable) else order[:1]
    good = order[conditions[order] < GOOD_CONDITION][:MOST_COMPARED]
    if len(good) <= n_subsets:
        return [int(k) for k in order[:n_subsets]]
    members = np.zeros((len(good), int(subsets.max()) + 1), dtype=int)
    members[np.arange(len(good))[:, None], subsets[good]] = 1
    shared = members @ members.T
    chosen = [0]
    while len(chosen) < n_subsets:
        # The largest overlap counts first, then all overlaps, then the condition number.
        cost = 100 * shared[:, chosen].max(axis=1) + shared[:, chosen].sum(axis=1)
        cost[chosen] = np.iinfo(int).max
        chosen.append(int(cost.argmin()))
    return [int(good[k]) for k in sorted(chosen)]


def _describe(
    gtab: GradientTable, shell: Shell, weighted: list[int], repetition: int, *, turn: int
) -> SixSubset:
    all_b0 = [int(i) for i in np.flatnonzero(gtab.is_b0)]
    b0 = all_b0[turn % len(all_b0)]
    others = tuple(i for i in all_b0 if i != b0)
    left = tuple(i for i in shell.index if i not in weighted)
    condition = condition_number(gtab.bvecs_ras[weighted])
    return SixSubset(
        bval=shell.bval,
        b0=b0,
        weighted=tuple(weighted),
        repetition=repetition,
        condition_number=condition,
        is_well_conditioned=condition < LARGEST_SIX_CONDITION,
        skare_angle_deg=skare_angle_deg(gtab.bvecs_ras[weighted]),
        reference_b0=others or (b0,),
        reference_weighted=left,
        reference_condition_number=condition_number(gtab.bvecs_ras[list(left)]),
        shares_b0=not others,
    )
