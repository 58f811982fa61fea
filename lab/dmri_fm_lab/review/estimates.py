"""Estimates of many patches, least squares and smoothing among them, and their errors."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, maximum_filter, minimum_filter
from torch import Tensor

from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.quality import tensor_quality
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps, decompose_tensors
from dmri_fm_lab.evaluate.tensor_errors import AXIS_FA, axis_angle_deg
from dmri_fm_lab.review.patches import TruePatches
from dmri_fm_lab.smoothing import smooth_within

_Array = NDArray[np.float64]

#: Widths of the Gaussian among which smoothing is tuned, voxels.
WIDTHS_VOXELS = (0.4, 0.6, 0.8, 1.0, 1.3)

#: Range of the true FA among a voxel and its neighbours that makes it an edge.
EDGE_FA = 0.3

#: Mean angle between an axis and one drawn by chance.
CHANCE_DEG = float(np.rad2deg(1.0))


class Estimate(NamedTuple):
    """Maps of P patches: FA, MD (P, E, E, E), um^2/ms, main axis (P, E, E, E, 3), tensors.

    Tensors (P, 6, E, E, E), um^2/ms, are None where a network gives none.
    """

    fa: _Array
    md: _Array
    v1: _Array
    tensor: Tensor | None = None


def estimate_of(tensor: Tensor, mask: Tensor) -> Estimate:
    """Return the maps of tensors (P, 6, E, E, E), um^2/ms."""
    rows = rearrange(tensor, "p k x y z -> (p x) y z k").double().numpy()
    inside = rearrange(mask, "p x y z -> (p x) y z").numpy()
    maps = TensorMaps.from_tensor(1e-3 * rows, inside, affine=np.eye(4), model="tensor")
    fa, md, v1 = (
        rearrange(m, "(p x) y z ... -> p x y z ...", p=len(mask)).astype(np.float64)
        for m in (maps.scalars["fa"], maps.scalars["md"], maps.v1)
    )
    return Estimate(fa, 1e3 * md, v1, tensor)


def least_squares(
    images: Tensor, mask: Tensor, gtab: GradientTable, *, width_voxels: float = 0.0
) -> Estimate:
    """Fit tensors by weighted least squares to images (P, N, E, E, E), smoothed or not."""
    fitted = []
    for patch, inside in zip(images, mask, strict=True):
        data = smooth_within(patch.movedim(0, 3).numpy(), inside.numpy(), width_voxels)
        dwi = Dwi.from_arrays(data, np.eye(4), gtab, mask=inside.numpy())
        fitted.append(torch.from_numpy(fit_tensor(dwi, n_threads=1).diffusivity).movedim(3, 0))
    return estimate_of(1e3 * torch.stack(fitted), mask)


def with_true_s0(images: Tensor, patches: TruePatches) -> Tensor:
    """Return images whose b=0, the first of them, is the true one.

    Least squares from six directions has as many measurements as unknowns and passes through its
    b=0: its S0 is then known.
    """
    return torch.cat([patches.s0[:, None], images[:, 1:]], dim=1)


def tune_smoothing(
    images: Tensor, patches: TruePatches, gtab: GradientTable, truth: Estimate
) -> float:
    """Return the width of the Gaussian, voxels, whose fit has the lowest error of FA."""

    def error(width: float) -> float:
        found = least_squares(images, patches.mask, gtab, width_voxels=width)
        return float(np.abs(found.fa - truth.fa)[patches.mask.numpy()].mean())

    return min(WIDTHS_VOXELS, key=error)


def errors_of(found: Estimate, truth: Estimate, where: NDArray[np.bool_]) -> dict[str, float]:
    """Return mean absolute errors and biases of FA and MD, and the angle between main axes.

    The angle, degrees, is a mean over the voxels with a true FA above 0.3: the truth alone
    chooses them, so that all methods are compared in the same. One without a main axis counts as
    an axis drawn by chance, whose mean angle is one radian. NaN where there is no such voxel.
    """
    axes = where & (truth.fa > AXIS_FA)
    return {
        "fa": float(np.abs(found.fa - truth.fa)[where].mean()),
        "md": float(np.abs(found.md - truth.md)[where].mean()),
        "fa_bias": float((found.fa - truth.fa)[where].mean()),
        "md_bias": float((found.md - truth.md)[where].mean()),
        "angle_deg": mean_angle(found.v1[axes], truth.v1[axes]) if axes.any() else float("nan"),
    }


def mean_angle(found: _Array, truth: _Array) -> float:
    """Return the mean angle between axes (M, 3), degrees; those that are zero count as chance."""
    has_axis = np.linalg.norm(found, axis=-1) > 0
    angles = np.full(len(found), CHANCE_DEG)
    angles[has_axis] = axis_angle_deg(found[has_axis], truth[has_axis])
    return float(angles.mean())


def edges_of(truth: Estimate, mask: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Return the voxels (P, E, E, E) whose neighbours have another FA, by their side of the edge.

    The side is that of the true FA: above the middle between the highest and the lowest FA among
    the voxel and its neighbours, or not. Biases of the two cancel in their mean. The border of the
    mask is left out.
    """
    sides: dict[str, list[NDArray[np.bool_]]] = {"high-FA side": [], "low-FA side": []}
    for fa, inside in zip(truth.fa, mask, strict=True):
        highest, lowest = maximum_filter(fa, size=3), minimum_filter(fa, size=3)
        edge = (highest - lowest > EDGE_FA) & binary_erosion(inside, np.ones((3, 3, 3)))
        is_high = fa > (highest + lowest) / 2
        sides["high-FA side"].append(edge & is_high)
        sides["low-FA side"].append(edge & ~is_high)
    return {side: np.stack(found) for side, found in sides.items()}


