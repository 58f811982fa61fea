"""Denoising of a few images by local principal components, batched and on any device.

In a small window few principal components over the images hold signal, all hold noise (Manjon et
al. 2013, doi:10.1371/journal.pone.0073021; Veraart et al. 2016,
doi:10.1016/j.neuroimage.2016.08.016). Here the noise is known, so that components beyond the
Marchenko-Pastur edge are kept, shrunk to their expected share of signal, and no others.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

#: Side of a window, voxels.
WINDOW = 5

#: Distance of neighbouring windows, voxels.
STEP = 2

#: Images are not divided by less noise than this, in their own units.
LEAST_NOISE = 1e-3


def denoise_locally(images: Tensor, mask: Tensor, sigma: Tensor) -> Tensor:
    """Shrink the local principal components of images to their share of signal.

    Parameters
    ----------
    images
        Shape (B, N, X, Y, Z).
    mask
        Shape (B, 1, X, Y, Z): 1 where voxels count, else 0.
    sigma
        Shape (B, N, X, Y, Z), or one that broadcasts to it: standard deviation of the noise of
        each image, in its units.

    Returns
    -------
    Tensor
        Shape (B, N, X, Y, Z); zero outside the mask. Windows that hold fewer voxels of the mask
        than images are not changed.
    """
    n_images, sides = images.shape[1], images.shape[2:]
    scale = sigma.clamp(min=LEAST_NOISE)
    white = images / scale * mask
    row, column = torch.triu_indices(n_images, n_images, device=images.device)
    count = _window_sums(mask)
    mean = _window_sums(white) / count.clamp(min=1.0)
    products = _window_sums(white[:, row] * white[:, column]) / count.clamp(min=1.0)
    covariance = _square(products - mean[:, row] * mean[:, column], n_images)
    values, vectors = torch.linalg.eigh(covariance)
    edge = (1.0 + (n_images / count.clamp(min=1.0)).sqrt()).square()[:, 0, ..., None]
    gain = torch.where(values > edge, 1.0 - 1.0 / values.clamp(min=1.0), 0.0)
    gain = torch.where(count[:, 0, ..., None] > n_images, gain, 1.0)
    operator = torch.einsum("bxyzik,bxyzk,bxyzjk->bxyzij", vectors, gain, vectors)
    # A window maps s to mean + operator (s - mean); a voxel gets the average of its windows' maps.
    constant = mean - torch.einsum("bxyzij,bjxyz->bixyz", operator, mean)
    maps = torch.cat([rearrange(operator, "b x y z i j -> b (i j) x y z"), constant], dim=1)
    fine = _between_windows(maps, sides)
    matrix = rearrange(fine[:, : n_images**2], "b (i j) x y z -> b i j x y z", i=n_images)
    out = torch.einsum("bijxyz,bjxyz->bixyz", matrix, white) + fine[:, n_images**2 :]
    return out * mask * scale


def _window_sums(images: Tensor) -> Tensor:
    """Return sums (B, C, X', Y', Z') over windows around every second voxel of each axis."""
    for axis in (2, 3, 4):
        size, stride, pad = [1, 1, 1], [1, 1, 1], [0, 0, 0]
        size[axis - 2], stride[axis - 2], pad[axis - 2] = WINDOW, STEP, WINDOW // 2
        images = WINDOW * functional.avg_pool3d(images, tuple(size), tuple(stride), tuple(pad))
    return images


def _square(upper: Tensor, n: int) -> Tensor:
    """Return symmetric matrices (B, X, Y, Z, n, n) from upper triangles (B, C, X, Y, Z)."""
    row, column = torch.triu_indices(n, n, device=upper.device)
    full = upper.new_zeros(upper.shape[0], *upper.shape[2:], n, n)
    full[..., row, column] = upper.movedim(1, 4)
    full[..., column, row] = upper.movedim(1, 4)
    return full


def _between_windows(maps: Tensor, sides: torch.Size) -> Tensor:
    """Average neighbouring windows and interpolate between their centres, (B, C, X, Y, Z)."""
    maps = functional.avg_pool3d(maps, 3, 1, 1, count_include_pad=False)
    size = [STEP * (n - 1) + 1 for n in maps.shape[2:]]
    fine = functional.interpolate(maps, size=size, mode="trilinear", align_corners=True)
    missing = [want - have for want, have in zip(sides, size, strict=True)]
    pad = [p for n in reversed(missing) for p in (0, n)]
    return functional.pad(fine, pad, mode="replicate") if any(missing) else fine
