"""A whole series, with its mask and gradients, on another grid."""

from __future__ import annotations

from collections.abc import Sequence
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
from dmri_fm.preprocess.motion import MotionEstimate, rotate_bvecs
from dmri_fm.series import Dwi

#: Points of the brain at which the rotation of a map is measured.
N_ROTATION_POINTS = 2000


def normalise_series(
    dwi: Dwi,
    grid: Grid,
    *,
    target2dwiref: PointMap,
    motion: MotionEstimate,
    encodings: Sequence[PhaseEncoding],
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
        Transforms of the volumes.
    encodings
        Phase encoding of every volume.
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
        xfms=motion.xfms,
        field_hz=field_hz,
        shifts=field_shifts(encodings),
        order=order,
        n_threads=n_threads,
    )
    brain = _brain_on(dwi.brain, dwi, data, grid, target2dwiref)
    turn = _rotation_of(target2dwiref, grid, brain)
    gtab = rotate_bvecs(dwi.gtab, motion).rotated(turn)
    return Dwi.from_arrays(np.nan_to_num(data, copy=False), grid.affine, gtab, mask=brain)


def _brain_on(
    mask: NDArray[np.bool_], dwi: Dwi, data: NDArray[np.float32], grid: Grid, target2dwi: PointMap
) -> NDArray[np.bool_]:
    """Return the brain on a grid, without voxels that lie outside any volume: NaN in `data`."""
    share = resample_image(mask.astype(np.float32), dwi.affine, grid, target2source=target2dwi)
    return np.asarray(np.isfinite(data).all(axis=3) & (share > 0.5))


def _rotation_of(
    target2dwiref: PointMap, grid: Grid, brain: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the rotation of directions from the reference into the target, shape (3, 3)."""
    inside = np.argwhere(brain)
    points = apply_affine(grid.affine, inside[:: max(1, len(inside) // N_ROTATION_POINTS)])
    linear = linear_part(target2dwiref, points)[:3, :3]
    u, _, vt = np.linalg.svd(np.linalg.inv(linear))
    return np.asarray(u @ vt)


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
    series, n_volumes = dwi.data, dwi.shape[3]
    matrices = (
        np.broadcast_to(np.eye(4), (n_volumes, 4, 4))
        if xfms is None
        else np.asarray(xfms, dtype=np.float64)
    )
    to_mm = dwi.affine
    to_voxels = np.asarray(np.linalg.inv(to_mm), dtype=np.float64)
    pieces = list(slabs(target.shape[2]))
    reference = [target2dwiref(target.points(start, stop)) for start, stop in pieces]
    used = (
        shifts if field_hz is not None and shifts is not None else [FieldShift(1, 0.0)] * n_volumes
    )
    displaced = _field_at(field_hz, to_voxels, reference, {axis for axis, _ in used})
    out = np.empty((*target.shape, n_volumes), dtype=np.float32)

    def fill(n: int) -> None:
        volume = spline_of(series[..., n], order)
        axis, per_hz = used[n]
        stretch = abs(float(np.linalg.det(matrices[n][:3, :3])))
        step_mm = to_mm[:3, axis]
        for position, (start, stop) in enumerate(pieces):
            points = apply_affine(matrices[n], reference[position])
            factor: NDArray[np.float64] | float = stretch
            if per_hz and displaced is not None:
                hz, slope = displaced[axis][position]
                points = points + (per_hz * hz)[:, None] * step_mm
                factor = stretch * np.maximum(1.0 + per_hz * slope, 0.0)
            voxels = apply_affine(to_voxels, points)
            values = read_at(volume, voxels, order, outside=np.nan) * factor
            block = np.maximum(values, 0.0).reshape(*target.shape[:2], stop - start)
            out[:, :, start:stop, n] = block

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(fill, range(n_volumes)))
    return out


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