def true_maps(patches: TruePatches) -> Tensor:
    """Return FA, MD (um^2/ms), and v v^T of the main axis, (P, 8, E, E, E)."""
    truth = estimate_of(patches.tensor, patches.mask)
    v = np.moveaxis(truth.v1, -1, 1)
    pairs = [v[:, i] * v[:, j] for i in range(3) for j in range(i, 3)]
    return torch.from_numpy(np.stack([truth.fa, truth.md, *pairs], axis=1)).float()


def read_maps(found: Tensor) -> Estimate:
    """Return what a network gave as FA, MD and v v^T."""
    maps = found.double().numpy()
    _, first = decompose_tensors(np.moveaxis(maps[:, 2:], 1, -1))
    return Estimate(maps[:, 0], maps[:, 1], first)


def spherical_variance(axes: _Array) -> _Array:
    """Return the spherical variance (M,) of K axes (K, M, 3), which have no sign.

    One minus the largest eigenvalue of the mean of v v^T: 0 where all agree, 2/3 where they
    point anywhere. It says nothing of the truth: a constant axis has none.

    Examples
    --------
    >>> axes = np.array([[[1.0, 0, 0]], [[-1.0, 0, 0]], [[0, 1.0, 0]], [[0, 1.0, 0]]])
    >>> spherical_variance(axes).round(3).tolist()
    [0.5]
    """
    mean = np.einsum("kmi,kmj->mij", axes, axes) / len(axes)
    return np.asarray(1.0 - np.linalg.eigvalsh(mean)[:, -1])


def impossible_shares(found: Estimate, mask: Tensor) -> dict[str, float]:
    """Return the shares of voxels with FA above 1 and with a negative eigenvalue, as the app does.

    See :func:`dmri_fm.preprocess.quality.tensor_quality`; FA itself counts where there is no
    tensor.
    """
    inside = mask.numpy()
    if found.tensor is None:
        fa, md = found.fa[inside], found.md[inside]
        return {"fa": float(((fa > 1) | (fa < 0)).mean()), "negative": float((md < 0).mean())}
    rows = rearrange(found.tensor, "p k x y z -> (p x) y z k").double().numpy()
    quality = tensor_quality(1e-3 * rows, rearrange(inside, "p x y z -> (p x) y z"))
    columns = {"fa": "fa_out_of_range_fraction", "negative": "negative_diffusivity_fraction"}
    return {name: float(quality[column] or 0.0) for name, column in columns.items()}


def fit_voxels(signals: _Array, gtab: GradientTable) -> Estimate:
    """Fit tensors by weighted least squares to signals (V, N) of single voxels."""
    dwi = Dwi.from_arrays(signals[:, None, None], np.eye(4), gtab)
    maps = fit_tensor(dwi, n_threads=1)
    fa, md = (maps.scalars[name][:, 0, 0].astype(np.float64) for name in ("fa", "md"))
    return Estimate(fa, 1e3 * md, maps.v1[:, 0, 0].astype(np.float64))
