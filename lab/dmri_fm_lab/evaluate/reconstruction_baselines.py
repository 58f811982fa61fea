"""Baselines that fill in masked directions, or masked patches, of a scan.

All see what the network sees: S/S0 of the visible measurements on the network's grid. Visible
directions are a :class:`~dmri_fm.series.Dwi` of S/S0 with a brain mask and without b=0 volumes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gaussian_process import fit_gaussian_process, nearest_shells
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.signal import CLIP
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_design import design_matrix
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.evaluate.baselines import Baseline, tuned
from dmri_fm_lab.evaluate.direction_models import predict_harmonics, shell_means
from dmri_fm_lab.evaluate.inpainting import fill_by_means, fill_harmonically, fill_smoothly
from dmri_fm_lab.evaluate.stacking import predict_directions
from dmri_fm_lab.normalised_fit import LEAST_SIGNAL, with_b0
from dmri_fm_lab.smoothing import noise_sigma, smooth_within

#: Widths of the Gaussians that smooth images for stacked predictions, voxels.
SMOOTHING_VOXELS = (0.7, 1.5)

_Image = NDArray[np.float32]


def _images(voxels: NDArray[np.float64], mask: NDArray[np.bool_]) -> _Image:
    """Return images (X, Y, Z, H) of values (V, H) in the brain, clipped as the input is."""
    out = np.zeros((*mask.shape, voxels.shape[1]), dtype=np.float32)
    out[mask] = np.clip(voxels, *CLIP)
    return out


def _by_voxel(
    visible: Dwi,
    wanted: GradientTable,
    *,
    predict: Callable[[NDArray[np.float64], GradientTable, GradientTable], NDArray[np.float64]],
) -> _Image:
    voxels = visible.data[visible.brain].astype(np.float64)
    return _images(predict(voxels, visible.gtab, wanted), visible.brain)


def _gaussian_process(
    signal: NDArray[np.float64], visible: GradientTable, wanted: GradientTable
) -> NDArray[np.float64]:
    # Andersson & Sotiropoulos 2015, doi:10.1016/j.neuroimage.2015.07.067.
    products = signal.T @ signal / max(len(signal), 1)
    return fit_gaussian_process(products, visible).predict(signal, visible, wanted)


def predict_tensor_signal(visible: Dwi, wanted: GradientTable, *, width: float = 0.0) -> _Image:
    """Predict masked directions by tensors of the visible ones.

    The tensors are those of the nearest shell where it determines one, or else of all shells.

    Parameters
    ----------
    visible
        Visible directions of a scan.
    wanted
        Table of the H masked directions.
    width
        Standard deviation of a Gaussian that smooths the images before the fit, voxels.

    Raises
    ------
    GradientError
        If the visible directions do not determine a tensor.
    """
    brain = visible.brain
    smooth = Dwi.from_arrays(
        smooth_within(visible.data, brain, width), visible.affine, visible.gtab, mask=brain
    )
    voxels = np.zeros((int(brain.sum()), len(wanted)))
    for index, targets in nearest_shells(visible.gtab, wanted):
        maps = _shell_tensors(smooth, index)
        elements = maps.diffusivity[brain].astype(np.float64)
        assert maps.s0 is not None
        level = maps.s0[brain].astype(np.float64)
        table = wanted.select(targets)
        voxels[:, targets] = level[:, None] * np.exp(elements @ design_matrix(table)[:, :6].T)
    return _images(voxels, brain)


def _shell_tensors(visible: Dwi, index: list[int]) -> TensorMaps:
    try:
        shell = with_b0(visible.select(index))
        return fit_tensor(shell, shell="all", min_signal=LEAST_SIGNAL)
    except GradientError:
        return fit_tensor(with_b0(visible), shell="all", min_signal=LEAST_SIGNAL)


def _predict_smooth_tensor(visible: Dwi, wanted: GradientTable) -> _Image:
    sigma = noise_sigma(visible)
    snr = 1.0 / sigma if sigma > 0 else np.inf
    return predict_tensor_signal(visible, wanted, width=tuned("gaussian", snr))


def _stack(visible: Dwi, wanted: GradientTable) -> _Image:
    """Stack predictions from the images and from smoothed ones."""
    brain = visible.brain
    images = [
        smooth_within(visible.data, brain, width)[brain].astype(np.float64)
        for width in (0.0, *SMOOTHING_VOXELS)
    ]
    return _images(predict_directions(images, visible.gtab, wanted), brain)


DirectionMethod = Callable[[Dwi, GradientTable], _Image]
PatchMethod = Callable[[_Image, NDArray[np.bool_], NDArray[np.bool_]], _Image]

#: Masked directions from the visible ones: shape (X, Y, Z, H). GradientError where the visible
#: directions are too few.
DIRECTION_BASELINES: dict[str, Baseline[DirectionMethod]] = {
    "mean": Baseline("mean of visible values", partial(_by_voxel, predict=shell_means)),
    "tensor": Baseline("tensor", predict_tensor_signal),
    "tensor-smooth": Baseline("tensor of smoothed images", _predict_smooth_tensor),
    "harmonics": Baseline("spherical harmonics", partial(_by_voxel, predict=predict_harmonics)),
    "gaussian-process": Baseline(
        "Gaussian process", partial(_by_voxel, predict=_gaussian_process)
    ),
    "stacked": Baseline("stacked predictions", _stack),
}

#: Masked patches from the visible ones of the same volume: images (X, Y, Z, N), visible and
#: masked voxels (X, Y, Z) of the brain.
PATCH_BASELINES: dict[str, Baseline[PatchMethod]] = {
    "mean": Baseline("mean of visible values", fill_by_means),
    "convolution": Baseline("normalised convolution", fill_smoothly),
    "harmonic": Baseline("harmonic inpainting", fill_harmonically),
}
