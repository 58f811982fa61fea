"""Random smooth fields and lookups, batched in torch, on any device.

Arrays are (B, C, X, Y, Z). Everything random comes from one generator, on whose device the
results lie: the same seed gives the same numbers on the same type of device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Side of a cube of periodic noise, cells; its features are about three cells wide.
NOISE_CELLS = 48

#: Variance of a cubic B-spline field with unit coefficients, per axis.
_SPLINE_VARIANCE = 0.4794

#: Points that one thread looks up together.
_POINTS_PER_THREAD = 2**13


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Scale vectors along an axis to length one; zero stays zero."""
    return vectors * vectors.square().sum(dim=dim, keepdim=True).clamp(min=1e-20).rsqrt()


def uniform(
    generator: torch.Generator, low: float | Tensor, high: float | Tensor, *shape: int
) -> Tensor:
    """Draw uniform numbers between `low` and `high`, which broadcast against the shape."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def log_uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Draw numbers whose logarithm is uniform."""
    ends = torch.tensor([low, high], device=generator.device).log()
    return uniform(generator, ends[0], ends[1], *shape).exp()


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=generator, device=generator.device)


def random_rotations(generator: torch.Generator, *shape: int) -> Tensor:
    """Draw rotations, uniform over all, shape (*shape, 3, 3)."""
    w, x, y, z = F.normalize(normal(generator, *shape, 4), dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def small_rotations(vectors_rad: Tensor) -> Tensor:
    """Return the rotations about vectors (..., 3) by their lengths, shape (..., 3, 3)."""
    x, y, z = vectors_rad.unbind(-1)
    o = torch.zeros_like(x)
    skew = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).reshape(*x.shape, 3, 3)
    rotations: Tensor = torch.linalg.matrix_exp(skew)
    return rotations


def grid_mm(shape: tuple[int, int, int], affine: Tensor) -> Tensor:
    """Return where voxels lie under affines (B, 4, 4), shape (B, 3, X, Y, Z)."""
    out = affine[:, :3, 3].reshape(-1, 3, 1, 1, 1)
    for axis, n in enumerate(shape):
        size = [1, 1, 1, 1, 1]
        size[2 + axis] = n
        index = torch.arange(n, device=affine.device, dtype=affine.dtype).reshape(size)
        out = out + affine[:, :3, axis].reshape(-1, 3, 1, 1, 1) * index
    return out


def voxel_sizes(affine: Tensor) -> Tensor:
    """Return the voxel sizes of affines (B, 4, 4), shape (B, 3)."""
    sizes: Tensor = affine[:, :3, :3].square().sum(dim=1).sqrt()
    return sizes


def smooth_fields(
    generator: torch.Generator,
    shape: tuple[int, int, int],
    *,
    spacing: Tensor,
    n_channels: int = 1,
) -> Tensor:
    """Draw smooth random fields: cubic B-splines with normal coefficients.

    Parameters
    ----------
    generator
        Source of randomness.
    shape
        X, Y, Z.
    spacing
        Shape (B, 3): distance of the control points, voxels.
    n_channels
        Independent fields per sample.

    Returns
    -------
    Tensor
        Shape (B, n_channels, X, Y, Z), mean 0, variance about 1.
    """
    n = len(spacing)
    least = spacing.amin(dim=0).tolist()
    counts = [int(size / step) + 4 for size, step in zip(shape, least, strict=True)]
    field = normal(generator, n, n_channels, *counts) / _SPLINE_VARIANCE**1.5
    start = uniform(generator, 0.0, 1.0, n, 3)
    for axis, size in enumerate(shape):
        position = torch.arange(size, device=spacing.device) / spacing[:, axis, None]
        position = position + start[:, axis, None]
        control = torch.arange(counts[axis], device=spacing.device)
        t = (position[:, :, None] - control + 1).abs()
        basis = torch.where(t < 1, 2 / 3 - t * t + t**3 / 2, (2 - t).clamp(min=0) ** 3 / 6)
        moved = torch.matmul(field.movedim(2 + axis, -1), basis.mT[:, None, None])
        field = moved.movedim(-1, 2 + axis)
    smooth: Tensor = field.contiguous()
    return smooth


def sample_voxels(volume: Tensor, where: Tensor) -> Tensor:
    """Interpolate volumes linearly at voxel positions; zero outside.

    Parameters
    ----------
    volume
        Shape (B, C, X, Y, Z), or one for all, shape (1, C, X, Y, Z).
    where
        Shape (B, 3, ...): positions, voxels; three axes after the third number.

    Returns
    -------
    Tensor
        Shape (B, C, ...).
    """
    size = torch.tensor(volume.shape[2:], device=where.device, dtype=where.dtype)
    # From -1 to 1, the last axis first.
    scale = (2 / (size - 1)).flip(0).reshape(3, *[1] * (where.ndim - 2))
    scaled = where.flip(1).mul_(scale).sub_(1)
    return F.grid_sample(
        volume.expand(len(where), -1, -1, -1, -1),
        scaled.movedim(1, -1),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=True,
    )


def noise_cubes(generator: torch.Generator, n: int, *, n_channels: int) -> Tensor:
    """Draw periodic cubes of smooth noise, variance 1, for :func:`sample_points`."""
    side = NOISE_CELLS
    frequency = torch.fft.fftfreq(side, device=generator.device)
    # A Gaussian of 1.5 cells, in the frequency domain.
    gain = torch.exp(-2 * (torch.pi * 1.5 * frequency) ** 2)
    noise = normal(generator, n, n_channels, side, side, side)
    spectrum = torch.fft.rfftn(noise, dim=(2, 3, 4))
    spectrum = spectrum * gain[:, None, None] * gain[:, None] * gain[: side // 2 + 1]
    noise = torch.fft.irfftn(spectrum, s=(side,) * 3, dim=(2, 3, 4))
    noise = noise / noise.std(dim=(2, 3, 4), keepdim=True)
    return F.pad(noise, (0, 1) * 3, mode="circular")


def sample_points(cubes: Tensor, cells: Tensor) -> Tensor:
    """Look cubes (C, ...) of periodic noise up at points (3, V), cells; shape (C, V)."""
    n = cells.shape[1]
    # On a CPU, grid_sample works on the samples of a batch side by side, but on one thread each.
    cells = F.pad(cells, (0, -n % _POINTS_PER_THREAD)).remainder_(NOISE_CELLS)
    cells = cells.reshape(3, -1, _POINTS_PER_THREAD, 1, 1).movedim(1, 0)
    values = sample_voxels(cubes[None], cells)
    return values.movedim(0, 1).reshape(len(cubes), -1)[:, :n]
