"""Simulated cohorts: tissue that follows an outcome, with effects on FA and MD or without.

The white matter of a participant differs from voxel to voxel where an effect is compensated: the
parallel and the radial diffusivity of each voxel are changed until the tensor that is fitted to
its noise-free signal has the FA and the MD that it would have without the effect. So FA and MD of
every region stay what they were.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi
from dmri_fm_lab.normalised_fit import fit_normalised
from dmri_fm_lab.simulate.subject import Tissue
from dmri_fm_lab.simulate.voxel_tissue import INTENSITY, Fibres, Geometry, fibre_signal

#: Change of the logarithm of the stick fraction by an effect of one, with and without an effect
#: on FA and MD, and of the logit of the second and third fibres' share.
LOG_STICK_FRACTION, COMPENSATED_LOG_STICK_FRACTION, LOGIT_CROSSING = 0.1, 0.15, 0.5

#: Least white matter of a voxel that an effect changes, as a share of its b=0 signal.
LEAST_WHITE = 0.3

#: Steps of Newton's method, largest step of the logarithm of a diffusivity, the differences
#: from which derivatives are taken, and the largest error that is left of FA, and of MD in
#: um^2/ms.
N_STEPS, LARGEST_STEP, DIFFERENCE, TOLERANCE = 8, 0.3, 5e-3, 2e-4

#: Range of diffusivities, mm^2/s.
DIFFUSIVITIES = (5e-5, 3e-3)

#: Everything above on which tissue depends.
CONSTANTS = (
    *(LOG_STICK_FRACTION, COMPENSATED_LOG_STICK_FRACTION, LOGIT_CROSSING, LEAST_WHITE),
    *(N_STEPS, LARGEST_STEP, DIFFERENCE, TOLERANCE, *DIFFUSIVITIES),
)

#: Voxels of a row where they are laid out as an image.
_ROW = 256

_Voxels = NDArray[np.float32]

#: Effect of all voxels, or of each, (V,).
Effect: TypeAlias = float | NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class CohortTissue:
    """Brain and tissue of a participant.

    Attributes
    ----------
    geometry
        With the shares of the fibres.
    tissue
        Outside of fibres.
    fibres
        White matter of each voxel.
    affected
        Share of white matter that the effect has changed.
    """

    geometry: Geometry
    tissue: Tissue
    fibres: Fibres
    affected: float = 1.0


class _Part(NamedTuple):
    """Voxels (V,) whose effect is compensated: fibres, and the rest of their signal (V, N)."""

    axes: _Voxels
    shares: _Voxels
    white: _Voxels
    rest: _Voxels
    b0: _Voxels


def with_fa_effect(
    geometry: Geometry, tissue: Tissue, gtab: GradientTable, effect: Effect
) -> CohortTissue:
    """Let an effect change FA and MD: a larger stick fraction."""
    changed = tissue.stick_fraction * np.exp(LOG_STICK_FRACTION * np.asarray(effect))
    fibres = Fibres.of(tissue)._replace(stick_fraction=changed.astype(np.float32))
    return CohortTissue(geometry, tissue, fibres)


def with_compensated_effect(
    geometry: Geometry, tissue: Tissue, gtab: GradientTable, effect: Effect
) -> CohortTissue:
    """Let an effect change crossings and stick fraction, and leave FA and MD of every voxel.

    Crossing fibres have a larger share, and sticks too; parallel and radial diffusivity make up
    for both in FA and MD, see :func:`_compensate`. Voxels where they cannot stay unaffected.
    """
    each = np.broadcast_to(np.asarray(effect, dtype=np.float64), len(geometry.shares))
    shares = more_crossing(geometry.shares, LOGIT_CROSSING * each)
    white, part = _select_white(geometry, tissue, gtab)
    usual = Fibres.of(tissue)
    fraction = tissue.stick_fraction * np.exp(COMPENSATED_LOG_STICK_FRACTION * each[white])
    target = _fa_md(part, usual, gtab)
    moved = part._replace(shares=shares[white])
    logs = np.log(np.tile([tissue.parallel, tissue.radial], (len(part.axes), 1)))

    def fit(logs: NDArray[np.float64], rows: NDArray[np.int_]) -> NDArray[np.float64]:
        parallel, radial = np.exp(logs).T.astype(np.float32)
        some = _Part(*(array[rows] for array in moved))
        own = fraction[rows].astype(np.float32)
        return _fa_md(some, Fibres(own, tissue.stick, parallel, radial), gtab)

    logs, solved = _compensate(fit, logs, target)
    where = np.flatnonzero(white)[solved]
    values = {
        name: np.full(len(white), getattr(usual, name), np.float32) for name in usual._fields
    }
    values["stick_fraction"][where] = fraction[solved]
    values["parallel"][where], values["radial"][where] = np.exp(logs[solved]).T
    kept = np.where(np.isin(np.arange(len(white)), where)[:, None], shares, geometry.shares)
    return CohortTissue(
        replace(geometry, shares=kept.astype(np.float32)),
        tissue,
        Fibres(**values),
        affected=float(geometry.fractions[where, 0].sum() / geometry.fractions[:, 0].sum()),
    )


#: Effects of a cohort's outcome, by name.
EFFECTS: dict[str, Callable[[Geometry, Tissue, GradientTable, Effect], CohortTissue]] = {
    "fa-md": with_fa_effect,
    "compensated": with_compensated_effect,
}


def more_crossing(shares: _Voxels, change: Effect) -> _Voxels:
    """Return shares (V, 3) with the logit of the second and third fibre's share changed.

    `change` is that of all voxels, or of each, (V,).

    Examples
    --------
    >>> more_crossing(np.float32([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), np.log(3.0)).tolist()
    [[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]]
    """
    total = shares.sum(axis=1, keepdims=True)
    factor = np.exp(np.asarray(change, dtype=np.float32)).reshape(-1, 1)
    odds = np.concatenate([shares[:, :1], shares[:, 1:] * factor], axis=1)
    scale = np.divide(total, odds.sum(axis=1, keepdims=True), where=total > 0, out=0 * total)
    return np.asarray(odds * scale, dtype=np.float32)


def _select_white(
    geometry: Geometry, tissue: Tissue, gtab: GradientTable
) -> tuple[NDArray[np.bool_], _Part]:
    """Return which voxels an effect may change, and these voxels."""
    white, grey, csf = (geometry.fractions * np.array(INTENSITY, dtype=np.float32)).T
    white, grey = white + tissue.fibrous * grey, (1 - tissue.fibrous) * grey
    b0 = white + grey + csf
    chosen = (white * geometry.shares.sum(axis=1) > LEAST_WHITE * b0) & (b0 > 0)
    b = gtab.bvals.astype(np.float32)
    still = (grey + white * (1 - geometry.shares.sum(axis=1)))[chosen, None]
    rest = still * np.exp(-b * np.float32(tissue.grey))
    rest = rest + csf[chosen, None] * np.exp(-b * np.float32(tissue.csf))
    part = _Part(geometry.axes[chosen], geometry.shares[chosen], white[chosen], rest, b0[chosen])
    return chosen, part


def _fa_md(part: _Part, fibres: Fibres, gtab: GradientTable) -> NDArray[np.float64]:
    """Return FA and MD (um^2/ms) of the noise-free signal of voxels, (V, 2)."""
    weighted = np.flatnonzero(~gtab.is_b0)
    table = gtab.select(weighted)
    signal = part.white[:, None] * fibre_signal(part.axes, part.shares, fibres, table)
    # Voxels as an image of rows, the last one filled up.
    n, rows = len(signal), -(-len(signal) // _ROW)
    image = np.zeros((rows * _ROW, len(weighted)), dtype=np.float32)
    image[:n] = (signal + part.rest[:, weighted]) / part.b0[:, None]
    mask = (np.arange(rows * _ROW) < n).reshape(rows, _ROW, 1)
    images = image.reshape(rows, _ROW, 1, -1)
    maps = fit_normalised(Dwi.from_arrays(images, np.eye(4), table, mask=mask))
    return np.stack([maps.fa[mask], 1e3 * maps.md[mask]], axis=1).astype(np.float64)


def _compensate(
    fit: Callable[[NDArray[np.float64], NDArray[np.int_]], NDArray[np.float64]],
    start: NDArray[np.float64],
    target: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Solve for two unknowns of each voxel by Newton's method.

    Parameters
    ----------
    fit
        Function from unknowns (M, 2) of M of the voxels, and their indices, to FA and MD (M, 2).
    start
        Shape (V, 2): logarithms of parallel and radial diffusivity.
    target
        Shape (V, 2).

    Returns
    -------
    unknowns, solved
        Shapes (V, 2), and (V,): whether the target is met with possible diffusivities.
    """
    unknowns, low, high = start.copy(), *np.log(DIFFUSIVITIES)
    solved = np.zeros(len(start), dtype=bool)
    rows = np.arange(len(start))
    for _ in range(N_STEPS):
        own = unknowns[rows]
        found = fit(own, rows)
        met = np.abs(found - target[rows]).max(axis=1) < TOLERANCE
        solved[rows[met]] = True
        rows, own, found = rows[~met], own[~met], found[~met]
        if not rows.size:
            break
        moved = [fit(own + DIFFERENCE * axis, rows) for axis in np.eye(2)]
        slopes = np.stack([(m - found) / DIFFERENCE for m in moved], axis=2)
        # Where FA does not depend on the unknowns, the step is small instead of infinite.
        damped = slopes.swapaxes(1, 2) @ slopes + 1e-8 * np.eye(2)
        pull = slopes.swapaxes(1, 2) @ (target[rows] - found)[..., None]
        step = np.linalg.solve(damped, pull)[..., 0].clip(-LARGEST_STEP, LARGEST_STEP)
        unknowns[rows] = (own + step).clip(low, high)
    possible = (unknowns > low).all(axis=1) & (unknowns < high).all(axis=1)
    return unknowns, solved & possible & (unknowns[:, 0] >= unknowns[:, 1])
