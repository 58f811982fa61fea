"""Translation by eddy currents, told apart from head motion by a regression over volumes.

Eddy currents that are uniform over the head move a volume along phase encoding, as a head that
moves does: in one volume the two look the same. Over volumes they differ: the field of the eddy
currents is a smooth function of the gradient that was played, while the head walks. So the
translation along phase encoding, from volume to volume, is regressed on the gradients (the model
over volumes of Andersson & Sotiropoulos 2016, doi:10.1016/j.neuroimage.2015.10.019, there of the
translation itself). The coefficients are in Hz, in the frame of the scanner, so that runs of
opposite phase encoding share them: the displacement changes its sign with the polarity, head
motion does not.

What is equal in all volumes of a shell is no function of the direction. It may be eddy currents,
or the position of the shell on the b=0 reference, which is found for each shell apart: it does
not count as motion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigvalsh

from dmri_fm.distortion import PhaseEncoding
from dmri_fm.gradients import GradientTable

#: Fewest distinct directions for linear terms, and for quadratic ones beside them.
FEWEST_LINEAR, FEWEST_QUADRATIC = 15, 30

#: Least ratio of the variance of steps from volume to volume, halved, to that of the terms: near
#: 1 where directions come in random order, near 0 where they follow the time, as motion does.
#: Siemens' table of 20 directions has .18; sorted ones have less than .05.
LEAST_STEP_RATIO = 0.1

#: Changes between a shell and others from which the offset of the shell can be told from a
#: movement that happened there.
FEWEST_CHANGES = 4

#: Deviations beyond which a step counts less (Huber's), and iterations of the weights.
_HUBER, _ITERATIONS = 1.345, 30

#: Columns of :class:`EddyTranslation` in tables: mm along RAS+, and Hz.
EDDY_NAMES = ("eddy_trans_x", "eddy_trans_y", "eddy_trans_z", "eddy_hz")

LINEAR_TERMS = ("x", "y", "z")
QUADRATIC_TERMS = ("xx-zz", "yy-zz", "xy", "xz", "yz")


@dataclass(frozen=True, eq=False)
class EddyTranslation:
    """Part of the volumes' translations that is due to eddy currents.

    Attributes
    ----------
    hz
        Shape (N,): off-resonance at the centre of the brain; NaN where it was not told apart.
    shift_mm
        Shape (N, 3), RAS+ mm: the displacement that it causes, with that of the linear terms at
        the place to which the head moved; NaN likewise.
    method
        What was done, for the sidecar, or the reason why nothing was.
    coefficients_hz
        Coefficient by term, Hz at the largest b-value. Terms are of the unit gradient, RAS+ axes
        of the scanner; linear ones go with the root of b, quadratic ones with b.
    """

    hz: NDArray[np.float64]
    shift_mm: NDArray[np.float64]
    method: str
    coefficients_hz: dict[str, float] = field(default_factory=dict)

    @classmethod
    def unknown(cls, n_volumes: int, reason: str) -> EddyTranslation:
        """Return the record of translations that were not told apart."""
        return cls(
            hz=np.full(n_volumes, np.nan),
            shift_mm=np.full((n_volumes, 3), np.nan),
            method=f"not told from head motion: {reason}",
        )

    @property
    def is_known(self) -> bool:
        """Whether any was told apart."""
        return bool(np.isfinite(self.hz).any())

    def taken_from(self, poses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return poses, (N, 6 or more), without what is known of it: those of the head."""
        head = poses.copy()
        head[:, :3] -= np.nan_to_num(self.shift_mm)
        return head

    def as_columns(self) -> NDArray[np.float64]:
        """Return the values of :data:`EDDY_NAMES`, shape (N, 4)."""
        return np.column_stack([self.shift_mm, self.hz])

    def as_metadata(self) -> dict[str, Any]:
        """Return the entries of the sidecar."""
        entries: dict[str, Any] = {"EddyTranslation": self.method}
        if self.coefficients_hz:
            entries["EddyFieldHz"] = {k: round(v, 3) for k, v in self.coefficients_hz.items()}
        return entries


@dataclass(frozen=True)
class EddyTerms:
    """Terms of the regression that a series determines.

    Attributes
    ----------
    names
        Of :data:`LINEAR_TERMS` and :data:`QUADRATIC_TERMS`; none: it determines none.
    reason
        Why quadratic terms, or all, are left out; None if none is.
    """

    names: tuple[str, ...]
    reason: str | None


