"""One resolution of a pair of distorted images: correction by a field, energy, derivatives.

The notation is that of :mod:`dmri_fm.preprocess.pair_solver`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

#: alpha: weight of the squared gradient of the field against squared intensities.
SMOOTHNESS = 0.002

#: gamma, mm^2: weight of the squared Laplacian of the field. Fields whose sources lie outside the
#: tissue, such as air in the sinuses, have no Laplacian and cost little.
BENDING = 0.6

#: beta: weight of the term that keeps Jacobians between 0 and 2.
BARRIER = 0.01

#: Jacobians stay within this distance of 1; 1 itself is where the barrier is infinite.
LARGEST_STRAIN = 0.97


@dataclass(frozen=True, eq=False)
class PairImage:
    """One distorted image of a pair.

    Attributes
    ----------
    data
        Shape (X, Y, Z), intensities of about 0 to 1.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    axis
        Voxel axis of phase encoding.
    rho
        Displacement along that voxel axis, mm, per mm of the unknown field.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    axis: int
    rho: float


@dataclass(frozen=True, eq=False)
class PairState:
    """Both corrected images and what their derivatives need, at one (field, movement)."""

    first: Tensor
    second: Tensor
    jacobian_first: Tensor
    jacobian_second: Tensor
    raw_first: Tensor
    raw_second: Tensor
    slope_first: Tensor
    slopes_second: Tensor  # (3, X, Y, Z), along the axes of the second image, per voxel
    weight: Tensor
    strain: Tensor

    @property
    def residual(self) -> Tensor:
        return self.weight * (self.first - self.second)


@dataclass(frozen=True, eq=False)
class PairLevel:
    """Images of one resolution, with their derivatives."""

    first: Tensor  # (2, X, Y, Z): intensity, its slope along phase encoding per mm
    second: Tensor  # (4, U, V, W): intensity, its slopes along the three axes per voxel
    base: Tensor  # (X, Y, Z, 3) voxel positions of the grid itself
    points: NDArray[np.float64]  # (X*Y*Z, 3) RAS+ mm
    affine: NDArray[np.float64]
    second_affine: NDArray[np.float64]
    axis: int
    second_axis: int
    rho: tuple[float, float]
    spacing: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape[:3])

    @classmethod
    def build(cls, first: PairImage, second: PairImage, factor: int, *, gain: float) -> PairLevel:
        a, a_affine = _reduced(first.data, first.affine, factor)
        b, b_affine = _reduced(gain * second.data, second.affine, factor)
        spacing = np.linalg.norm(a_affine[:3, :3], axis=0)
        slope = difference(a, first.axis, float(spacing[first.axis]))
        slopes = [difference(b, axis, 1.0) for axis in range(3)]
        axes = [torch.arange(n, dtype=torch.float32) for n in a.shape]
        base = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        points = base.numpy().reshape(-1, 3).astype(np.float64) @ a_affine[:3, :3].T
        return cls(
            torch.stack([a, slope]),
            torch.stack([b, *slopes]),
            base,
            points + a_affine[:3, 3],
            a_affine,
            b_affine,
            first.axis,
            second.axis,
            (first.rho, second.rho),
            spacing,
        )

    def evaluate(self, displacement: Tensor, xfm: NDArray[np.float64]) -> PairState:
        """Correct both images with a field and a movement."""
        strain = difference(displacement, self.axis, float(self.spacing[self.axis]))
        where = self.base.clone()
        where[..., self.axis] += displacement * (self.rho[0] / float(self.spacing[self.axis]))
        raw_a, slope_a = _sample(self.first, where)
        matrix = np.linalg.inv(self.second_affine) @ xfm
        there = self.points @ matrix[:3, :3].T + matrix[:3, 3]
        where_b = torch.from_numpy(there.astype(np.float32)).reshape(self.base.shape)
        step = float(np.linalg.norm(self.second_affine[:3, self.second_axis]))
        where_b[..., self.second_axis] += displacement * (self.rho[1] / step)
        sampled = _sample(self.second, where_b)
        weight = _inside(where, self.first.shape[1:]) & _inside(where_b, self.second.shape[1:])
        jacobian_a, jacobian_b = 1 + self.rho[0] * strain, 1 + self.rho[1] * strain
        return PairState(
            raw_a * jacobian_a,
            sampled[0] * jacobian_b,
            jacobian_a,
            jacobian_b,
            raw_a,
            sampled[0],
            slope_a,
            sampled[1:],
            weight.float(),
            strain,
        )

    def energy(self, displacement: Tensor, state: PairState) -> float:
        """Return the mean energy per voxel, infinite where a Jacobian leaves (0, 2)."""
        strains = [rho * state.strain for rho in self.rho]
        if max(float(s.abs().max()) for s in strains) >= LARGEST_STRAIN:
            return math.inf
        total = 0.5 * float((state.residual**2).sum(dtype=torch.float64))
        smooth = displacement * roughness(displacement, self.spacing)
        total += 0.5 * float(smooth.sum(dtype=torch.float64))
        for strain in strains:
            total += BARRIER * float(barrier(strain).value.sum(dtype=torch.float64))
        return total / displacement.numel()


