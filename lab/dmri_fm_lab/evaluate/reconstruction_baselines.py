"""Baselines that fill in masked directions, or masked patches, of a scan.

All see what the network sees: S/S0 of the visible measurements on the network's grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.encoders.drope.direction_models import predict_harmonics, shell_means
from dmri_fm.encoders.drope.estimates import predict_directions
from dmri_fm.encoders.drope.gaussian_process import fit_gaussian_process, nearest_shells
from dmri_fm.encoders.drope.guided_refiner import SMOOTHING_VOXELS
from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.signal import CLIP
from dmri_fm.qspace import to_qspace
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_design import design_matrix
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.baselines import Baseline, tuned
from dmri_fm_lab.evaluate.inpainting import fill_by_means, fill_harmonically, fill_smoothly
from dmri_fm_lab.smoothing import noise_sigma, smooth_within

__all__ = ["DIRECTION_BASELINES", "PATCH_BASELINES", "Kept", "fit_normalised"]

#: S/S0 below this is raised to it before its logarithm is taken: reconstructions may be negative.
#: The floor of series, :func:`dmri_fm.tensor.smallest_signal`, would be .002 here, five times
#: lower: a reconstruction's noise would decide the fit. The published tables were made with this.
LEAST_SIGNAL = 0.01

_Image = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Kept:
    """The visible directions of a scan.

    Attributes
    ----------
    signal
        Shape (X, Y, Z, K), S/S0, zero outside the brain.
    gtab
        Of the K weighted measurements, RAS+.
    mask
        Shape (X, Y, Z): the brain.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    """

    signal: _Image
    gtab: GradientTable
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]

    def dwi(self) -> Dwi:
        """Return the series with an image of ones in the place of b=0."""
        ones = self.mask[..., None].astype(np.float32)
        table = GradientTable(
            np.concatenate([[0.0], self.gtab.bvals]),
            np.concatenate([np.zeros((1, 3)), self.gtab.bvecs_ras]),
            self.gtab.b0_threshold,
        )
        data = np.concatenate([ones, self.signal], axis=3)
        return Dwi.from_arrays(data, self.affine, table, mask=self.mask)

    def spread(self, voxels: NDArray[np.float64]) -> _Image:
        """Return images (X, Y, Z, H) of values (V, H) in the brain, clipped as input is."""
        out = np.zeros((*self.mask.shape, voxels.shape[1]), dtype=np.float32)
        out[self.mask] = np.clip(voxels, *CLIP)
        return out


def fit_normalised(kept: Kept) -> TensorMaps:
    """Fit tensors to S/S0: the shells below 1550 s/mm^2 if they suffice, or else all.

    Raises
    ------
    GradientError
        If the directions do not determine a tensor.
    """
    return fit_tensor(kept.dwi(), shell="auto", min_signal=LEAST_SIGNAL)


def _by_voxel(
    kept: Kept,
    wanted: GradientTable,
    *,
    predict: Callable[[NDArray[np.float64], GradientTable, GradientTable], NDArray[np.float64]],
) -> _Image:
    return kept.spread(predict(kept.signal[kept.mask].astype(np.float64), kept.gtab, wanted))


def _gaussian_process(
    signal: NDArray[np.float64], kept: GradientTable, wanted: GradientTable
) -> NDArray[np.float64]:
    products = signal.T @ signal / max(len(signal), 1)
    return fit_gaussian_process(products, kept).predict(signal, kept, wanted)


def predict_tensor_signal(kept: Kept, wanted: GradientTable, *, width: float = 0.0) -> _Image:
    """Predict masked directions by tensors of the visible ones.

    By those of the nearest shell where they determine one, or else by those of all shells.

    Parameters
    ----------
    kept
        What is visible.
    wanted
        Table of the H masked measurements.
    width
        Of a Gaussian that the images are smoothed with before the fit, voxels.

    Raises
    ------
    GradientError
        If the kept directions do not determine a tensor.
    """
    smooth = smooth_within(kept.signal, kept.mask, width)
    voxels = np.zeros((int(kept.mask.sum()), len(wanted)))
    for index, targets in nearest_shells(kept.gtab, wanted):
        maps = _shell_tensors(kept, smooth, index)
        elements = maps.diffusivity[kept.mask].astype(np.float64)
        assert maps.s0 is not None
        level = maps.s0[kept.mask].astype(np.float64)
        table = wanted.select(targets)
        voxels[:, targets] = level[:, None] * np.exp(elements @ design_matrix(table)[:, :6].T)
    return kept.spread(voxels)


def _shell_tensors(kept: Kept, signal: _Image, index: list[int]) -> TensorMaps:
    def fit(volumes: list[int]) -> TensorMaps:
        part = Kept(signal[..., volumes], kept.gtab.select(volumes), kept.mask, kept.affine)
        return fit_tensor(part.dwi(), shell="all", min_signal=LEAST_SIGNAL)

    try:
        return fit(index)
    except GradientError:
        return fit(list(range(len(kept.gtab))))


def _predict_smooth_tensor(kept: Kept, wanted: GradientTable) -> _Image:
    measured = Dwi.from_arrays(kept.signal, kept.affine, kept.gtab, mask=kept.mask)
    sigma = noise_sigma(measured)
    snr = 1.0 / sigma if sigma > 0 else np.inf
    return predict_tensor_signal(kept, wanted, width=tuned("gaussian", snr))


def _stack(kept: Kept, wanted: GradientTable) -> _Image:
    """Predict as a network does that starts from stacked predictions, whole images smoothed."""
    widths = (0.0, *SMOOTHING_VOXELS)
    images = [
        torch.from_numpy(smooth_within(kept.signal, kept.mask, width)[kept.mask].T)[:, None]
        for width in widths
    ]
    tables = (torch.from_numpy(to_qspace(table)) for table in (kept.gtab, wanted))
    found = predict_directions(images, torch.ones(1, images[0].shape[2]), *tables)
    return kept.spread(found[:, 0].T.double().numpy())


DirectionMethod = Callable[[Kept, GradientTable], _Image]
PatchMethod = Callable[[_Image, NDArray[np.bool_], NDArray[np.bool_]], _Image]

#: Masked directions from the visible ones: shape (X, Y, Z, H). GradientError where the visible
#: directions are too few.
DIRECTION_BASELINES: dict[str, Baseline[DirectionMethod]] = {
    "mean": Baseline("mean of what is visible", partial(_by_voxel, predict=shell_means)),
    "tensor": Baseline("tensor", predict_tensor_signal),
    "tensor-smooth": Baseline("tensor of smoothed images", _predict_smooth_tensor),
    "harmonics": Baseline("spherical harmonics", partial(_by_voxel, predict=predict_harmonics)),
    "gaussian-process": Baseline(
        "Gaussian process",
        partial(_by_voxel, predict=_gaussian_process),
        "10.1016/j.neuroimage.2015.07.067",
    ),
    "stacked": Baseline("stacked predictions", _stack),
}

#: Masked patches from the visible ones of the same volume: images (X, Y, Z, N), visible and
#: masked voxels (X, Y, Z) of the brain.
PATCH_BASELINES: dict[str, Baseline[PatchMethod]] = {
    "mean": Baseline("mean of what is visible", fill_by_means),
    "convolution": Baseline("normalised convolution", fill_smoothly),
    "harmonic": Baseline("harmonic inpainting", fill_harmonically),
}
