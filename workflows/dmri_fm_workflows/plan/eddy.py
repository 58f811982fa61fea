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
from dmri_fm_workflows.eddy_config import DEFAULTS, OF_GROUPS
from dmri_fm_workflows.engines import SDC
from dmri_fm_workflows.plan.sdc import SdcChoice, list_readouts, list_sources

#: With fewer directions eddy-current fields are tied to the gradients (`--slm=linear`), as eddy's
#: guide advises for few directions and for those of half a sphere.
FEW_DIRECTIONS = 60

#: Directions are those of half a sphere if their mean is longer than this: it is 0.5 on half a
#: sphere, next to 0 on a whole one, and below 0.2 for 30 random directions of a whole one.
HALF_SPHERE_MEAN = 0.25

#: Readout times that eddy takes, s.
READOUTS_S = (0.01, 0.2)

#: b-values up to this one are b=0 for eddy, and those of a shell differ from their mean by no
#: more, s/mm^2.
SHELL_RANGE = 100.0

#: Most shells that eddy believes in where it checks the table by itself.
MOST_SHELLS = 5

#: Fewest directions of a shell: those that determine a tensor. Its own check compares shells with
#: each other, and refuses many tables of shells of unequal size.
FEWEST_DIRECTIONS = 6


@dataclass(frozen=True)
class EddyPlan:
    """What eddy is told about a series.

    Attributes
    ----------
    options
        Options by their key, see :data:`dmri_fm_workflows.eddy_config.OPTIONS`, defaults
        included.
    slice_groups
        Slices of each excitation, in order; empty unless head motion within volumes is estimated,
        or outliers are found among slices that are excited together.
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
    sdc: SdcChoice,
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
    sdc
        Susceptibility correction of the series.
    has_quad
        Whether eddy_quad is there.

    Raises
    ------
    ConfigError
        If eddy cannot correct the series, or not in the way that was asked for.
    """
    _check_encodings(series, sdc)
    moving = "estimate_move_by_susceptibility"
    if options.get(moving) and not sdc.has_field:
        raise ConfigError(
            f"{moving} of --eddy-config, and {series.name} has no distortion field",
            path=series.runs[0].path,
            expected="a field that can change with the head",
            advice="leave the option out for scans without a reverse-phase pair or a field map",
        )
    # A user who says whether the data are shelled knows, or lets eddy check.
    if "is_shelled" not in options and (problem := explain_no_shells(gtab)):
        raise ConfigError(
            f"eddy models shells, and {series.name} has {problem}",
            path=series.runs[0].path,
            expected=f"at most {MOST_SHELLS} shells of {FEWEST_DIRECTIONS} directions or more",
            advice='use --hmc builtin, or state {"is_shelled": true} in --eddy-config',
        )
    full = {**DEFAULTS, "slm": choose_slm(gtab), **options}
    return EddyPlan(full, _plan_groups(full, series), has_quad)


def _check_encodings(series: DwiSeries, sdc: SdcChoice) -> None:
    """Refuse phase encodings and readout times that eddy does not take, or has no field for."""
    builtin = "use --hmc builtin"
    readouts_s = list_readouts(series, sdc)
    low, high = READOUTS_S
    for run, readout_s in zip(series.runs, readouts_s, strict=False):
        if run.phase_encoding in ("k", "k-"):
            raise ConfigError(
                f"{run.path.name} has its phase encoding along k, which FSL's eddy does not take",
                path=run.path,
                expected="phase encoding along i or j",
                advice=builtin,
            )
        if not low <= readout_s <= high:
            raise ConfigError(
                f"TotalReadoutTime of {run.path.name} is {readout_s:g} s, which FSL's eddy does "
                "not take",
                path=run.path,
                expected=f"{low:g} to {high:g} s",
                advice=f"correct it in the sidecar if it is wrong, or {builtin}",
            )
        if sdc.has_field and run.phase_encoding is None:
            raise ConfigError(
                f"PhaseEncodingDirection of {run.path.name} is missing, and eddy applies the "
                "distortion field along it",
                path=run.path,
                expected="PhaseEncodingDirection in the sidecar of every run",
                advice=f"add it, or {builtin}",
            )
    if SDC.load(sdc.method).gives != "topup":
        return
    # eddy starts from positions of topup, which has them of b=0 volumes alone.
    images = zip(list_sources(series, sdc), readouts_s, strict=True)
    with_b0 = {
        (image.phase_encoding, readout_s)
        for image, readout_s in images
        if image.gradients is None or image.gradients.gtab.is_b0.any()
    }
    for run, readout_s in zip(series.runs, readouts_s, strict=False):
        if (run.phase_encoding, readout_s) not in with_b0:
            raise ConfigError(
                f"{run.path.name} has no b=0 volume, and no other image has its phase encoding "
                f"and readout time, {run.phase_encoding} and {readout_s:g} s",
                path=run.path,
                expected="a b=0 volume of each phase encoding and readout time, for topup",
                advice=builtin,
            )


