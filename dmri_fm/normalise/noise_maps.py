"""Noise of a series, and what denoising took from it, as maps in another space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.distortion import FieldShift
from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid, PointMap, identity_map
from dmri_fm.normalise.series import resample_dwi
from dmri_fm.series import Dwi


def residual_by_run(
    raw: NDArray[np.float32], denoised: NDArray[np.float32], run_index: ArrayLike
) -> NDArray[np.float32]:
    """Return the root mean square, over the volumes of each run, of what denoising removed.

    Parameters
    ----------
    raw, denoised
        Shape (X, Y, Z, N), the same scale.
    run_index
        Shape (N,): run of each volume, 0 to R - 1.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, R).

    Raises
    ------
    ImageError
        If the two are not of one shape.

    Examples
    --------
    >>> raw = np.full((1, 1, 1, 3), 10.0, dtype=np.float32)
    >>> residual_by_run(raw, raw - np.float32([3, -3, 5]), [0, 0, 1])[0, 0, 0].tolist()
    [3.0, 5.0]
    """
    if raw.shape != denoised.shape:
        raise ImageError(
            f"a denoised series of shape {denoised.shape}",
            expected=f"that of the series as acquired, {raw.shape}",
        )
    runs = np.asarray(run_index, dtype=int)
    total = np.zeros((*raw.shape[:3], int(runs.max()) + 1), dtype=np.float64)
    for n, run in enumerate(runs):
        total[..., run] += np.square(raw[..., n].astype(np.float64) - denoised[..., n])
    return np.sqrt(total / np.bincount(runs)).astype(np.float32)


def bring_run_maps(
    maps: ArrayLike,
    affine: ArrayLike,
    target: Grid,
    *,
    n_volumes: ArrayLike,
    target2dwiref: PointMap = identity_map,
    field_hz: ArrayLike | None = None,
    shifts: Sequence[FieldShift] | None = None,
) -> NDArray[np.float32]:
    """Bring a map of each run to a grid, through the distortion of the run, and average them.

    Values are interpolated linearly, and multiplied by the change of length along the phase
    encoding, as the signal is. Head motion is not followed: a map is of all volumes of a run.

    Parameters
    ----------
    maps
        Shape (X, Y, Z, R), standard deviation or root mean square of one volume, as acquired.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    target
        Grid to fill.
    n_volumes
        Volumes of each run, its weight in the average of squares.
    target2dwiref, field_hz
        As in :func:`.series.resample_dwi`.
    shifts
        Shift of each run.

    Returns
    -------
    ndarray
        Shape of the grid, float32: root mean square over the runs with data; 0 where none has.
    """
    values = np.asarray(maps, dtype=np.float32)
    n_runs = values.shape[3]
    table = GradientTable(np.zeros(n_runs), np.zeros((n_runs, 3)))
    moved = resample_dwi(
        Dwi.from_arrays(values, affine, table),
        target,
        target2dwiref=target2dwiref,
        field_hz=field_hz,
        shifts=shifts,
        order=1,
    )
    weights = np.where(np.isfinite(moved), np.asarray(n_volumes, dtype=np.float64), 0.0)
    total = (weights * np.square(np.nan_to_num(moved))).sum(axis=3)
    return np.asarray(np.sqrt(total / np.maximum(weights.sum(axis=3), 1.0)), dtype=np.float32)
