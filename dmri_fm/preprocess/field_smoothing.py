"""Noise of a measured field: jumps, outliers, smoothing that continues it outside the brain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, median_filter

#: Deviations from the median of 27 neighbours, in robust standard deviations, that are noise.
OUTLIER_SIGMAS = 6.0

#: Standard deviation of the Gaussian that smooths the field inside the brain, mm.
SMOOTHING_MM = 2.0

#: Standard deviations, mm, of the Gaussians that continue the field outside the brain.
CONTINUATION_MM = (5.0, 10.0, 20.0)


def find_outliers(hz: ArrayLike, mask: ArrayLike) -> NDArray[np.bool_]:
    """Find voxels of the mask that differ from the median of their neighbours by noise.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), bool: more than :data:`OUTLIER_SIGMAS` robust standard deviations off,
        beyond what the slope of the field explains over two voxels.
    """
    inside = np.asarray(mask, dtype=bool)
    # Voxels outside have the value of the nearest one inside: edges have whole neighbourhoods.
    filled = _nearest_inside(np.asarray(hz, dtype=np.float64), inside)
    middle = median_filter(filled, size=3)
    off = filled - middle
    slope = np.linalg.norm(np.gradient(middle), axis=0)
    sigma = 1.4826 * float(np.median(np.abs(off[inside])))
    return np.asarray(inside & (np.abs(off) > OUTLIER_SIGMAS * max(sigma, 1e-6) + 2 * slope))


def smooth_field(hz: ArrayLike, mask: ArrayLike, affine: ArrayLike) -> NDArray[np.float32]:
    """Smooth a field inside a mask, and continue it outside.

    Parameters
    ----------
    hz
        Shape (X, Y, Z); values outside the mask are not used.
    mask
        Shape (X, Y, Z): voxels whose value is trusted.
    affine
        Shape (4, 4), voxel to RAS+ mm.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), float32: inside the mask, and within half of its smoothing around it, the
        mean of the trusted values under a Gaussian of :data:`SMOOTHING_MM`; further out under
        wider ones, :data:`CONTINUATION_MM`, and beyond these the nearest value.
    """
    inside = np.asarray(mask, dtype=bool)
    values = np.where(inside, np.asarray(hz, dtype=np.float64), 0.0)
    edges_mm = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    out = np.zeros(values.shape)
    is_known = np.zeros(values.shape, dtype=bool)
    for sigma_mm in (SMOOTHING_MM, *CONTINUATION_MM):
        sigma = sigma_mm / edges_mm
        weight = gaussian_filter(inside.astype(np.float64), sigma, mode="constant")
        mean = gaussian_filter(values, sigma, mode="constant") / np.maximum(weight, 1e-12)
        is_new = ~is_known & (weight > 0.05)
        out[is_new] = mean[is_new]
        is_known |= is_new
    return _nearest_inside(out, is_known).astype(np.float32)


def _nearest_inside(values: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give voxels outside a mask the value of the nearest voxel inside."""
    index = distance_transform_edt(~inside, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(index)])


def share_of_jumps(
    values: NDArray[np.float64], inside: NDArray[np.bool_], *, larger_than: float
) -> float:
    """Return the share of neighbours inside a mask that differ by more than a number."""
    n_jumps = n_pairs = 0
    for axis in range(3):
        both = _pairs(inside, axis, slice(1, None)) & _pairs(inside, axis, slice(None, -1))
        step = np.abs(np.diff(values, axis=axis))[both]
        n_jumps += int((step > larger_than).sum())
        n_pairs += step.size
    return n_jumps / n_pairs if n_pairs else 0.0


def _pairs(inside: NDArray[np.bool_], axis: int, part: slice) -> NDArray[np.bool_]:
    index: Sequence[slice] = [part if a == axis else slice(None) for a in range(3)]
    return inside[tuple(index)]
