"""What FSL's eddy is told about a series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.slice_groups import group_slices
from dmri_fm_workflows.bids import DwiRun, DwiSeries
from dmri_fm_workflows.eddy_config import DEFAULTS

#: With fewer directions eddy-current fields are tied to the gradients (`--slm=linear`), as eddy's
#: guide advises for few directions and for those of half a sphere.
FEW_DIRECTIONS = 60

#: Directions are those of half a sphere if their mean is longer than this: it is 0.5 on half a
#: sphere, next to 0 on a whole one, and below 0.2 for 30 random directions of a whole one.
HALF_SPHERE_MEAN = 0.25


@dataclass(frozen=True)
class EddyPlan:
    """What eddy is told about a series.

    Attributes
    ----------
    options
        Options by their key, see :data:`dmri_fm_workflows.eddy_config.OPTIONS`, defaults
        included.
    slice_groups
        Slices of each excitation, in order; empty unless head motion within volumes is estimated.
    has_quad
        Whether eddy_quad runs behind it.
    """

    options: Mapping[str, Any]
    slice_groups: tuple[tuple[int, ...], ...] = ()
    has_quad: bool = False


def plan_eddy(
    options: Mapping[str, Any],
    series: DwiSeries,
    gtab: GradientTable,
    *,
    has_field: bool,
    has_quad: bool,
) -> EddyPlan:
    """Return what eddy is told about a series.

    Parameters
    ----------
    options
        Those of the user.
    series
        Its runs.
    gtab
        Gradients of all runs.
    has_field
        Whether there is a distortion field.
    has_quad
        Whether eddy_quad is there.

    Raises
    ------
    ConfigError
        If eddy cannot correct the series, or not in the way that was asked for.
    """
    first = series.runs[0]
    if any(run.phase_encoding in ("k", "k-") for run in series.runs):
        raise ConfigError(
            f"{series.name} has its phase encoding along k, which FSL's eddy does not take",
            path=first.path,
            expected="phase encoding along i or j",
            advice="use --hmc builtin",
        )
    moving = "estimate_move_by_susceptibility"
    if options.get(moving) and not has_field:
        raise ConfigError(
            f"{moving} of --eddy-config, and {series.name} has no distortion field",
            path=first.path,
            expected="a field that can change with the head",
            advice="leave the option out for scans without a reverse-phase pair or a field map",
        )
    full = {**DEFAULTS, "slm": choose_slm(gtab), **options}
    groups = tuple(map(tuple, _find_groups(series))) if full.get("mporder") else ()
    if groups and full["mporder"] > len(groups) - 1:
        raise ConfigError(
            f"mporder of eddy is {full['mporder']} for {len(groups)} excitations a volume",
            path=first.path,
            expected=f"less than that; eddy's guide advises a quarter, {len(groups) // 4}",
        )
    return EddyPlan(full, groups, has_quad)


def choose_slm(gtab: GradientTable) -> str:
    """Return eddy's second-level model for a table: `linear` for few directions or half a sphere.

    Examples
    --------
    >>> choose_slm(GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]]))
    'linear'
    """
    vectors = gtab.bvecs_ras[~gtab.is_b0]
    if gtab.count_directions() < FEW_DIRECTIONS:
        return "linear"
    return "linear" if np.linalg.norm(vectors.mean(axis=0)) > HALF_SPHERE_MEAN else "none"


def _find_groups(series: DwiSeries) -> list[list[int]]:
    """Return the slices of each excitation, which all runs have to share."""
    groups = [_groups_of(run) for run in series.runs]
    if any(g != groups[0] for g in groups):
        raise ConfigError(
            f"the runs of {series.name} have different orders of slices",
            path=series.runs[0].path,
            expected="one order: eddy estimates motion within volumes by it (mporder)",
            advice="leave mporder out, or process the runs apart by --bids-filter-file",
        )
    return groups[0]


def _groups_of(run: DwiRun) -> list[list[int]]:
    """Return the slices of each excitation of a run, by its sidecar."""
    axis = run.metadata.get("SliceEncodingDirection", "k")
    times = run.metadata.get("SliceTiming")
    if axis not in ("k", "k-") or not isinstance(times, list) or not times:
        found = f"slices along {axis}" if axis not in ("k", "k-") else "no SliceTiming"
        raise ConfigError(
            f"mporder of eddy, for a scan with {found}",
            path=run.path,
            expected="slices along k, and SliceTiming in the sidecar",
            advice="leave mporder out for this scan",
        )
    try:
        return group_slices(times, n_slices=run.shape[2], is_reversed=axis == "k-")
    except (InputError, ValueError, TypeError) as error:
        found = error.found if isinstance(error, InputError) else f"SliceTiming of {error}"
        raise ConfigError(
            f"mporder of eddy needs the order of slices: {found}",
            path=run.path,
            expected="SliceTiming, a time in seconds for each slice",
            advice="leave mporder out for this scan",
        ) from None