def _inside(voxels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Tell which positions lie in the image, half a voxel of rim included."""
    size = torch.tensor(shape, dtype=torch.float32)
    return ((voxels >= -0.5) & (voxels <= size - 0.5)).all(dim=-1)


def _reduced(
    data: NDArray[np.float32], affine: ArrayLike, factor: int
) -> tuple[Tensor, NDArray[np.float64]]:
    """Smooth an image and average it over blocks of factor^3 voxels."""
    image = torch.from_numpy(gaussian_filter(data, 0.5 * math.log2(factor) if factor > 1 else 0.0))
    scaled = np.array(affine, dtype=np.float64)
    if factor > 1:
        pad = [v for n in reversed(image.shape) for v in (0, -n % factor)]
        padded = F.pad(image[None, None], pad, mode="replicate")
        image = F.avg_pool3d(padded, factor)[0, 0]
        scaled[:3, 3] += scaled[:3, :3] @ np.full(3, (factor - 1) / 2)
        scaled[:3, :3] *= factor
    return image, scaled


def _sample(volumes: Tensor, voxels: Tensor) -> Tensor:
    """Interpolate (C, X, Y, Z) trilinearly at voxel positions (..., 3); zero outside."""
    size = torch.tensor(volumes.shape[1:], dtype=torch.float32)
    grid = (2 * voxels + 1) / size - 1
    sampled = F.grid_sample(
        volumes[None], grid.flip(-1)[None], padding_mode="zeros", align_corners=False
    )
    return sampled[0]


def difference(values: Tensor, axis: int, spacing: float) -> Tensor:
    """Return the central difference along an axis, one-sided at the two ends."""
    return torch.gradient(values, spacing=spacing, dim=axis)[0]


def difference_transposed(values: Tensor, axis: int, spacing: float) -> Tensor:
    """Apply the transpose of :func:`difference`."""
    v = values.movedim(axis, 0) / spacing
    out = torch.zeros_like(v)
    out[2:] += 0.5 * v[1:-1]
    out[:-2] -= 0.5 * v[1:-1]
    out[0] -= v[0]
    out[1] += v[0]
    out[-1] += v[-1]
    out[-2] -= v[-1]
    return out.movedim(0, axis)


def laplacian(values: Tensor, spacing: NDArray[np.float64]) -> Tensor:
    """Return minus the Laplacian with free ends: the gradient of 1/2 |grad|^2."""
    out = torch.zeros_like(values)
    for axis in range(3):
        step = torch.diff(values, dim=axis) / float(spacing[axis]) ** 2
        n = values.shape[axis]
        out.narrow(axis, 0, n - 1).sub_(step)
        out.narrow(axis, 1, n - 1).add_(step)
    return out


def roughness(values: Tensor, spacing: NDArray[np.float64]) -> Tensor:
    """Return the gradient of alpha/2 |grad|^2 + gamma/2 (Laplacian)^2."""
    once = laplacian(values, spacing)
    return SMOOTHNESS * once + BENDING * laplacian(once, spacing)


def roughness_diagonal(spacing: NDArray[np.float64]) -> float:
    """Return the diagonal of :func:`roughness`, away from the ends."""
    twice = 2 / spacing**2
    return float(SMOOTHNESS * twice.sum() + BENDING * (twice.sum() ** 2 + 0.5 * (twice**2).sum()))


class Barrier(NamedTuple):
    """phi(z) = z^4 / (1 - z^2), its slope and a positive curvature."""

    value: Tensor
    slope: Tensor
    curvature: Tensor


def barrier(strain: Tensor) -> Barrier:
    """Return phi and its derivatives at a strain."""
    square = strain * strain
    gap = 1 - square
    value = square * square / gap
    slope = strain * square * (4 - 2 * square) / (gap * gap)
    curvature = (12 * square - 6 * square**2 + 2 * square**3) / gap**3
    return Barrier(value, slope, curvature)


def resize_field(field: Tensor, old: int, new: int, shape: tuple[int, ...]) -> Tensor:
    """Interpolate a field between levels; block centres are the sample positions."""
    axes = [
        ((torch.arange(n) + 0.5) * new / old - 0.5).clamp(0, m - 1)
        for n, m in zip(shape, field.shape, strict=True)
    ]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return _sample(field[None], points)[0]
