"""Smoothing within a mask, and how noisy images are."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from dmri_fm.volumes import Dwi

__all__ = ["brain_snr", "noise_sigma", "smooth_within"]

#: The median absolute deviation of a normal variable times this is its standard deviation.
MAD_TO_SIGMA = 1.4826

#: Detail beyond so many standard deviations does not turn the components: edges, vessels.
LARGEST_DETAIL = 4.0


def smooth_within(
    images: ArrayLike, mask: NDArray[np.bool_], sigma_voxels: float
) -> NDArray[np.float32]:
    """Blur images with a Gaussian that sees nothing outside a mask.

    Parameters
    ----------
    images
        Shape (X, Y, Z, N).
    mask
        Shape (X, Y, Z).
    sigma_voxels
        Standard deviation of the Gaussian; at 0 the images stay as they are within the mask.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, N), float32; zero outside the mask.

    Examples
    --------
    A constant stays constant up to the edge:

    >>> mask = np.zeros((4, 4, 4), dtype=bool)
    >>> mask[1:3] = True
    >>> blurred = smooth_within(np.full((4, 4, 4, 1), 5.0), mask, 0.8)
    >>> bool(np.allclose(blurred[mask], 5)), float(blurred[~mask].max())
    (True, 0.0)
    """
    data = np.asarray(images, dtype=np.float32) * mask[..., None]
    if sigma_voxels <= 0:
        return data
    width = (sigma_voxels,) * 3
    share = gaussian_filter(mask.astype(np.float32), width)
    share = np.where(mask, share, np.float32(1.0))
    blurred = gaussian_filter(data, (*width, 0.0)) / share[..., None]
    return np.asarray(blurred * mask[..., None], dtype=np.float32)


def noise_sigma(dwi: Dwi) -> float:
    """Estimate the standard deviation of the noise of a series, scanner units.

    From the finest diagonal detail within the mask. Anatomy has such detail too, at voxels of
    3 mm or more several times as much as noise; but volumes share it and do not share noise, so
    the detail is split into principal components over the volumes, and those that hold least
    count. Correlated noise looks less than it is.

    Parameters
    ----------
    dwi
        The series; all of it is looked at where it has no mask.

    Returns
    -------
    float
        0 where no 2^3 cube lies inside the mask.
    """
    mask = np.ones(dwi.shape[:3], dtype=bool) if dwi.mask is None else dwi.mask
    corners = list(product((0, 1), repeat=3))
    boxes = [
        tuple(slice(i, n - 1 + i) for i, n in zip(c, mask.shape, strict=True)) for c in corners
    ]
    inside = np.logical_and.reduce([mask[box] for box in boxes])
    if not inside.any():
        return 0.0
    detail = np.zeros((int(inside.sum()), dwi.shape[3]))
    for corner, box in zip(corners, boxes, strict=True):
        detail += (-1) ** sum(corner) * dwi.data[box][inside] / 8.0**0.5
    limit = LARGEST_DETAIL * MAD_TO_SIGMA * np.median(np.abs(detail), axis=0)
    bounded = detail.clip(-limit, limit)
    _, axes = np.linalg.eigh(bounded.T @ bounded)
    sigmas = MAD_TO_SIGMA * np.median(np.abs(detail @ axes), axis=0)
    return float(np.sort(sigmas)[: max(1, len(sigmas) // 3)].mean())


def brain_snr(dwi: Dwi) -> float:
    """Return the median b=0 signal of the brain over the noise; infinite without noise."""
    b0 = dwi.mean_b0()
    inside = np.ones(b0.shape, dtype=bool) if dwi.mask is None else dwi.mask
    sigma = noise_sigma(dwi)
    return float(np.median(b0[inside]) / sigma) if sigma > 0 and inside.any() else float("inf")
