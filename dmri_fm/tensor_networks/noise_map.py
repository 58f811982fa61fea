"""Noise of a run as acquired: a map of the standard deviation of one volume."""

from __future__ import annotations

from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dmri_fm.preprocess.denoise import foreground, mppca, patch_radius
from dmri_fm.series import Dwi

#: With fewer volumes MP-PCA takes signal for noise (`benchmarks/noise_map.py`).
FEWEST_VOLUMES = 10

#: Voxels between the centres of the windows, which overlap, where MP-PCA runs for the map alone.
STEP = 3

#: Voxels whose mean signal is below this many times the noise of the whole region count as air:
#: the mean of noise alone is 1.25 times its deviation, which air makes look up to a third smaller.
FEWEST_NOISES = 4.0

#: Smoothing of MP-PCA's deviations, mm: noise of coils changes over centimetres.
SMOOTHING_MM = 5.0


class NoiseMap(NamedTuple):
    """Noise of a run."""

    sigma: NDArray[np.float32]  # (X, Y, Z), scanner units: standard deviation of one volume
    method: str  # its name in the sidecar, with the reason where it is one number


def name_noise_map(n_volumes: int) -> str:
    """Return the method that the sidecar names for :func:`noise_map` of a run.

    Examples
    --------
    >>> name_noise_map(7)
    'one number, from the finest detail (7 volumes are too few for a map by MP-PCA)'
    """
    if n_volumes < FEWEST_VOLUMES:
        return _name_number(f"{n_volumes} volumes are too few for a map by MP-PCA")
    return f"MP-PCA (DIPY {version('dipy')}), smoothed by a Gaussian of {SMOOTHING_MM:g} mm"


def _name_number(reason: str) -> str:
    return f"one number, from the finest detail ({reason})"


def noise_map(dwi: Dwi) -> NoiseMap:
    """Estimate the noise of a run that is neither denoised nor resampled.

    Parameters
    ----------
    dwi
        The run. Its mask, or the foreground if it has none, is where noise is measured.

    Returns
    -------
    NoiseMap
        Marchenko-Pastur PCA (Veraart et al. 2016, doi:10.1016/j.neuroimage.2016.08.016),
        smoothed, and continued beyond the region. Of fewer than :data:`FEWEST_VOLUMES` volumes,
        or where no window fits into the region, one number (:func:`.inputs.estimate_noise`), and
        the method says so. Noise of magnitude images is less than this where signal is below
        twice the noise.
    """
    region = foreground(dwi.data) if dwi.mask is None else dwi.mask
    name = name_noise_map(dwi.shape[3])
    if dwi.shape[3] >= FEWEST_VOLUMES:
        sigma = map_by_mppca(dwi, region)
        if sigma is not None:
            return NoiseMap(sigma, name)
        name = _name_number("no window of MP-PCA fits into the region of the head")
    return NoiseMap(np.full(dwi.shape[:3], measure_detail(dwi, region), np.float32), name)


def map_by_mppca(dwi: Dwi, region: NDArray[np.bool_]) -> NDArray[np.float32] | None:
    """Run MP-PCA at every third voxel of a region along each axis, and smooth its deviations.

    Returns
    -------
    ndarray or None
        Shape (X, Y, Z), scanner units; far from the region their median. None if no window fits.
    """
    if min(dwi.shape[:3]) <= 2 * patch_radius(dwi.shape[3]):
        return None
    centres = np.zeros_like(region)
    centres[1::STEP, 1::STEP, 1::STEP] = region[1::STEP, 1::STEP, 1::STEP]
    sigma = mppca(dwi.data, centres)[1]
    known = centres & np.isfinite(sigma) & (sigma > 0)
    if not known.any():
        return None
    width = SMOOTHING_MM / dwi.voxel_size_mm
    weight = gaussian_filter(known.astype(np.float32), width)
    level = np.median(sigma[known])
    # A trace of the median carries the map on where no known voxel is near.
    total = gaussian_filter(np.where(known, sigma, 0.0).astype(np.float32), width)
    return np.asarray((total + 1e-4 * level) / (weight + 1e-4), dtype=np.float32)


def measure_detail(dwi: Dwi, region: NDArray[np.bool_]) -> float:
    """Return the noise of the weighted volumes, or of all where there are few, as one number.

    Air in the region, whose magnitudes vary less than signal does, is left out.
    """
    import torch

    from dmri_fm.tensor_networks.inputs import estimate_noise

    weighted = np.flatnonzero(~dwi.gtab.is_b0)
    volumes = weighted if len(weighted) > 2 else np.arange(dwi.shape[3])
    images = torch.from_numpy(np.ascontiguousarray(np.moveaxis(dwi.data[..., volumes], 3, 0)))

    def measure(where: NDArray[np.bool_]) -> float:
        mask = torch.from_numpy(where.astype(np.float32))
        return float(estimate_noise(images[None], mask[None, None]))

    level = measure(region)
    bright = region & (images.mean(dim=0).numpy() > FEWEST_NOISES * level)
    return measure(bright) or level
