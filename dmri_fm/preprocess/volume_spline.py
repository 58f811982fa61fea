"""Cubic B-splines of a volume at points of the brain: values, slopes, and normal equations.

All compiled loops are in this file: numba's cache does not see changes of another one.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, spline_filter

#: Residuals beyond this many standard deviations count less and less (Tukey's biweight).
TUKEY = 6.0


class VolumeSpline(NamedTuple):
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
        cls, volume: NDArray[np.float32], affine: NDArray[np.float64], *, fwhm_mm: float
    ) -> VolumeSpline:
        """Smooth a volume and compute its coefficients."""
        image = np.asarray(volume, dtype=np.float32)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        image = gaussian_filter(image, fwhm_mm / 2.3548 / spacing, mode="nearest", truncate=3)
        if min(image.shape) > 1:
            image = spline_filter(image, order=3, output=np.float32, mode="mirror")
        to_voxel = np.asarray(np.linalg.inv(affine)[:3], np.float64)
        return cls(np.ascontiguousarray(image), to_voxel)


class Points(NamedTuple):
    """Points of the reference where volumes are compared.

    Attributes
    ----------
    xyz
        Shape (P, 3), RAS+ mm.
    shift
        Shape (P, 3), RAS+ mm: displacement by the distortion field in the volume.
    stretch
        Shape (P,): its Jacobian.
    centre_mm
        Shape (3,): centre of the poses.
    """

    xyz: NDArray[np.float64]
    shift: NDArray[np.float32]
    stretch: NDArray[np.float32]
    centre_mm: NDArray[np.float64]

    @classmethod
    def undistorted(cls, xyz: NDArray[np.float64], centre_mm: NDArray[np.float64]) -> Points:
        """Return points that no field displaces."""
        return cls(xyz, np.zeros(xyz.shape, np.float32), np.ones(len(xyz), np.float32), centre_mm)


class Sampled(NamedTuple):
    """A volume at P points of the reference."""

    values: NDArray[np.float32]  # (P,), multiplied by the Jacobian; 0 outside the volume
    slices: NDArray[np.float32]  # (P,) position along the third voxel axis; NaN outside


def sample_volume(volume: VolumeSpline, points: Points, matrix: NDArray[np.float64]) -> Sampled:
    """Resample a volume at P points; the matrix (4, 4), RAS+ mm, takes reference to volume."""
    return Sampled(*_sample(volume, points, np.ascontiguousarray(matrix[:3])))


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
def _interpolate(coef, vx, vy, vz, weights, out):  # type: ignore[no-untyped-def]
    """Fill value and voxel gradient of the spline at one position; False outside the volume."""
    nx, ny, nz = coef.shape
    if not (-0.5 <= vx <= nx - 0.5 and -0.5 <= vy <= ny - 0.5 and -0.5 <= vz <= nz - 0.5):
        return False
    wx, wy, wz = weights[0], weights[1], weights[2]
    dx, dy, dz = weights[3], weights[4], weights[5]
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


@numba.njit(nogil=True, cache=True, inline="always")
def _row(m, i, x, y, z):  # type: ignore[no-untyped-def]
    return m[i, 0] * x + m[i, 1] * y + m[i, 2] * z + m[i, 3]


@numba.njit(nogil=True, cache=True, inline="always")
def _voxel_of(point, shift, matrix, to_voxel):  # type: ignore[no-untyped-def]
    """Return where in the volume, voxels, a point of the reference lies."""
    x, y, z = point[0], point[1], point[2]
    px = _row(matrix, 0, x, y, z) + shift[0]
    py = _row(matrix, 1, x, y, z) + shift[1]
    pz = _row(matrix, 2, x, y, z) + shift[2]
    return (
        _row(to_voxel, 0, px, py, pz),
        _row(to_voxel, 1, px, py, pz),
        _row(to_voxel, 2, px, py, pz),
    )


@numba.njit(nogil=True, cache=True)
def _sample(volume, points, matrix):  # type: ignore[no-untyped-def]
    coef, to_voxel = volume.coefficients, volume.ras_to_voxel
    xyz, shift, stretch = points.xyz, points.shift, points.stretch
    values = np.zeros(len(xyz), np.float32)
    slices = np.full(len(xyz), np.nan, np.float32)
    w = np.empty((6, 4))
    out = np.empty(4)
    for n in range(xyz.shape[0]):
        vx, vy, vz = _voxel_of(xyz[n], shift[n], matrix, to_voxel)
        if _interpolate(coef, vx, vy, vz, w, out):
            values[n] = out[0] * stretch[n]
            slices[n] = vz
    return values, slices


@numba.njit(nogil=True, cache=True)
def accumulate(volume, points, matrix, target, weight, gain, robust):  # type: ignore[no-untyped-def]
    """Sum the normal equations of a volume's pose and gain over all points.

    Parameters
    ----------
    volume, points
        :class:`VolumeSpline`; :class:`Points`, P of them.
    matrix
        Shape (3, 4), RAS+ mm, reference to volume.
    target, weight
        Shape (P,): the prediction; inverse variances of the residual, 0 to leave a point out.
    gain
        Factor of the prediction.
    robust
        Standard deviation of the residual in units of the weights; infinite to trust all points.

    Returns
    -------
    normal, right
        Shapes (13, 13) and (13,): of the matrix by rows, on (x - centre, 1), and the gain.
    sums
        Shape (3,): weighted squared residuals, weights, and the same residuals without
        downweighting.
    """
    coef, to_voxel = volume.coefficients, volume.ras_to_voxel
    xyz, shift, stretch, centre = points.xyz, points.shift, points.stretch, points.centre_mm
    normal, right, sums = np.zeros((13, 13)), np.zeros(13), np.zeros(3)
    w = np.empty((6, 4))
    out = np.empty(4)
    row = np.empty(13)
    x = np.empty(4)
    x[3] = 1.0
    for n in range(xyz.shape[0]):
        if weight[n] <= 0:
            continue
        vx, vy, vz = _voxel_of(xyz[n], shift[n], matrix, to_voxel)
        if not _interpolate(coef, vx, vy, vz, w, out):
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
        for i in range(3):
            x[i] = xyz[n, i] - centre[i]
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
    return normal, right, sums
