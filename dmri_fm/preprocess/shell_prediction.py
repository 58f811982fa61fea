"""Prediction of a volume from the others of its shell, with that volume left out.

Two predictors. A stiff tensor is what volumes are registered to: while they lie apart, a
prediction that fits them closely follows their displacement, and more of it is left. A Gaussian
process (Andersson & Sotiropoulos 2015, doi:10.1016/j.neuroimage.2015.07.067) says what a slice of
a volume should look like once they lie on one another; it has no model of the signal, and so fits
high b-values as well.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.gaussian_process import GaussianProcess, fit_gaussian_process
from dmri_fm.gradients import GradientTable
from dmri_fm.tensor_design import DIAGONAL_FIRST, quadratic_terms

#: Fewest distinct directions of a shell that predict one another by a Gaussian process.
FEWEST_FOR_PROCESS = 12

#: Share of the 99th percentile of b=0 below which points are dark: there the mean of the other
#: volumes stands for the process, whose signals are ratios to b=0.
LEAST_B0 = 0.05

#: Fewest volumes of b=0 and a shell that predict one another by a tensor.
FEWEST_FOR_TENSOR = 9

#: Leverage of a volume on its own prediction from which on the others do not determine it.
LARGEST_LEVERAGE = 0.95

#: Ridge on the tensor's departure from a sphere, against (ms/um^2)^2 of the design: with a dozen
#: directions the plain fit leaves noise in the predictions, which volumes would follow.
RIDGE = 5.0

#: The penalty on (log S0, D11, D22, D33, D12, D13, D23): deviation of the diagonal from its mean;
#: off-diagonal elements count twice, as they stand twice in a tensor.
_RIDGE = np.zeros((7, 7))
_RIDGE[1:4, 1:4] = np.eye(3) - 1 / 3
_RIDGE[4:, 4:] = 2 * np.eye(3)


def predict_left_out(
    signal: ArrayLike, gtab: GradientTable, members: ArrayLike, *, by_process: bool = False
) -> NDArray[np.float32]:
    """Predict volumes of one shell from the others.

    Parameters
    ----------
    signal
        Shape (N, P): all volumes at P points, on one scale.
    gtab
        Gradient table of the volumes, in the frame of the points.
    members
        Positions of the M volumes of the shell.
    by_process
        Predict by a Gaussian process where it can be fitted. It fits volumes that lie on one
        another better than the tensor does; before they do, it follows their displacement.

    Returns
    -------
    ndarray
        Shape (M, P): for each volume what a Gaussian process says by the rest of the shell; with
        fewer than :data:`FEWEST_FOR_PROCESS` directions the tensor fitted to b=0 and the shell
        without it, and the mean of the others where they are too few for a tensor.
    """
    values = np.asarray(signal, dtype=np.float32)
    index = np.asarray(members)
    if by_process and has_process(gtab, index):
        ratios, b0, is_bright = _ratios(values, gtab, index)
        process = _fit(ratios[:, is_bright], gtab.select(index))
        # Of the others alone, in closed form (Rasmussen & Williams 2006, equation 5.12).
        inverse = np.linalg.inv(process.noisy(gtab.select(index)))
        found = ratios - (inverse @ ratios) / np.diag(inverse)[:, None]
        mean = (values[index].sum(axis=0) - values[index]) / (len(index) - 1)
        return np.asarray(np.where(is_bright, found * b0, mean), dtype=np.float32)
    used = np.concatenate([np.flatnonzero(gtab.is_b0), index])
    part = gtab.select(used)
    design = _design(part)
    if _determines_tensor(design):
        floor = 1e-3 * np.percentile(values, 99)
        log_signal = np.log(np.maximum(values[used], np.float32(max(float(floor), 1e-6))))
        hat = design @ np.linalg.solve(design.T @ design + _RIDGE * RIDGE, design.T)
        own = np.clip(np.diag(hat), 0.0, LARGEST_LEVERAGE)[:, None]
        residual = log_signal - hat.astype(np.float32) @ log_signal
        predicted = np.exp(log_signal - residual / (1 - own))
        return np.asarray(predicted[len(used) - len(index) :], np.float32)
    if len(index) == 1:
        return np.asarray(values[index])
    total = values[index].sum(axis=0)
    return np.asarray((total - values[index]) / (len(index) - 1), dtype=np.float32)


def predict_volume(
    signal: ArrayLike, gtab: GradientTable, members: ArrayLike, target: int
) -> NDArray[np.float32]:
    """Predict one volume of a shell whose own signal is not to be trusted at all.

    Parameters
    ----------
    signal
        Shape (N, P): all volumes at P points, on one scale.
    gtab
        Gradient table of the volumes, in the frame of the points.
    members
        Positions of the other volumes of its shell, for which :func:`has_process` is true.
    target
        Position of the volume.

    Returns
    -------
    ndarray
        Shape (P,).
    """
    values, index = np.asarray(signal, dtype=np.float32), np.asarray(members)
    ratios, b0, is_bright = _ratios(values, gtab, index)
    others = gtab.select(index)
    process = _fit(ratios[:, is_bright], others)
    found = process.weights(others, gtab.select([target]))[:, 0] @ ratios
    mean = values[index].mean(axis=0)
    return np.asarray(np.where(is_bright, found * b0, mean), dtype=np.float32)


def has_process(gtab: GradientTable, members: ArrayLike) -> bool:
    """Return whether volumes of a shell, with b=0, are enough for a Gaussian process."""
    n = len(gtab.group_axes(np.asarray(members).tolist()))
    return bool(gtab.is_b0.any() and n >= FEWEST_FOR_PROCESS)


def _ratios(
    values: NDArray[np.float32], gtab: GradientTable, index: NDArray[np.int_]
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_]]:
    """Return signals over mean b=0 (M, P), 0 where that is dark, b=0 (P,), and where not."""
    b0 = values[gtab.is_b0].mean(axis=0)
    is_bright = b0 > LEAST_B0 * np.percentile(b0, 99)
    ratios = np.zeros((len(index), len(b0)))
    ratios[:, is_bright] = values[index][:, is_bright] / b0[is_bright]
    return ratios, b0, is_bright


def _fit(ratios: NDArray[np.float64], gtab: GradientTable) -> GaussianProcess:
    return fit_gaussian_process(ratios @ ratios.T / max(ratios.shape[1], 1), gtab)


def determines_left_out(gtab: GradientTable, members: ArrayLike) -> bool:
    """Return whether b=0 and a shell determine the tensor without any one volume of the shell.

    If not, :func:`predict_left_out` is the mean of the other directions, or close to it: what
    anisotropy takes from a volume looks like lost signal.

    Parameters
    ----------
    gtab
        Gradient table of the series.
    members
        Positions of the volumes of the shell.
    """
    b0, index = np.flatnonzero(gtab.is_b0), np.asarray(members)
    design = _design(gtab.select(np.concatenate([b0, index])))
    if not _determines_tensor(design):
        return False
    leverage = np.diag(design @ np.linalg.pinv(design))[len(b0) :]
    return bool((leverage < LARGEST_LEVERAGE).all())


def _determines_tensor(design: NDArray[np.float64]) -> bool:
    """Return whether volumes are enough for a tensor with S0."""
    return len(design) >= FEWEST_FOR_TENSOR and np.linalg.matrix_rank(design, tol=1e-2) == 7


def _design(gtab: GradientTable) -> NDArray[np.float64]:
    """Return the design of (log S0, D11, D22, D33, D12, D13, D23), b in ms/um^2: (N, 7)."""
    b = gtab.bvals / 1000.0
    # The order of the columns is part of the rounding, and so of published results.
    columns = np.take(quadratic_terms(gtab.bvecs_ras), DIAGONAL_FIRST, axis=-1)
    return np.column_stack([np.ones_like(b), *(-b * c for c in columns.T)])
