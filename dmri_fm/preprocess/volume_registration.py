"""Registration of one volume to a prediction of it, by Gauss-Newton on all points of the brain.

Volume and prediction show the same contrast, so that least squares is the right measure; a
gain per volume is estimated along. Points are visited in order by one thread, so the result
does not depend on how many volumes are registered at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm.preprocess.pose import pose_matrix
from dmri_fm.preprocess.volume_spline import Points, VolumeSpline, accumulate, sample_volume

#: Registration ends when a step moves the points by less than this on average, mm.
STEP_TOLERANCE_MM = 0.005

#: Gauss-Newton steps, at most.
MAX_STEPS = 15


class Prediction(NamedTuple):
    """Predicted signal of a volume at P points."""

    target: NDArray[np.float32]  # (P,) signal, up to a gain
    weight: NDArray[np.float32]  # (P,) inverse variances of the residual; 0 excludes a point


class FoundPose(NamedTuple):
    """Result of :func:`register_volume`."""

    pose: NDArray[np.float64]  # (15,)
    misfit: float  # weighted mean squared residual; infinite if the volume shows nothing


class _Equations(NamedTuple):
    """Normal equations (13, 13) and (13,) at a pose, misfit, and scale of the residual."""

    normal: NDArray[np.float64]
    right: NDArray[np.float64]
    misfit: float
    robust: float


def register_volume(
    volume: VolumeSpline,
    points: Points,
    *,
    prediction: Prediction,
    start: NDArray[np.float64],
    tangent: NDArray[np.float64],
    prior: NDArray[np.float64],
) -> FoundPose:
    """Find the pose in which a volume matches its prediction best.

    Parameters
    ----------
    volume, points, prediction
        The volume, P points of the reference, and the predicted signal there.
    start
        Shape (15,): the pose to start from.
    tangent
        Shape (15, K): directions in which the pose may move.
    prior
        Shape (15,): inverse variances of the pose numbers about zero.
    """
    pose = start.copy()
    spread = np.sqrt(((points.xyz - points.centre_mm) ** 2).mean(axis=0))
    best = _equations(volume, points, prediction, pose, float("inf"))
    if not np.isfinite(best.misfit):
        return FoundPose(pose, float("inf"))
    damping = 1e-6
    for _ in range(MAX_STEPS):
        basis = _matrix_tangent(pose, points.centre_mm) @ tangent
        # The gain is the 13th unknown; solving for it along takes it out of the pose.
        full = np.zeros((13, basis.shape[1] + 1))
        full[:12, :-1], full[12, -1] = basis, 1.0
        system = full.T @ best.normal @ full
        system[:-1, :-1] += tangent.T @ (prior[:, None] * tangent)
        gradient = full.T @ best.right
        gradient[:-1] -= tangent.T @ (prior * pose)
        diagonal = np.diag(system).copy()
        step = np.linalg.solve(
            system + np.diag(damping * diagonal + 1e-12 * diagonal.max()), gradient
        )
        trial = pose + tangent @ step[:-1]
        there = _equations(volume, points, prediction, trial, best.robust)
        if there.misfit > best.misfit * (1 + 1e-6):
            damping = max(damping, 1e-4) * 10
            if damping > 1e2:
                break
            continue
        change = pose_matrix(trial, centre_mm=points.centre_mm)
        change -= pose_matrix(pose, centre_mm=points.centre_mm)
        shift = change[:3, :3] @ points.centre_mm + change[:3, 3]
        moved = np.sqrt((shift**2).sum() + ((change[:3, :3] * spread) ** 2).sum())
        pose, best = trial, there
        damping = max(damping / 10, 1e-6)
        if moved < STEP_TOLERANCE_MM:
            break
    return FoundPose(pose, best.misfit)


def _equations(
    volume: VolumeSpline,
    points: Points,
    prediction: Prediction,
    pose: NDArray[np.float64],
    robust: float,
) -> _Equations:
    matrix = pose_matrix(pose, centre_mm=points.centre_mm)
    gain = _gain(volume, points, matrix, prediction)
    normal, right, sums = accumulate(
        volume, points, np.ascontiguousarray(matrix[:3]), *prediction, gain, robust
    )
    if sums[1] <= 0:
        return _Equations(normal, right, float("inf"), robust)
    return _Equations(normal, right, float(sums[0] / sums[1]), float(np.sqrt(sums[2] / sums[1])))


def _gain(
    volume: VolumeSpline,
    points: Points,
    matrix: NDArray[np.float64],
    prediction: Prediction,
) -> float:
    target, weight = prediction
    values, slices = sample_volume(volume, points, matrix)
    w = np.where(np.isfinite(slices), weight, 0)
    below = float((w * target * target).sum(dtype=np.float64))
    return float((w * target * values).sum(dtype=np.float64)) / below if below > 0 else 1.0


def _matrix_tangent(pose: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return d(p)/d(pose) as 3 x 4 matrices on (x - centre, 1), flattened: (12, 15)."""
    out = np.zeros((12, 15))
    step = 1e-5
    for k in range(15):
        up, down = pose.copy(), pose.copy()
        up[k] += step
        down[k] -= step
        change = pose_matrix(up, centre_mm=centre) - pose_matrix(down, centre_mm=centre)
        change /= 2 * step
        change[:3, 3] += change[:3, :3] @ centre
        out[:, k] = change[:3].ravel()
    return out
