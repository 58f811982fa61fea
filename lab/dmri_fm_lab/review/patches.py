"""Patches of true tensors, and images of them with Rician noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate import draw_batch, draw_protocol

#: Patches that are drawn at a time.
_AT_A_TIME = 8

#: Least share of a patch that lies in the brain.
_LEAST_BRAIN = 0.5


@dataclass(frozen=True, eq=False)
class TruePatches:
    """Tensors of P cubes of brain, without noise.

    Attributes
    ----------
    tensor
        Shape (P, 6, E, E, E), um^2/ms, order xx, xy, xz, yy, yz, zz, along the voxel axes; zero
        outside the mask.
    mask
        Shape (P, E, E, E), bool: the brain.
    """

    tensor: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def select(self, index: Tensor) -> TruePatches:
        """Return some of the patches."""
        return TruePatches(self.tensor[index], self.mask[index])


def draw_patches(seed: int, n: int, *, edge: int = 16) -> TruePatches:
    """Draw cubes out of simulated brains; those that hold little brain are drawn again.

    Tissue, pose and voxel size are those of the simulation that the packaged networks are trained
    on; of its signal only the tensor is kept, so that the tensor model is exact here.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    tensors: list[Tensor] = []
    masks: list[Tensor] = []
    while sum(map(len, masks)) < n:
        gtabs = [draw_protocol(rng, scheme="skare6", bvals=1000) for _ in range(_AT_A_TIME)]
        drawn = draw_batch(generator, gtabs, shape=(edge, edge, edge))
        assert drawn.truth_tensor is not None
        enough = drawn.mask.float().mean(dim=(1, 2, 3)) >= _LEAST_BRAIN
        tensors.append(1e3 * drawn.truth_tensor[enough])
        masks.append(drawn.mask[enough])
    return TruePatches(torch.cat(tensors)[:n].float(), torch.cat(masks)[:n])


def signal_of(tensor: Tensor, gtab: GradientTable) -> Tensor:
    """Return S/S0 (P, N, ...) of tensors (P, 6, ...), um^2/ms, along the table's axes."""
    g = torch.tensor(gtab.bvecs_ras, dtype=tensor.dtype)
    x, y, z = g.T
    b = torch.tensor(gtab.bvals, dtype=tensor.dtype) / 1000
    design = b[:, None] * torch.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z], 1)
    return torch.exp(-torch.einsum("nk,pk...->pn...", design, tensor))


def measure(
    patches: TruePatches, gtab: GradientTable, snr: Tensor, generator: torch.Generator
) -> Tensor:
    """Return images (P, N, E, E, E) with Rician noise, S0 = 1 in the brain, 0 outside.

    Parameters
    ----------
    patches
        What is measured.
    gtab
        The N volumes.
    snr
        Shape (P,): signal at b=0 over the deviation of the noise in either channel.
    generator
        Source of randomness.
    """
    inside = patches.mask[:, None]
    clean = signal_of(patches.tensor, gtab)
    sigma = (1.0 / snr)[:, None, None, None, None]
    real, imaginary = (sigma * torch.randn(clean.shape, generator=generator) for _ in range(2))
    return torch.hypot(clean + real, imaginary) * inside
