"""Noise and Gibbs ringing."""

from __future__ import annotations

import logging
import warnings
from importlib.metadata import version
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation

from dmri_fm.series import Dwi

logger = logging.getLogger(__name__)

DenoiseMethod = Literal["mppca", "patch2self", "none"]

#: With fewer volumes the noise cannot be told from the signal.
FEWEST_VOLUMES = 7

#: Voxels brighter than this share of the bright end of the mean image are denoised.
FOREGROUND_SHARE = 0.05


class Denoised(NamedTuple):
    """A denoised series."""

    data: NDArray[np.float32]  # (X, Y, Z, N), not negative
    method: str  # name of the method in the sidecar


def foreground(data: ArrayLike) -> NDArray[np.bool_]:
    """Return the voxels that are not plain background, with a margin of two voxels."""
    mean = np.asarray(data, dtype=np.float32).mean(axis=3)
    bright = mean > FOREGROUND_SHARE * np.percentile(mean, 99)
    return np.asarray(binary_dilation(bright, iterations=2))


def name_too_few(n_volumes: int) -> str:
    """Return the entry of the sidecar for a run that is too short to be denoised."""
    return f"none ({n_volumes} volumes are too few)"


#: Entry of the sidecar for a run that MP-PCA does not fit.
NAME_ZERO_FILLED = "none (zero-filled in plane)"


def name_denoiser(method: DenoiseMethod, n_volumes: int, *, is_zero_filled: bool = False) -> str:
    """Return the method that the sidecar names for :func:`denoise` of a run.

    Examples
    --------
    >>> name_denoiser("none", 30), name_denoiser("mppca", 3)
    ('none', 'none (3 volumes are too few)')
    >>> name_denoiser("mppca", 30, is_zero_filled=True)
    'none (zero-filled in plane)'
    """
    if method == "none":
        return "none"
    if method == "mppca" and is_zero_filled:
        return NAME_ZERO_FILLED
    if n_volumes < FEWEST_VOLUMES:
        return name_too_few(n_volumes)
    dipy = f"DIPY {version('dipy')}"
    if method == "patch2self":
        return f"Patch2Self ({dipy})"
    return f"MP-PCA ({dipy}, patches of {2 * patch_radius(n_volumes) + 1}^3 voxels)"


def denoise(dwi: Dwi, *, method: DenoiseMethod, is_zero_filled: bool = False) -> Denoised:
    """Remove thermal noise from a series as it was acquired.

    Parameters
    ----------
    dwi
        The series before any resampling. Voxels of its mask are denoised, or of the foreground
        if it has none; others are not changed.
    method
        `mppca`: Marchenko-Pastur PCA (Veraart et al. 2016, doi:10.1016/j.neuroimage.2016.08.016);
        `patch2self`: self-supervised regression (Fadnavis et al. 2020, arXiv:2011.01355);
        `none`.
    is_zero_filled
        Images were zero-filled in plane (:mod:`.kspace_extent`): voxels share their noise, and
        MP-PCA would keep it.

    Returns
    -------
    Denoised
        A series of fewer than seven volumes, and a zero-filled one that MP-PCA was asked for, is
        returned unchanged, and `method` says so.
    """
    series, gtab = dwi.data, dwi.gtab
    n_volumes = series.shape[3]
    name = name_denoiser(method, n_volumes, is_zero_filled=is_zero_filled)
    if method == "none" or name == NAME_ZERO_FILLED:
        return Denoised(series, name)
    if n_volumes < FEWEST_VOLUMES:
        logger.warning("Not denoised: %d volumes are fewer than %d", n_volumes, FEWEST_VOLUMES)
        return Denoised(series, name)
    region = foreground(series) if dwi.mask is None else dwi.mask
    if method == "patch2self":
        from dipy.denoise.patch2self import patch2self

        found = patch2self(
            series,
            gtab.bvals,
            # dipy counts b-values up to its threshold as b=0, the table those below.
            b0_threshold=np.nextafter(gtab.b0_threshold, 0.0),
            model="ols",
            verbose=False,
            clip_negative_vals=True,
            shift_intensity=False,
        )
        kept = np.where(region[..., None], found, series).astype(np.float32)
        return Denoised(np.maximum(kept, 0), name)
    found, _ = mppca(series, region)
    reached = region & np.isfinite(found).all(axis=3)
    kept = np.where(reached[..., None], found, series)
    return Denoised(np.maximum(kept, 0).astype(np.float32), name)


def mppca(
    series: NDArray[np.float32], region: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run Marchenko-Pastur PCA in the windows around the voxels of a region.

    Returns
    -------
    denoised : ndarray
        Shape (X, Y, Z, N); zero outside the region, not finite where no window reaches.
    sigma : ndarray
        Shape (X, Y, Z), scanner units, likewise: standard deviation of one volume's noise.
    """
    from dipy.denoise import localpca

    radius = patch_radius(series.shape[3])
    # Some voxels at the edge of the field of view are reached by no window, and are not changed.
    # Nor can noise be told from signal in patches where volumes are cut short.
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        found, sigma = localpca.mppca(
            series, mask=region, patch_radius=radius, return_sigma=True, suppress_warning=True
        )
    return found, sigma


def patch_radius(n_volumes: int) -> int:
    """Return the smallest radius whose patch holds at least as many voxels as volumes."""
    radius = 1
    while (2 * radius + 1) ** 3 < n_volumes:
        radius += 1
    return max(radius, 2)


def name_gibbs_removal() -> str:
    """Return the name of :func:`unring` in the sidecar."""
    return f"DIPY gibbs_removal {version('dipy')}"


def unring(data: ArrayLike, *, n_jobs: int = 1) -> NDArray[np.float32]:
    """Remove Gibbs ringing by local subvoxel shifts, slice by slice.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N); slices along the third axis, not interpolated before.
    n_jobs
        Processes; more than one needs a `__main__` guard in the calling script.

    References
    ----------
    Kellner et al. 2016, doi:10.1002/mrm.26054.
    """
    from dipy.denoise.gibbs import gibbs_removal

    series = np.array(data, dtype=np.float64)
    corrected = gibbs_removal(series, slice_axis=2, inplace=False, num_processes=n_jobs)
    return np.asarray(np.maximum(corrected, 0), dtype=np.float32)
