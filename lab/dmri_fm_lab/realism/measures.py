"""Measurements of a patch that real and simulated scans share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm.tensor_networks.inputs import estimate_noise
from dmri_fm_lab.markdown_tables import Column

#: White matter, grey matter and CSF, as the tensor fit sees them.
WHITE_FA, TISSUE_MD, CSF_MD = 0.2, (0.2e-3, 1.1e-3), 2.0e-3

#: Grey matter has a lower FA.
GREY_FA = 0.15

#: Fewest voxels of a tissue that has statistics.
FEWEST_VOXELS = 30

#: Band of the power spectra's slope, cycles per voxel.
BAND = (0.06, 0.5)

#: Measurements by key, with their titles and formats.
QUANTITIES = {
    "fa": Column("FA of white matter, median", ".2f"),
    "fa_high": Column("FA of white matter, 90th percentile", ".2f"),
    "md": Column("MD of white matter, median, 1e-3 mm²/s", ".2f", 1e3),
    "white_share": Column("share of white matter in the brain", ".2f"),
    "snr_b0": Column("SNR of white matter, b=0", ".1f"),
    "snr_weighted": Column("SNR of white matter, weighted", ".1f"),
    "b0_range": Column("b=0, 95th over 50th percentile", ".2f"),
    "b0_csf": Column("b=0, CSF over white matter", ".2f"),
    "b0_grey": Column("b=0, grey over white matter", ".2f"),
    "slope_b0": Column("slope of the power spectrum, b=0", ".2f"),
    "slope_weighted": Column("slope of the power spectrum, weighted", ".2f"),
    "coherence_next": Column("coherence of V1, next voxel", ".2f"),
    "coherence_4mm": Column("coherence of V1, 4 mm", ".2f"),
    "coherence_8mm": Column("coherence of V1, 8 mm", ".2f"),
}


def white_matter(maps: TensorMaps) -> NDArray[np.bool_]:
    """Return the voxels that the tensor takes for white matter, off the border of the mask."""
    low, high = TISSUE_MD
    inner = binary_erosion(maps.mask, border_value=1)
    white: NDArray[np.bool_] = inner & (maps.fa > WHITE_FA) & (maps.md > low) & (maps.md < high)
    return white


def median_in(values: NDArray[np.float32], where: NDArray[np.bool_]) -> float:
    """Return a median, NaN of too few voxels."""
    return float(np.median(values[where])) if where.sum() >= FEWEST_VOXELS else np.nan


def noise_of(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the standard deviation of the noise, from the finest diagonal detail."""
    images = torch.from_numpy(np.ascontiguousarray(image))[None, None]
    return float(estimate_noise(images, torch.from_numpy(mask)[None, None]))


def spectrum_slope(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Return the slope of log power over log frequency, averaged over directions."""
    window = mask.astype(np.float64)
    for axis, n in enumerate(image.shape):
        window *= np.hanning(n + 2)[1:-1].reshape([-1 if k == axis else 1 for k in range(3)])
    centred = (image - np.average(image, weights=window)) * window
    power = np.abs(np.fft.fftn(centred)) ** 2
    axes = np.meshgrid(*(np.fft.fftfreq(n) for n in image.shape), indexing="ij")
    frequency = np.sqrt(sum(axis**2 for axis in axes))
    edges = np.geomspace(*BAND, 12)
    shell = np.digitize(frequency, edges)
    means = [power[shell == k].mean() for k in range(1, len(edges))]
    return float(np.polyfit(np.log(edges[:-1] * edges[1:]) / 2, np.log(means), 1)[0])


def coherence(
    v1: NDArray[np.float32], where: NDArray[np.bool_], voxel_mm: NDArray[np.float64]
) -> dict[str, float]:
    """Return the mean |cos| between main axes of white-matter voxels at three distances."""
    near, at_4mm, at_8mm = [], [], []
    for axis in range(3):
        axes, inside = np.moveaxis(v1, axis, 0), np.moveaxis(where, axis, 0)
        lags = np.arange(1, min(int(np.ceil(8.0 / voxel_mm[axis])) + 1, len(axes)))
        means = []
        for lag in lags:
            both = inside[lag:] & inside[:-lag]
            cosine = np.abs((axes[lag:] * axes[:-lag]).sum(axis=-1))
            means.append(float(cosine[both].mean()) if both.sum() >= FEWEST_VOXELS else np.nan)
        near.append(means[0])
        at_4mm.append(np.interp(4.0, lags * voxel_mm[axis], means))
        at_8mm.append(np.interp(8.0, lags * voxel_mm[axis], means))
    return {
        "coherence_next": float(np.mean(near)),
        "coherence_4mm": float(np.mean(at_4mm)),
        "coherence_8mm": float(np.mean(at_8mm)),
    }


def first_images(patch: Dwi) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the first b=0 volume of a patch and its first weighted one."""
    is_b0 = patch.gtab.is_b0
    return patch.data[..., int(is_b0.argmax())], patch.data[..., int(is_b0.argmin())]


def describe(patch: Dwi) -> dict[str, float]:
    """Measure a patch; the keys are those of :data:`QUANTITIES`."""
    maps = fit_tensor(patch)
    white, mask = white_matter(maps), maps.mask
    low, high = TISSUE_MD
    grey = mask & (maps.fa < GREY_FA) & (maps.md > low) & (maps.md < high)
    first_b0, first_weighted = first_images(patch)
    b0_white = median_in(first_b0, white)
    return {
        "fa": median_in(maps.fa, white),
        "fa_high": float(np.percentile(maps.fa[white], 90)) if white.any() else np.nan,
        "md": median_in(maps.md, white),
        "white_share": float(white.sum() / mask.sum()),
        "snr_b0": b0_white / noise_of(first_b0, mask),
        "snr_weighted": median_in(first_weighted, white) / noise_of(first_weighted, mask),
        "b0_range": float(np.divide(*np.percentile(first_b0[mask], (95, 50)))),
        "b0_csf": median_in(first_b0, mask & (maps.md > CSF_MD)) / b0_white,
        "b0_grey": median_in(first_b0, grey) / b0_white,
        "slope_b0": spectrum_slope(first_b0, mask),
        "slope_weighted": spectrum_slope(first_weighted, mask),
        **coherence(maps.v1, white, patch.voxel_size_mm),
    }


def measure(patches: Sequence[Dwi]) -> NDArray[np.float64]:
    """Measure patches: shape (patches, quantities)."""
    rows = [describe(patch) for patch in patches]
    return np.array([[row[key] for key in QUANTITIES] for row in rows])