def explain_no_shells(gtab: GradientTable) -> str | None:
    """Return the reason why a table has no shells that eddy can model; None if it has.

    Examples
    --------
    >>> explain_no_shells(GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]]))
    'shells of too few directions (b = 1000: 1)'
    """
    shells = [s for s in gtab.shells if s.bval > SHELL_RANGE]
    if not shells:
        return f"no b-value above {SHELL_RANGE:g} s/mm^2"
    if len(shells) > MOST_SHELLS:
        return f"{len(shells)} different b-values"
    for shell in shells:
        bvals = gtab.bvals[list(shell.index)]
        if np.abs(bvals - shell.bval).max() > SHELL_RANGE:
            return f"b-values without gaps from {bvals.min():.0f} to {bvals.max():.0f} s/mm^2"
    counts = {shell.bval: len(gtab.group_axes(shell.index)) for shell in shells}
    few = [f"b = {b:.0f}: {n}" for b, n in counts.items() if n < FEWEST_DIRECTIONS]
    return f"shells of too few directions ({', '.join(few)})" if few else None


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


def _plan_groups(options: Mapping[str, Any], series: DwiSeries) -> tuple[tuple[int, ...], ...]:
    """Return the slices of each excitation, if eddy has to know them; empty if it does not.

    eddy takes them by a multiband factor or from a file, and not by both.
    """
    first = series.runs[0]
    n_slices = first.shape[2]
    if factor := options.get("multiband_factor"):
        offset = abs(options.get("multiband_offset", 0))
        if (n_slices + offset) % factor:
            raise ConfigError(
                f"multiband_factor of eddy is {factor}, multiband_offset {offset} or -{offset}, "
                f"for the {n_slices} slices of {series.name}",
                path=first.path,
                expected="a factor that divides the number of slices and the offset together",
                advice="leave multiband_factor out for this scan",
            )
        return ()
    order, of_groups = options.get("mporder"), options.get("outlier_type") in OF_GROUPS
    if not order and not of_groups:
        return ()
    key = "mporder" if order else "outlier_type"
    groups = tuple(map(tuple, _find_groups(series, key)))
    if order and order > len(groups) - 1:
        raise ConfigError(
            f"mporder of eddy is {order} for {len(groups)} excitations a volume",
            path=first.path,
            expected=f"less than that; eddy's guide advises a quarter, {len(groups) // 4}",
        )
    if of_groups and len(groups[0]) < 2:
        raise ConfigError(
            f"outlier_type {options['outlier_type']} of eddy, and {series.name} has one slice in "
            "each excitation",
            path=first.path,
            expected="slices that are excited together, by SliceTiming",
            advice="use the outlier_type sw for this scan",
        )
    return groups


def _find_groups(series: DwiSeries, key: str) -> list[list[int]]:
    """Return the slices of each excitation, which all runs have to share; `key` needs them."""
    groups = [_groups_of(run, key) for run in series.runs]
    if any(g != groups[0] for g in groups):
        raise ConfigError(
            f"the runs of {series.name} have different orders of slices",
            path=series.runs[0].path,
            expected=f"one order, for {key} of eddy",
            advice=f"leave {key} out, or process the runs apart by --bids-filter-file",
        )
    return groups[0]


def _groups_of(run: DwiRun, key: str) -> list[list[int]]:
    """Return the slices of each excitation of a run, by its sidecar."""
    axis = run.metadata.get("SliceEncodingDirection", "k")
    times = run.metadata.get("SliceTiming")
    if axis not in ("k", "k-") or not isinstance(times, list) or not times:
        found = f"slices along {axis}" if axis not in ("k", "k-") else "no SliceTiming"
        raise ConfigError(
            f"{key} of eddy, for a scan with {found}",
            path=run.path,
            expected="slices along k, and SliceTiming in the sidecar",
            advice=f"leave {key} out for this scan",
        )
    try:
        return group_slices(times, n_slices=run.shape[2], is_reversed=axis == "k-")
    except (InputError, ValueError, TypeError) as error:
        found = error.found if isinstance(error, InputError) else f"SliceTiming of {error}"
        raise ConfigError(
            f"{key} of eddy needs the order of slices: {found}",
            path=run.path,
            expected="SliceTiming, a time in seconds for each slice",
            advice=f"leave {key} out for this scan",
        ) from None
