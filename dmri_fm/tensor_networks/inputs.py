"""Inputs and outputs of tensor networks, and the least-squares tensor.

Everything is in um^2/ms, ms/um^2 and units of the mean b=0 signal, in the frame of the voxel
axes: a network sees fibres and the grid in one frame, however the image is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dmri_fm.gradients import GradientTable, rotation_part
from dmri_fm.tensor_design import DIAGONAL, quadratic_columns

#: Description of input and output, written beside weights.
NORMALISATION = {
    "s0": "b=0 image over its mean within the brain",
    "ratios": "weighted images over the b=0 image, clipped to 0.01..1.5",
    "q": "unit b-vector in the frame of the voxel axes, and b in ms/um^2",
    "output": "um^2/ms, order xx, xy, xz, yy, yz, zz, in the frame of the voxel axes",
}

#: Ratios S/S0 are clipped to this range before a logarithm is taken.
RATIO_RANGE = (0.01, 1.5)

#: Elements of the least-squares tensor are clipped to plus and minus this, um^2/ms.
LARGEST_ELEMENT = 6.0

#: Deviations of tensor elements, um^2/ms, and noise over signal are given to networks as
#: logarithms of their share of this, clipped to the limits.
TYPICAL_DEVIATION, DEVIATION_LIMITS = 0.1, (0.003, 3.0)

#: Half-widths of intervals, FA and MD in um^2/ms: those of an untrained network, and by how much
#: they differ from these at most, as a logarithm.
TYPICAL_WIDTH, LARGEST_LOG_WIDTH = 0.05, 4.0

#: The median absolute deviation of a normal variable times this is its standard deviation.
MAD_TO_SIGMA = 1.4826

#: Largest detail that turns the components, in standard deviations: beyond are edges and vessels.
LARGEST_DETAIL = 4.0

#: Signals count as at least this where noise is divided by them, in units of the mean b=0.
LEAST_SIGNAL = 0.03


class TensorInputs(NamedTuple):
    """A batch of scans, or of blocks of scans.

    Attributes
    ----------
    s0
        Shape (B, 1, X, Y, Z): b=0 image over its mean within the brain.
    ratios
        Shape (B, N, X, Y, Z): weighted images over the b=0 image, voxel by voxel.
    q
        Shape (B, N, 4): unit b-vectors in the frame of the voxel axes, b in ms/um^2.
    mask
        Shape (B, 1, X, Y, Z): 1 inside the brain, 0 outside, float.
    noise
        Shape (B, 1, X, Y, Z): standard deviation of a weighted image's noise, in units of `s0`.
    n_b0
        Shape (B,): number of volumes that `s0` is the mean of.
    voxel_mm
        Shape (B, 3): voxel size.
    intensity
        Shape (B, 2): mean and standard deviation of b=0 and weighted images together within the
        brain of the scan, in units of `s0`, for networks that read standardised images.
    """

    s0: Tensor
    ratios: Tensor
    q: Tensor
    mask: Tensor
    noise: Tensor
    n_b0: Tensor
    voxel_mm: Tensor
    intensity: Tensor = torch.tensor([[0.0, 1.0]])

    def map(self, change: Callable[[Tensor], Tensor]) -> TensorInputs:
        """Return the result of a function of every tensor."""
        return TensorInputs(*(change(tensor) for tensor in self))

    def map_images(self, change: Callable[[Tensor], Tensor]) -> TensorInputs:
        """Return the result of a function of the images; the other tensors are kept."""
        return self.map(lambda t: change(t) if t.ndim == 5 else t)

    def to(self, device: torch.device | str) -> TensorInputs:
        """Return the batch on a device."""
        return self.map(lambda t: t.to(device))

    @classmethod
    def join(cls, parts: Sequence[TensorInputs]) -> TensorInputs:
        """Return one batch of several."""
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))


class TensorEstimate(NamedTuple):
    """Output of a tensor network.

    Attributes
    ----------
    tensor
        Shape (B, 6, X, Y, Z), um^2/ms, order xx, xy, xz, yy, yz, zz, in the frame of the
        b-vectors that went in; zero outside the mask.
    width
        Shape (B, 2, X, Y, Z): half-widths of the intervals that hold nine in ten errors of FA
        and of MD (um^2/ms), before calibration. None if the network gives none.
    code
        Shape (B, C, X', Y', Z'): features of a coarser grid. None if the network gives none.
    """

    tensor: Tensor
    width: Tensor | None = None
    code: Tensor | None = None


def tensor_inputs(
    data: NDArray[np.float32],
    gtab: GradientTable,
    mask: NDArray[np.bool_],
    affine: ArrayLike,
    *,
    noise: ArrayLike | None = None,
) -> TensorInputs:
    """Turn the volumes of a scan into the input of a tensor network, a batch of one.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N): b=0 volumes, which are averaged, and weighted ones.
    gtab
        Gradient table of the volumes.
    mask
        Shape (X, Y, Z): the brain. Voxels without b=0 signal leave it.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    noise
        Shape (X, Y, Z): standard deviation of one volume's noise, in the units of `data`. None:
        one number is estimated from the images, see :func:`estimate_noise`.
    """
    g = gtab.bvecs_ras @ rotation_part(affine)
    q = np.concatenate([g, gtab.bvals[:, None] / 1000.0], axis=1)
    voxel_mm = np.linalg.norm(np.asarray(affine, dtype=np.float64)[:3, :3], axis=0)
    return batch_inputs(
        torch.from_numpy(np.ascontiguousarray(np.moveaxis(data, 3, 0), dtype=np.float32))[None],
        torch.from_numpy(q.astype(np.float32))[None],
        torch.from_numpy(np.ascontiguousarray(mask, dtype=np.float32))[None, None],
        torch.from_numpy(voxel_mm.astype(np.float32))[None],
        is_b0=gtab.is_b0,
        noise=None if noise is None else torch.from_numpy(np.array(noise, np.float32))[None, None],
    )


def batch_inputs(
    signal: Tensor,
    q: Tensor,
    mask: Tensor,
    voxel_mm: Tensor,
    *,
    is_b0: NDArray[np.bool_],
    noise: Tensor | None = None,
) -> TensorInputs:
    """Turn a batch of scans into the input of a tensor network.

    Parameters
    ----------
    signal
        Shape (B, N, X, Y, Z), scanner units.
    q
        Shape (B, N, 4): unit b-vectors in the frame of the voxel axes, b in ms/um^2.
    mask
        Shape (B, 1, X, Y, Z): the brain. Voxels without b=0 signal leave it.
    voxel_mm
        Shape (B, 3).
    is_b0
        Shape (N,): which volumes are b=0, in all scans.
    noise
        Shape (B, 1, X, Y, Z): standard deviation of one volume's noise, scanner units. None: one
        number for each scan, see :func:`estimate_noise`.
    """
    where = torch.from_numpy(is_b0).to(signal.device)
    b0 = signal[:, where].mean(dim=1, keepdim=True)
    mask = mask * (b0 > 0)
    ratios = signal[:, ~where] / torch.where(mask > 0, b0, 1.0) * mask
    volume = mask.sum(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1.0)
    mean = (b0 * mask).sum(dim=(1, 2, 3, 4), keepdim=True) / volume
    scale = torch.where(mean > 0, mean, 1.0)
    s0 = b0 * mask / scale
    if noise is None:
        level = estimate_noise(ratios * s0, mask)[:, None, None, None, None] * mask
    else:
        level = noise / scale * mask
    return TensorInputs(
        s0=s0,
        ratios=ratios,
        q=q[:, ~where],
        mask=mask,
        noise=level,
        n_b0=torch.full_like(mean[:, 0, 0, 0, 0], float(is_b0.sum())),
        voxel_mm=voxel_mm,
        intensity=_intensity(torch.cat([s0, ratios * s0], dim=1), mask),
    )


def _intensity(images: Tensor, mask: Tensor) -> Tensor:
    """Return mean and deviation (B, 2) of images (B, N, X, Y, Z) within a mask; 0, 1 if empty."""
    count = (images.shape[1] * mask.sum(dim=(1, 2, 3, 4))).clamp(min=1.0)
    mean = (images * mask).sum(dim=(1, 2, 3, 4)) / count
    apart = (images - mean[:, None, None, None, None]) * mask
    deviation = (apart.square().sum(dim=(1, 2, 3, 4)) / count).sqrt()
    return torch.stack([mean, torch.where(deviation > 0, deviation, 1.0)], dim=1)


def turn_tensors(tensor: Tensor, rotation: ArrayLike) -> Tensor:
    """Return R D R^T of tensors (6, ...), order xx, xy, xz, yy, yz, zz."""
    order = torch.tensor([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
    r = torch.as_tensor(np.asarray(rotation), dtype=tensor.dtype, device=tensor.device)
    turned = torch.einsum("ai,ij...,bj->ab...", r, tensor[order.to(tensor.device)], r)
    i, j = torch.triu_indices(3, 3)
    return turned[i, j]


def fit_least_squares(ratios: Tensor, q: Tensor) -> Tensor:
    """Fit tensors to ln(S/S0) by ordinary least squares.

    Parameters
    ----------
    ratios
        Shape (B, N, X, Y, Z): S/S0, clipped to :data:`RATIO_RANGE`.
    q
        Shape (B, N, 4): unit g in the frame of the result, and b in ms/um^2.

    Returns
    -------
    Tensor
        Shape (B, 6, X, Y, Z), um^2/ms, order xx, xy, xz, yy, yz, zz, clipped to
        plus and minus :data:`LARGEST_ELEMENT`.
    """
    attenuation = -ratios.clamp(*RATIO_RANGE).log()
    tensor = torch.einsum("bin,bnxyz->bixyz", inverse_design(q).to(ratios.dtype), attenuation)
    return tensor.clamp(-LARGEST_ELEMENT, LARGEST_ELEMENT)


def inverse_design(q: Tensor) -> Tensor:
    """Return the inverse of the design matrix, (B, 6, N) in ms/um^2 to um^2/ms, double precision.

    Parameters
    ----------
    q
        Shape (B, N, 4): unit g, and b in ms/um^2.
    """
    x, y, z, b = q.to(torch.float64).unbind(-1)
    design = torch.stack(quadratic_columns(x, y, z), dim=-1)
    inverse: Tensor = torch.linalg.pinv(design * b[..., None])
    return inverse


def least_squares_deviation(inputs: TensorInputs) -> Tensor:
    """Return the standard deviation that noise gives each least-squares element.

    To first order, var(ln S/S0) is (noise/S)^2 for each image, and (noise/S0)^2 over the number
    of b=0 volumes for all images together (Salvador et al. 2005, doi:10.1002/hbm.20076).

    Returns
    -------
    Tensor
        Shape (B, 6, X, Y, Z), um^2/ms.
    """
    inverse = inverse_design(inputs.q).to(inputs.ratios.dtype)
    noise = inputs.noise
    signal = inputs.ratios.clamp(*RATIO_RANGE) * inputs.s0
    own = (noise / signal.clamp(min=LEAST_SIGNAL)).square()
    shared = (noise / inputs.s0.clamp(min=LEAST_SIGNAL)).square()
    shared = shared / inputs.n_b0[:, None, None, None, None]
    variance = torch.einsum("bin,bnxyz->bixyz", inverse.square(), own)
    variance = variance + inverse.sum(dim=2).square()[..., None, None, None] * shared
    return variance.sqrt()


def log_share(deviation: Tensor) -> Tensor:
    """Return deviations as logarithms, so that a factor between scans is a step.

    In units of :data:`TYPICAL_DEVIATION`, clipped to :data:`DEVIATION_LIMITS`.
    """
    return (deviation.clamp(*DEVIATION_LIMITS) / TYPICAL_DEVIATION).log()


def half_widths(log_width: Tensor, mask: Tensor) -> Tensor:
    """Return half-widths (B, 2, X, Y, Z) of the intervals of FA and MD, um^2/ms."""
    bounded = log_width.clamp(-LARGEST_LOG_WIDTH, LARGEST_LOG_WIDTH)
    return TYPICAL_WIDTH * bounded.exp() * mask


def mean_diffusivity(tensor: Tensor) -> Tensor:
    """Return the mean diffusivity (B, 1, X, Y, Z) of tensors (B, 6, X, Y, Z)."""
    return tensor[:, DIAGONAL].mean(dim=1, keepdim=True)


def tensor_fa(tensor: Tensor) -> Tensor:
    """Return the fractional anisotropy (B, X, Y, Z) of tensors (B, 6, X, Y, Z).

    Differentiable; above one where eigenvalues are negative.
    """
    xx, xy, xz, yy, yz, zz = tensor.unbind(1)
    mean = (xx + yy + zz) / 3
    mixed = 2 * (xy.square() + xz.square() + yz.square())
    deviator = (xx - mean).square() + (yy - mean).square() + (zz - mean).square() + mixed
    whole = xx.square() + yy.square() + zz.square() + mixed
    return (1.5 * (deviator + 1e-6) / (whole + 1e-4)).sqrt()


def estimate_noise(images: Tensor, mask: Tensor) -> Tensor:
    """Estimate the noise of each scan from the finest diagonal detail of its images.

    Anatomy has such detail too, at voxels of 3 mm or more several times as much as noise; but
    images share it and do not share noise. So the detail is split into principal components over
    the images, and the third that holds least counts.

    Parameters
    ----------
    images
        Shape (B, N, X, Y, Z).
    mask
        Shape (B, 1, X, Y, Z), 1 inside the brain.

    Returns
    -------
    Tensor
        Shape (B,): standard deviation in the units of `images`; 0 where no 2^3 cube lies inside
        the mask. Correlated noise looks less than it is.
    """
    detail, inside = images, mask[:, 0] > 0
    for axis in (-3, -2, -1):
        detail = detail.diff(dim=axis) / 2.0**0.5
        n = max(inside.shape[axis] - 1, 0)
        inside = inside.narrow(axis, 0, n) & inside.narrow(axis, inside.shape[axis] - n, n)
    sigmas = [_least_shared(d[:, w]) for d, w in zip(detail, inside, strict=True)]
    return torch.stack(sigmas)


def _least_shared(detail: Tensor) -> Tensor:
    """Return the robust deviation of the components that (N, M) images share least, or 0."""
    if not detail.shape[1]:
        return detail.sum()
    limit = LARGEST_DETAIL * MAD_TO_SIGMA * detail.abs().median(dim=1, keepdim=True).values
    bounded = detail.clamp(-limit, limit).double()
    _, axes = torch.linalg.eigh(bounded @ bounded.T)
    parts = axes.T.to(detail.dtype) @ detail
    sigmas = MAD_TO_SIGMA * parts.abs().median(dim=1).values
    least: Tensor = sigmas.sort().values[: max(1, len(sigmas) // 3)].mean()
    return least
