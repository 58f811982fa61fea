"""Scores of the reconstructions of masked parts of a scan.

Two sets of definitions. Ours count masked voxels in the brain and nothing else, on S/S0, whose
peak is taken as one. Those named `authors_*` follow the code that was published with D-RoPE
(Kung et al. 2026, doi:10.48550/arXiv.2603.25977): visible patches count, the squared error is
divided by the number of voxels whose reconstruction is positive, the logarithm is taken of its
root, and the structural similarity is of several scales, of slices scaled by their maximum.
The Frechet inception distance is not computed: it needs an image network's weights, which this
package neither ships nor fetches.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from dmri_fm_lab.evaluate.scores import Row

#: Weights of the scales, finest first (Wang et al. 2003, doi:10.1109/ACSSC.2003.1292216).
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

#: Side of the window of the structural similarity at several scales, pixels.
_WINDOW = 11

#: Standard deviation and reach of the Gaussian window of our structural similarity, voxels.
_SSIM_SIGMA, _SSIM_REACH = 1.5, 5

_Image = NDArray[np.float32]


def psnr_db(mean_square: float) -> float:
    """Return the peak signal-to-noise ratio of S/S0, dB.

    Examples
    --------
    >>> psnr_db(0.01)
    20.0
    """
    return math.inf if mean_square <= 0 else -10.0 * math.log10(mean_square)


def authors_psnr_db(mean_square: float) -> float:
    """Return the authors' peak signal-to-noise ratio, half of :func:`psnr_db`.

    Examples
    --------
    >>> authors_psnr_db(0.01)
    10.0
    """
    return psnr_db(mean_square) / 2.0


def ssim_map(estimate: _Image, target: _Image) -> _Image:
    """Return the structural similarity around every voxel of a volume.

    A Gaussian window of 1.5 voxels along each of three axes, range 1 (Wang et al. 2004,
    doi:10.1109/TIP.2003.819861).

    Parameters
    ----------
    estimate, target
        Shape (X, Y, Z), at least 11 voxels along each axis.
    """
    from skimage.metrics import structural_similarity

    _, similarity = structural_similarity(
        estimate,
        target,
        gaussian_weights=True,
        sigma=_SSIM_SIGMA,
        use_sample_covariance=False,
        data_range=1.0,
        full=True,
    )
    return np.asarray(similarity, dtype=np.float32)


def masked_scores(
    estimate: _Image, target: _Image, masked: NDArray[np.bool_], *, clean: _Image | None = None
) -> Row:
    """Score the masked voxels of volumes.

    Parameters
    ----------
    estimate, target
        Shape (X, Y, Z, N), S/S0.
    masked
        Shape (X, Y, Z): masked voxels of the brain. The windows of the structural similarity reach
        beyond them; there the estimate is replaced by the target.
    clean
        The target without noise, where it is known.

    Returns
    -------
    dict
        `rmse`, `psnr` (dB), `ssim`, and against the target without noise `rmse_truth`.
    """
    where = masked[..., None]
    mean_square = _mean_square(estimate, target, masked)
    box = _box(masked)
    composite, seen, inside = np.where(where, estimate, target)[box], target[box], masked[box]
    similar = [
        float(ssim_map(composite[..., n], seen[..., n])[inside].mean())
        for n in range(target.shape[3])
    ]
    return {
        "rmse": math.sqrt(mean_square),
        "psnr": psnr_db(mean_square),
        "ssim": float(np.mean(similar)),
        "rmse_truth": None if clean is None else math.sqrt(_mean_square(estimate, clean, masked)),
    }


def _mean_square(estimate: _Image, target: _Image, where: NDArray[np.bool_]) -> float:
    return float(np.mean((estimate[where].astype(np.float64) - target[where]) ** 2))


def _box(region: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the box of a region and of the windows at its voxels, one window at least."""
    (tight,) = find_objects(region.astype(np.int8))
    box = []
    for s, n in zip(tight, region.shape, strict=True):
        stop = min(max(s.stop + _SSIM_REACH, 2 * _SSIM_REACH + 1), n)
        box.append(slice(max(min(s.start, stop - _SSIM_REACH - 1) - _SSIM_REACH, 0), stop))
    return tuple(box)


def authors_scores(estimate: _Image, target: _Image) -> Row:
    """Score whole volumes as the authors' code does, visible patches included.

    Parameters
    ----------
    estimate, target
        Shape (X, Y, Z, N), S/S0, zero outside the brain.

    Returns
    -------
    dict
        `authors_psnr` (dB), `authors_ms_ssim`, and `authors_scales`, the number of scales that
        the slices are large enough for, five at 1 mm and three at 2 mm. None without a positive
        voxel, or without a scale.
    """
    squared = float(((estimate.astype(np.float64) - target) ** 2).sum())
    n_positive = int((estimate > 0).sum())
    similarity, n_scales = _ms_ssim(estimate, target)
    return {
        "authors_psnr": authors_psnr_db(squared / n_positive) if n_positive else None,
        "authors_ms_ssim": similarity,
        "authors_scales": n_scales,
    }


def _ms_ssim(estimate: _Image, target: _Image) -> tuple[float | None, int]:
    """Return the mean over axial slices with signal, scaled by their maxima, and the scales."""
    from torchmetrics.functional.image import (
        multiscale_structural_similarity_index_measure as ms_ssim,
    )

    side = min(target.shape[:2])
    n_scales = max(n for n in range(6) if n == 0 or side // max(1, n - 1) ** 2 >= _WINDOW)
    if not n_scales:
        return None, 0
    weights = np.array(SCALES[:n_scales]) / sum(SCALES[:n_scales])
    by_slice: list[float] = []
    for volume, wanted in zip(np.moveaxis(estimate, 3, 0), np.moveaxis(target, 3, 0), strict=True):
        kept = wanted.max(axis=(0, 1)) > 0
        slices = [np.moveaxis(v[..., kept], 2, 0) for v in (volume, wanted)]
        tops = [s.max(axis=(1, 2), keepdims=True) for s in slices]
        first, second = (
            torch.from_numpy(np.divide(s, t, where=t > 0, out=np.zeros_like(s)))[:, None]
            for s, t in zip(slices, tops, strict=True)
        )
        if kept.any():
            value: Any = ms_ssim(first, second, data_range=1.0, betas=tuple(weights.tolist()))
            by_slice += [float(value)] * int(kept.sum())
    return (float(np.mean(by_slice)) if by_slice else None), n_scales