def choose_terms(
    gtab: GradientTable, encodings: Sequence[PhaseEncoding], runs: ArrayLike
) -> EddyTerms:
    """Choose the terms of the regression by the gradient table.

    Parameters
    ----------
    gtab
        Gradients as played, RAS+.
    encodings
        Phase encoding of every volume.
    runs
        Shape (N,), equal for volumes of one run.
    """
    if any(e.direction is None for e in encodings):
        return EddyTerms((), "the phase encoding is not known")
    n = gtab.count_directions()
    if n < FEWEST_LINEAR:
        return EddyTerms((), f"{n} distinct directions, {FEWEST_LINEAR} are needed")
    groups = _groups(gtab, encodings, runs)
    ratio = _step_ratio(_terms(gtab)[:, :3], groups, runs)
    if ratio < LEAST_STEP_RATIO:
        words = "the order of the directions follows the time as motion does (ratio of steps"
        return EddyTerms((), f"{words} {ratio:.2f}, {LEAST_STEP_RATIO} is needed)")
    if n < FEWEST_QUADRATIC:
        words = f"{n} distinct directions, {FEWEST_QUADRATIC} are needed"
        return EddyTerms(LINEAR_TERMS, f"quadratic terms left out: {words}")
    ratio = _step_ratio(_terms(gtab), groups, runs)
    if ratio < LEAST_STEP_RATIO:
        words = f"ratio of steps {ratio:.2f}, {LEAST_STEP_RATIO} is needed"
        return EddyTerms(LINEAR_TERMS, f"quadratic terms left out: {words}")
    return EddyTerms((*LINEAR_TERMS, *QUADRATIC_TERMS), None)


def separate_eddy(
    poses: NDArray[np.float64],
    gtab: GradientTable,
    *,
    encodings: Sequence[PhaseEncoding],
    affine: NDArray[np.float64],
    runs: ArrayLike,
) -> EddyTranslation:
    """Tell translation by eddy currents from that of the head.

    Parameters
    ----------
    poses
        Shape (N, 15), see :mod:`dmri_fm.preprocess.pose`.
    gtab
        Gradients as played, RAS+: signed, not turned with the head.
    encodings
        Phase encoding of every volume.
    affine
        Shape (4, 4), voxel to RAS+ mm, of the series.
    runs
        Shape (N,), equal for volumes of one run.
    """
    terms = choose_terms(gtab, encodings, runs)
    if not terms.names:
        return EddyTranslation.unknown(len(gtab), str(terms.reason))
    mm_per_hz = np.array([encoding.mm_per_hz(affine) for encoding in encodings])
    size = np.linalg.norm(mm_per_hz, axis=1, keepdims=True)
    along = mm_per_hz / size
    # The head moved in the linear field as well: t = h + along * (shift + slope . h).
    slopes = np.einsum("na,nab->nb", along, poses[:, 6:15].reshape(-1, 3, 3))
    of_place = (slopes * poses[:, :3]).sum(axis=1, keepdims=True)
    moved = (along * poses[:, :3]).sum(axis=1, keepdims=True) - of_place
    values = _terms(gtab)[:, : len(terms.names)]
    rows = _steps_within(runs)
    groups = _indicators(_groups(gtab, encodings, runs))
    design = np.hstack([_steps(size * values, rows), _steps(groups, rows), _drifts(runs, rows)])
    coefficients = _fit_robustly(design, _steps(moved, rows))[: len(terms.names)]
    hz = values @ coefficients
    names = "linear" if len(terms.names) == len(LINEAR_TERMS) else "linear and quadratic"
    sizes = (float(np.median(np.abs(_steps(m, rows)))) for m in (moved, moved - size * hz))
    return EddyTranslation(
        hz=hz[:, 0],
        shift_mm=along * (size * hz + of_place) + 0.0,
        method=f"regression over volumes on the gradients, {names} terms"
        + ("" if terms.reason is None else f" ({terms.reason})")
        + "; median step along phase encoding {:.2f} mm before, {:.2f} mm after".format(*sizes),
        coefficients_hz=dict(zip(terms.names, map(float, coefficients[:, 0]), strict=True)),
    )


@dataclass(frozen=True, eq=False)
class ShellOffsets:
    """Poses of the shells against b=0, as far as they can be told from head motion.

    Attributes
    ----------
    offsets
        Shape (N, 6), mm and rad: what the volumes of a shell and phase encoding have in common
        against b=0 of the same run, the median of what changes when the shell does.
    unknown
        Volumes behind a change of shell that happens too seldom: whether the head moved there
        cannot be told.
    """

    offsets: NDArray[np.float64]
    unknown: tuple[int, ...]


def find_shell_offsets(
    poses: NDArray[np.float64],
    gtab: GradientTable,
    *,
    encodings: Sequence[PhaseEncoding],
    runs: ArrayLike,
) -> ShellOffsets:
    """Find what the volumes of a shell have in common, in steps where the shell changes.

    Parameters
    ----------
    poses
        Shape (N, 6 or more): translations of the head, mm, and rotations, rad, RAS+.
    gtab, encodings, runs
        As for :func:`separate_eddy`.
    """
    rows = _steps_within(runs)
    labels = _groups(gtab, encodings, runs)
    groups = _indicators(labels)
    changes = _steps(groups, rows)
    is_rare = (changes != 0).sum(axis=0) < FEWEST_CHANGES
    touches_rare = (changes[:, is_rare] != 0).any(axis=1)
    known = groups[:, ~is_rare]
    offsets = np.zeros((len(labels), 6))
    if known.shape[1]:
        kept = rows[~touches_rare]
        offsets = known @ _fit_robustly(_steps(known, kept), _steps(poses[:, :6], kept))
    return ShellOffsets(
        offsets=offsets,
        unknown=tuple(int(n) for n in rows[touches_rare]),
    )


