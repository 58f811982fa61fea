"""Registration of one volume to a prediction of it, by Gauss-Newton on all points of the brain.

Volume and prediction show the same contrast, so that least squares is the right measure; a
gain per volume is estimated along. Points are visited in order by one thread, so the result
does not depend on how many volumes are registered at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, spline_filter

from dmri_fm.preprocess.pose import pose_matrix

__all__ = ["Points", "VolumeSpline", "register_volume", "sample_volume"]

#: Registration ends when a step moves the points by less than this on average, mm.
STEP_TOLERANCE_MM = 0.005

#: Residuals beyond this many standard deviations count less and less (Tukey's biweight).
TUKEY = 6.0


@dataclass(frozen=True, eq=False)
class VolumeSpline:
    """A volume ready for interpolation.

    Attributes
    ----------
    coefficients
        Shape (X, Y, Z), float32: cubic B-spline coefficients.
    ras_to_voxel
        Shape (3, 4).
    """

    coefficients: NDArray[np.float32]
    ras_to_voxel: NDArray[np.float64]

    @classmethod
    def build(
        cls, volume: NDArray[np.float32], affine: NDArray[np.float64], *, fwhm_mm: float, step: int
    ) -> VolumeSpline:
        """Smooth a volume, average blocks of step^3 voxels, and compute its coefficients."""
        image = np.asarray(volume, dtype=np.float32)
        scaled = np.array(affine, dtype=np.float64)
        if step > 1:
            image = _block_mean(image, step)
            scaled[:3, 3] += scaled[:3, :3] @ np.full(3, (step - 1) / 2)
            scaled[:3, :3] *= step
        spacing = np.linalg.norm(scaled[:3, :3], axis=0)
        if fwhm_mm > 0:
            image = gaussian_filter(image, fwhm_mm / 2.3548 / spacing, mode="nearest", truncate=3)
        if min(image.shape) > 1:
            image = spline_filter(image, order=3, output=np.float32, mode="mirror")
        return cls(np.ascontiguousarray(image), np.asarray(np.linalg.inv(scaled)[:3], np.float64))


@dataclass(frozen=True, eq=False)
class Points:
    """Points of the reference where volumes are compared.

    Attributes
    ----------
    xyz
        Shape (P, 3), RAS+ mm.
    shift
        Shape (P, 3), RAS+ mm: susceptibility displacement in the volume.
    stretch
        Shape (P,): its Jacobian.
    centre_mm
        Shape (3,): centre of the poses.
    """

    xyz: NDArray[np.float64]
    shift: NDArray[np.float32]
    stretch: NDArray[np.float32]
    centre_mm: NDArray[np.float64]


def sample_volume(
    volume: VolumeSpline, points: Points, matrix: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Resample a volume at the points.

    Parameters
    ----------
    volume
        The volume.
    points
        P points of the reference.
    matrix
        Shape (4, 4), RAS+ mm, reference to volume.

    Returns
    -------
    values : ndarray
        Shape (P,), multiplied by the Jacobian; 0 outside the volume.
    slices : ndarray
        Shape (P,), position along the volume's third voxel axis; NaN outside.
    """
    values = np.zeros(len(points.xyz), dtype=np.float32)
    slices = np.full(len(points.xyz), np.nan, dtype=np.float32)
    _sample(
        volume.coefficients,
        volume.ras_to_voxel,
        np.ascontiguousarray(matrix[:3]),
        points.xyz,
        points.shift,
        points.stretch,
        values,
        slices,
    )
    return values, slices


