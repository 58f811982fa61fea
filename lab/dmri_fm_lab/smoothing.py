"""Smoothing within a mask, and the noise of images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from dmri_fm.series import Dwi
from dmri_fm.tensor_networks.inputs import estimate_noise


def smooth_within(
    images: ArrayLike, mask: NDArray[np.bool_], sigma_voxels: float
) -> NDArray[np.float32]:
    """Blur images with a Gaussian that takes nothing from outside a mask.

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
    """Estimate the standard deviation of the noise of a series within its mask, scanner units.

    See :func:`~dmri_fm.tensor_networks.inputs.estimate_noise`; 0 where no 2^3 cube lies inside.
    """
    mask = np.ones(dwi.shape[:3], dtype=bool) if dwi.mask is None else dwi.mask
    images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(dwi.data, 3, 0)))[None]
    return float(estimate_noise(images, torch.from_numpy(np.ascontiguousarray(mask))[None, None]))


def brain_snr(dwi: Dwi, sigma: float | None = None) -> float:
    """Return the median b=0 signal of the brain over the noise; infinite without noise.

    `sigma` is the series' :func:`noise_sigma`, where that is known already.
    """
    b0 = dwi.mean_b0()
    inside = np.ones(b0.shape, dtype=bool) if dwi.mask is None else dwi.mask
    sigma = noise_sigma(dwi) if sigma is None else sigma
    return float(np.median(b0[inside]) / sigma) if sigma > 0 and inside.any() else float("inf")