def _terms(gtab: GradientTable) -> NDArray[np.float64]:
    """Return linear and quadratic terms of the gradients, (N, 8); 0 for b=0."""
    strength = np.sqrt(gtab.bvals / max(float(gtab.bvals.max()), 1.0))[:, None]
    q = np.where(gtab.is_b0[:, None], 0.0, strength * gtab.bvecs_ras)
    x, y, z = q.T
    # Their trace is the same in all volumes of a shell, and so no function of the direction.
    return np.column_stack([x, y, z, x * x - z * z, y * y - z * z, x * y, x * z, y * z])


def _groups(
    gtab: GradientTable, encodings: Sequence[PhaseEncoding], runs: ArrayLike
) -> NDArray[np.int_]:
    """Number shells by phase encoding, from 1; 0 for b=0, and for a shell in a run without b=0."""
    shell = np.zeros(len(gtab), dtype=int)
    for number, members in enumerate(gtab.shells, start=1):
        shell[list(members.index)] = number
    of_run = np.asarray(runs)
    for run in np.unique(of_run):
        inside = of_run == run
        if (shell[inside] > 0).all():
            shell[inside & (shell == shell[inside].min())] = 0
    numbers = {e: k for k, e in enumerate(dict.fromkeys(encodings))}
    encoding = np.array([numbers[e] for e in encodings])
    return np.where(shell > 0, shell + encoding * (len(gtab.shells) + 1), 0)


def _indicators(labels: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return one column per group but 0."""
    return np.asarray(labels[:, None] == np.unique(labels[labels > 0]), dtype=np.float64)


def _steps_within(runs: ArrayLike) -> NDArray[np.int_]:
    """Return the volumes that have a predecessor in their run."""
    of_run = np.asarray(runs)
    return np.flatnonzero(of_run[1:] == of_run[:-1]) + 1


def _steps(values: NDArray[np.float64], rows: NDArray[np.int_]) -> NDArray[np.float64]:
    return np.asarray(values[rows] - values[rows - 1])


def _drifts(runs: ArrayLike, rows: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return one column per run: a step that is the same throughout it."""
    of_run = np.asarray(runs)[rows]
    return np.asarray(of_run[:, None] == np.unique(of_run), dtype=np.float64)


def _step_ratio(values: NDArray[np.float64], groups: NDArray[np.int_], runs: ArrayLike) -> float:
    """Return the least ratio of the variance of steps, halved, to that of levels (von Neumann's).

    The least one over all sums of terms; 0 where the terms do not vary.
    """
    of_run = np.asarray(runs)
    centred = np.zeros_like(values)
    weighted = np.zeros(len(values), dtype=bool)
    for run in np.unique(of_run):
        for group in np.unique(groups[of_run == run]):
            members = np.flatnonzero((of_run == run) & (groups == group))
            centred[members] = values[members] - values[members].mean(axis=0)
            weighted[members] = bool(np.ptp(values[members], axis=0).any())
    rows = _steps_within(runs)
    rows = rows[weighted[rows] & weighted[rows - 1]]
    if not rows.size:
        return 0.0
    level = centred[weighted].T @ centred[weighted] / weighted.sum()
    step = _steps(centred, rows)
    if np.linalg.matrix_rank(level, tol=1e-3 * np.trace(level)) < len(level):
        return 0.0
    return float(eigvalsh(step.T @ step / (2 * len(rows)), level)[0])


def _fit_robustly(design: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Regress columns on a design, rows that fit badly counting less (Huber's weights).

    Parameters
    ----------
    design
        Shape (R, K), of any rank: the shortest of equal solutions is returned.
    values
        Shape (R, C).

    Returns
    -------
    ndarray
        Shape (K, C).
    """
    fitted = np.zeros((design.shape[1], values.shape[1]))
    for column, wanted in enumerate(values.T):
        weight = np.ones(len(wanted))
        for _ in range(_ITERATIONS):
            root = np.sqrt(weight)
            found = np.linalg.lstsq(design * root[:, None], wanted * root, rcond=None)[0]
            residual = np.abs(wanted - design @ found)
            limit = _HUBER * max(1.4826 * float(np.median(residual)), 1e-9)
            weight = np.minimum(1.0, limit / np.maximum(residual, 1e-12))
        fitted[:, column] = found
    return fitted