def register_volume(
    volume: VolumeSpline,
    points: Points,
    *,
    target: NDArray[np.float32],
    weight: NDArray[np.float32],
    start: NDArray[np.float64],
    tangent: NDArray[np.float64],
    prior: NDArray[np.float64],
    max_steps: int = 15,
) -> tuple[NDArray[np.float64], float]:
    """Find the pose in which a volume matches its prediction best.

    Parameters
    ----------
    volume
        The volume.
    points
        P points of the reference.
    target
        Shape (P,): the prediction.
    weight
        Shape (P,): inverse variances of the residual, 0 to leave a point out.
    start
        Shape (15,): the pose to start from.
    tangent
        Shape (15, K): directions in which the pose may move.
    prior
        Shape (15,): inverse variances of the pose numbers about zero.
    max_steps
        Gauss-Newton steps, at most.

    Returns
    -------
    pose : ndarray
        Shape (15,).
    misfit : float
        Weighted mean squared residual at the end; infinite if the volume shows nothing.
    """
    pose = start.copy()
    spread = np.sqrt(((points.xyz - points.centre_mm) ** 2).mean(axis=0))
    robust = np.float64(np.inf)
    normal, right, best, robust = _equations(volume, points, target, weight, pose, robust)
    if not np.isfinite(best):
        return pose, float("inf")
    damping = 1e-6
    for _ in range(max_steps):
        basis = _matrix_tangent(pose, points.centre_mm) @ tangent
        # The gain is the 13th unknown; solving for it along takes it out of the pose.
        full = np.zeros((13, basis.shape[1] + 1))
        full[:12, :-1], full[12, -1] = basis, 1.0
        system = full.T @ normal @ full
        system[:-1, :-1] += tangent.T @ (prior[:, None] * tangent)
        gradient = full.T @ right
        gradient[:-1] -= tangent.T @ (prior * pose)
        diagonal = np.diag(system).copy()
        step = np.linalg.solve(
            system + np.diag(damping * diagonal + 1e-12 * diagonal.max()), gradient
        )
        trial = pose + tangent @ step[:-1]
        trial_normal, trial_right, misfit, trial_robust = _equations(
            volume, points, target, weight, trial, robust
        )
        if misfit > best * (1 + 1e-6):
            damping = max(damping, 1e-4) * 10
            if damping > 1e2:
                break
            continue
        change = pose_matrix(trial, centre_mm=points.centre_mm)
        change -= pose_matrix(pose, centre_mm=points.centre_mm)
        shift = change[:3, :3] @ points.centre_mm + change[:3, 3]
        moved = np.sqrt((shift**2).sum() + ((change[:3, :3] * spread) ** 2).sum())
        pose, normal, right, best, robust = trial, trial_normal, trial_right, misfit, trial_robust
        damping = max(damping / 10, 1e-6)
        if moved < STEP_TOLERANCE_MM:
            break
    return pose, best


def _equations(
    volume: VolumeSpline,
    points: Points,
    target: NDArray[np.float32],
    weight: NDArray[np.float32],
    pose: NDArray[np.float64],
    robust: np.float64,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, np.float64]:
    """Return the normal matrix (13, 13), right side (13,), misfit and scale of the residual."""
    matrix = pose_matrix(pose, centre_mm=points.centre_mm)
    normal, right, sums = np.zeros((13, 13)), np.zeros(13), np.zeros(3)
    gain = _gain(volume, points, matrix, target, weight)
    _accumulate(
        volume.coefficients,
        volume.ras_to_voxel,
        np.ascontiguousarray(matrix[:3]),
        points.xyz,
        points.centre_mm,
        points.shift,
        points.stretch,
        target,
        weight,
        gain,
        robust,
        normal,
        right,
        sums,
    )
    if sums[1] <= 0:
        return normal, right, float("inf"), robust
    # sums: weighted squared residuals, weights, and the same residuals without downweighting
    return normal, right, float(sums[0] / sums[1]), np.float64(np.sqrt(sums[2] / sums[1]))


def _gain(
    volume: VolumeSpline,
    points: Points,
    matrix: NDArray[np.float64],
    target: NDArray[np.float32],
    weight: NDArray[np.float32],
) -> float:
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


