"""A whole series, with its mask and gradients, on another grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from dmri_fm.distortion import FieldShift, PhaseEncoding, field_shifts
from dmri_fm.normalise.grid import (
    Grid,
    PointMap,
    identity_map,
    linear_part,
    read_at,
    resample_image,
    slabs,
    spline_of,
)
from dmri_fm.normalise.local_rotation import rotation_of_linear
from dmri_fm.normalise.noise import spline_noise_gain
from dmri_fm.preprocess.motion import MotionEstimate, rotate_bvecs
from dmri_fm.series import Dwi

#: Points of the brain at which the rotation of a map is measured.
N_ROTATION_POINTS = 2000


def normalise_series(
    dwi: Dwi,
    grid: Grid,
    *,
    target2dwiref: PointMap,
    motion: MotionEstimate | None = None,
    encodings: Sequence[PhaseEncoding] = (),
    field_hz: ArrayLike | None = None,
    order: int = 3,
    n_threads: int = 1,
) -> Dwi:
    """Bring a series into a target space: motion, distortion and space in one interpolation.

    Parameters
    ----------
    dwi
        The series as acquired, with the brain mask of its b=0 reference.
    grid
        Target grid.
    target2dwiref
        Takes points of the target to points of the reference, RAS+ mm.
    motion
        Transforms of the volumes; None: they lie on one another.
    encodings
        Phase encoding of every volume, where there is a field.
    field_hz
        Shape (X, Y, Z), distortion field on the reference's grid, Hz; None: there is none.
    order, n_threads
        See :func:`resample_dwi`.

    Returns
    -------
    Dwi
        b-vectors are turned with the head and into the target. The mask holds the brain as far as
        every volume has data.
    """
    data = resample_dwi(
        dwi,
        grid,
        target2dwiref=target2dwiref,
        xfms=None if motion is None else motion.xfms,
        field_hz=field_hz,
        shifts=field_shifts(encodings),
        order=order,
        n_threads=n_threads,
    )
    brain = _brain_on(dwi.brain, dwi, data, grid, target2dwiref)
    turn = mean_rotation(target2dwiref, grid, brain)
    with_head = dwi.gtab if motion is None else rotate_bvecs(dwi.gtab, motion)
    gtab = with_head.rotated(turn)
    return Dwi.from_arrays(np.nan_to_num(data, copy=False), grid.affine, gtab, mask=brain)


def _brain_on(
    mask: NDArray[np.bool_], dwi: Dwi, data: NDArray[np.float32], grid: Grid, target2dwi: PointMap
) -> NDArray[np.bool_]:
    """Return the brain on a grid, without voxels that lie outside any volume: NaN in `data`."""
    share = resample_image(mask.astype(np.float32), dwi.affine, grid, target2source=target2dwi)
    return np.asarray(np.isfinite(data).all(axis=3) & (share > 0.5))


def mean_rotation(
    target2dwiref: PointMap, grid: Grid, brain: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the rotation of directions from the reference into the target, shape (3, 3)."""
    inside = np.argwhere(brain)
    points = apply_affine(grid.affine, inside[:: max(1, len(inside) // N_ROTATION_POINTS)])
    return rotation_of_linear(linear_part(target2dwiref, points)[:3, :3])


def resample_series(dwi: Dwi, grid: Grid, *, target2dwi: PointMap = identity_map) -> Dwi:
    """Resample a series, and its brain mask if it has one, to a grid.

    Parameters
    ----------
    dwi
        A series.
    grid
        Target grid, such as :func:`dmri_fm.feature_grid`.
    target2dwi
        Takes points of the grid to points of the series, RAS+ mm; by default they are the same.

    Returns
    -------
    Dwi
        Cubic splines; zero, and no brain, where a volume has no data. The gradient table is the
        one of the series: turn it (:meth:`~dmri_fm.gradients.GradientTable.rotated`) if the map
        turns.
    """
    data = resample_dwi(dwi, grid, target2dwiref=target2dwi)
    mask = None if dwi.mask is None else _brain_on(dwi.mask, dwi, data, grid, target2dwi)
    return Dwi.from_arrays(np.nan_to_num(data, copy=False), grid.affine, dwi.gtab, mask=mask)


def resample_dwi(
    dwi: Dwi,
    target: Grid,
    *,
    target2dwiref: PointMap = identity_map,
    xfms: ArrayLike | None = None,
    field_hz: ArrayLike | None = None,
    shifts: Sequence[FieldShift] | None = None,
    order: int = 3,
    n_threads: int = 1,
) -> NDArray[np.float32]:
    """Resample a series once: target space, head motion, eddy currents and distortion together.

    The point of volume n that belongs to a reference point r is
    ``xfms[n] @ r + shift_n * field(r)`` along the phase encoding; intensities are multiplied by
    the change of length along it, so that signal that was piled up or stretched is put back.

    Parameters
    ----------
    dwi
        The series as acquired; the reference has the same grid.
    target
        Grid to fill.
    target2dwiref
        Map from the target's points to the reference's.
    xfms
        Shape (N, 4, 4), reference points to points of the volume, RAS+ mm.
    field_hz
        Shape (X, Y, Z), distortion field on the reference's grid, Hz.
    shifts
        Shift of each volume, see :func:`dmri_fm.distortion.field_shifts`.
    order
        Order of the spline, 1 or 3.
    n_threads
        Volumes worked on at once.

    Returns
    -------
    ndarray
        Shape of the grid and N, float32, not negative; NaN where a volume has no data.
    """
    sampling = _Sampling(dwi, target, target2dwiref, xfms, field_hz, shifts)
    out = np.empty((*target.shape, dwi.shape[3]), dtype=np.float32)

    def fill(n: int) -> None:
        volume = spline_of(dwi.data[..., n], order)
        for (start, stop), voxels, factor in sampling.list_slabs(n):
            values = read_at(volume, voxels, order, outside=np.nan) * factor
            block = np.maximum(values, 0.0).reshape(*target.shape[:2], stop - start)
            out[:, :, start:stop, n] = block

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(fill, range(dwi.shape[3])))
    return out


def resample_noise(
    noise: ArrayLike,
    dwi: Dwi,
    target: Grid,
    *,
    target2dwiref: PointMap = identity_map,
    xfms: ArrayLike | None = None,
    field_hz: ArrayLike | None = None,
    shifts: Sequence[FieldShift] | None = None,
    order: int = 3,
) -> NDArray[np.float32]:
    """Return the noise that a series has after :func:`resample_dwi`.

    Interpolation averages neighbours, so it lowers the deviation of white noise
    (:func:`dmri_fm.normalise.noise.spline_noise_gain`); the change of length along the phase
    encoding multiplies noise as it does signal.

    Parameters
    ----------
    noise
        Shape (X, Y, Z, N): standard deviation of each volume as acquired, scanner units.
    dwi, target, target2dwiref, xfms, field_hz, shifts, order
        Those of :func:`resample_dwi`.

    Returns
    -------
    ndarray
        Shape of the grid, float32: root mean square over the volumes; 0 where any volume has no
        data.
    """
    sigma = np.asarray(noise, dtype=np.float32)
    sampling = _Sampling(dwi, target, target2dwiref, xfms, field_hz, shifts)
    variance = np.zeros(target.shape, dtype=np.float64)
    for n in range(dwi.shape[3]):
        for (start, stop), voxels, factor in sampling.list_slabs(n):
            values = read_at(sigma[..., n], voxels, 1, outside=np.nan)
            values = values * spline_noise_gain(voxels, order) * factor
            variance[:, :, start:stop] += np.square(values).reshape(*target.shape[:2], -1)
    return np.sqrt(np.nan_to_num(variance / dwi.shape[3])).astype(np.float32)


#: First and last slice of a slab, its points in voxels of a volume, and the factor of the signal.
_Slab = tuple[tuple[int, int], NDArray[np.float64], NDArray[np.float64] | float]


class _Sampling:
    """Points at which :func:`resample_dwi` reads each volume, in slabs of the target."""

    def __init__(
        self,
        dwi: Dwi,
        target: Grid,
        target2dwiref: PointMap,
        xfms: ArrayLike | None,
        field_hz: ArrayLike | None,
        shifts: Sequence[FieldShift] | None,
    ) -> None:
        n_volumes = dwi.shape[3]
        self._matrices = np.asarray(
            np.broadcast_to(np.eye(4), (n_volumes, 4, 4)) if xfms is None else xfms,
            dtype=np.float64,
        )
        self._to_mm = dwi.affine
        self._to_voxels = np.asarray(np.linalg.inv(dwi.affine), dtype=np.float64)
        self._slabs = list(slabs(target.shape[2]))
        self._reference = [target2dwiref(target.points(*slab)) for slab in self._slabs]
        is_distorted = field_hz is not None and shifts is not None
        self._shifts = shifts if is_distorted and shifts else [FieldShift(1, 0.0)] * n_volumes
        axes = {axis for axis, _ in self._shifts}
        self._displaced = _field_at(field_hz, self._to_voxels, self._reference, axes)

    def list_slabs(self, n: int) -> Iterator[_Slab]:
        """Yield the slabs of volume n."""
        axis, per_hz = self._shifts[n]
        stretch = abs(float(np.linalg.det(self._matrices[n][:3, :3])))
        for position, slab in enumerate(self._slabs):
            points = apply_affine(self._matrices[n], self._reference[position])
            factor: NDArray[np.float64] | float = stretch
            if per_hz and self._displaced is not None:
                hz, slope = self._displaced[axis][position]
                points = points + (per_hz * hz)[:, None] * self._to_mm[:3, axis]
                factor = stretch * np.maximum(1.0 + per_hz * slope, 0.0)
            yield slab, apply_affine(self._to_voxels, points), factor


def _field_at(
    field_hz: ArrayLike | None,
    to_voxels: NDArray[np.float64],
    reference: Sequence[NDArray[np.float64]],
    axes: set[int],
) -> dict[int, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] | None:
    """Return the field, Hz, and its slope per voxel along each axis, at the reference points."""
    if field_hz is None:
        return None
    field = np.asarray(field_hz, dtype=np.float32)
    slopes = {axis: np.gradient(field, axis=axis).astype(np.float32) for axis in axes}
    sampled: dict[int, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {
        axis: [] for axis in axes
    }
    for points in reference:
        voxels = apply_affine(to_voxels, points)
        # Beyond the image the field keeps the value of its edge: no seam at the border.
        hz = map_coordinates(field, voxels.T, order=1, mode="nearest")
        for axis in axes:
            sampled[axis].append(
                (hz, map_coordinates(slopes[axis], voxels.T, order=1, mode="nearest"))
            )
    return sampled