def _block_mean(image: NDArray[np.float32], step: int) -> NDArray[np.float32]:
    pad = [(0, -n % step) for n in image.shape]
    padded = np.pad(image, pad, mode="edge")
    x, y, z = (n // step for n in padded.shape)
    mean = padded.reshape(x, step, y, step, z, step).mean(axis=(1, 3, 5), dtype=np.float32)
    return np.asarray(mean, dtype=np.float32)


@numba.njit(nogil=True, cache=True, fastmath=False, inline="always")
def _weights(fraction: float, w: NDArray[np.float64], d: NDArray[np.float64]) -> None:
    """Fill the four cubic B-spline weights and their derivatives."""
    f, g = fraction, 1.0 - fraction
    w[0] = g * g * g / 6.0
    w[1] = 2.0 / 3.0 - 0.5 * f * f * (2.0 - f)
    w[2] = 2.0 / 3.0 - 0.5 * g * g * (2.0 - g)
    w[3] = f * f * f / 6.0
    d[0] = -0.5 * g * g
    d[1] = f * (1.5 * f - 2.0)
    d[2] = -g * (1.5 * g - 2.0)
    d[3] = 0.5 * f * f


@numba.njit(nogil=True, cache=True, inline="always")
def _mirror(i: int, n: int) -> int:
    if i < 0:
        i = -i
    if i >= n:
        i = 2 * n - 2 - i
    return min(max(i, 0), n - 1)


@numba.njit(nogil=True, cache=True)
def _interpolate(coef, vx, vy, vz, wx, wy, wz, dx, dy, dz, out):  # type: ignore[no-untyped-def]
    """Value and voxel gradient of the spline at one position; False outside the volume."""
    nx, ny, nz = coef.shape
    if not (-0.5 <= vx <= nx - 0.5 and -0.5 <= vy <= ny - 0.5 and -0.5 <= vz <= nz - 0.5):
        return False
    ix, iy, iz = int(np.floor(vx)), int(np.floor(vy)), int(np.floor(vz))
    _weights(vx - ix, wx, dx)
    _weights(vy - iy, wy, dy)
    _weights(vz - iz, wz, dz)
    value = gx = gy = gz = 0.0
    for a in range(4):
        i = _mirror(ix - 1 + a, nx)
        va = ga_y = ga_z = 0.0
        for b in range(4):
            j = _mirror(iy - 1 + b, ny)
            vb = gb = 0.0
            for c in range(4):
                k = _mirror(iz - 1 + c, nz)
                s = coef[i, j, k]
                vb += wz[c] * s
                gb += dz[c] * s
            va += wy[b] * vb
            ga_y += dy[b] * vb
            ga_z += wy[b] * gb
        value += wx[a] * va
        gx += dx[a] * va
        gy += wx[a] * ga_y
        gz += wx[a] * ga_z
    out[0] = value
    out[1] = gx
    out[2] = gy
    out[3] = gz
    return True


@numba.njit(nogil=True, cache=True)
def _sample(coef, to_voxel, matrix, xyz, shift, stretch, values, slices):  # type: ignore[no-untyped-def]
    w = np.empty((6, 4))
    out = np.empty(4)
    for n in range(xyz.shape[0]):
        px = py = pz = 0.0
        x, y, z = xyz[n, 0], xyz[n, 1], xyz[n, 2]
        px = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3] + shift[n, 0]
        py = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3] + shift[n, 1]
        pz = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3] + shift[n, 2]
        v = to_voxel[:, 0] * px + to_voxel[:, 1] * py + to_voxel[:, 2] * pz + to_voxel[:, 3]
        if _interpolate(coef, v[0], v[1], v[2], w[0], w[1], w[2], w[3], w[4], w[5], out):
            values[n] = out[0] * stretch[n]
            slices[n] = v[2]


@numba.njit(nogil=True, cache=True)
def _accumulate(  # type: ignore[no-untyped-def]
    coef,
    to_voxel,
    matrix,
    xyz,
    centre,
    shift,
    stretch,
    target,
    weight,
    gain,
    robust,
    normal,
    right,
    sums,
):
    w = np.empty((6, 4))
    out = np.empty(4)
    row = np.empty(13)
    x = np.empty(4)
    x[3] = 1.0
    for n in range(xyz.shape[0]):
        if weight[n] <= 0:
            continue
        a, b, c = xyz[n, 0], xyz[n, 1], xyz[n, 2]
        px = matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c + matrix[0, 3] + shift[n, 0]
        py = matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c + matrix[1, 3] + shift[n, 1]
        pz = matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c + matrix[2, 3] + shift[n, 2]
        vx = to_voxel[0, 0] * px + to_voxel[0, 1] * py + to_voxel[0, 2] * pz + to_voxel[0, 3]
        vy = to_voxel[1, 0] * px + to_voxel[1, 1] * py + to_voxel[1, 2] * pz + to_voxel[1, 3]
        vz = to_voxel[2, 0] * px + to_voxel[2, 1] * py + to_voxel[2, 2] * pz + to_voxel[2, 3]
        if not _interpolate(coef, vx, vy, vz, w[0], w[1], w[2], w[3], w[4], w[5], out):
            continue
        residual = stretch[n] * out[0] - gain * target[n]
        u = weight[n]
        squared = u * residual * residual
        relative = squared / (TUKEY * TUKEY * robust * robust)
        sums[1] += u
        if relative >= 1.0:
            # bounded loss: a point far off costs the same wherever it is
            sums[0] += TUKEY * TUKEY * robust * robust / 3.0 * u
            sums[2] += min(squared, 9.0 * u * 1e30)
            continue
        sums[2] += squared
        down = (1.0 - relative) * (1.0 - relative)
        x[0] = a - centre[0]
        x[1] = b - centre[1]
        x[2] = c - centre[2]
        for i in range(3):
            slope = stretch[n] * (
                out[1] * to_voxel[0, i] + out[2] * to_voxel[1, i] + out[3] * to_voxel[2, i]
            )
            for j in range(4):
                row[4 * i + j] = slope * x[j]
        row[12] = -target[n]
        u *= down
        sums[0] += squared
        for i in range(13):
            ui = u * row[i]
            right[i] -= ui * residual
            for j in range(i + 1):
                normal[i, j] += ui * row[j]
    for i in range(13):
        for j in range(i):
            normal[j, i] = normal[i, j]
