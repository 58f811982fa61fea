"""Small networks from images to what is estimated of each voxel, and their training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.review.patches import TruePatches, measure
from dmri_fm_lab.train.config import Optimisation
from dmri_fm_lab.train.loop import run_training

#: Channels by side of the kernel, about 50,000 weights each: voxel by voxel, or in context.
WIDTHS = {1: 128, 3: 28}

#: Patches of a step.
BATCH = 4


class VoxelNetwork(nn.Module):
    """Four layers of convolutions: with kernels of one voxel, an MLP of each voxel by itself.

    Parameters
    ----------
    n_in, n_out
        Images, and numbers of a voxel.
    kernel
        Side of the kernels of the first three layers: 1 or 3.
    """

    def __init__(self, n_in: int, n_out: int, *, kernel: int = 1) -> None:
        super().__init__()
        width = WIDTHS[kernel]
        layers: list[nn.Module] = []
        for channels in (n_in, width, width):
            layers += [nn.Conv3d(channels, width, kernel, padding=kernel // 2), nn.GELU()]
        self.body = nn.Sequential(*layers)
        self.output = nn.Conv3d(width, n_out, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (P, N, ...) to numbers (P, K, ...)."""
        found: Tensor = self.output(self.body(images))
        return found

    def codes(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the last layer's input over the brain of each patch, (P, width)."""
        inside = mask[:, None].float()
        features: Tensor = (self.body(images) * inside).sum(dim=(2, 3, 4))
        return features / inside.sum(dim=(2, 3, 4))


class Step(NamedTuple):
    """What a loss sees of a step of P patches.

    The truth, the images, the deviation of their noise (P,), and the patches' numbers (P,).
    """

    truth: TruePatches
    images: Tensor
    sigma: Tensor
    numbers: Tensor


#: Error of a network's output (P, K, ...) in a step.
Loss = Callable[[Tensor, Step], Tensor]


class Recipe(NamedTuple):
    """Training data: patches, volumes, range of SNR (log-uniform), steps, and the seed."""

    patches: TruePatches
    gtab: GradientTable
    snr: tuple[float, float]
    n_steps: int
    seed: int


def train(network: VoxelNetwork, loss: Loss, recipe: Recipe, folder: Path) -> VoxelNetwork:
    """Train a network on new noise in every step; a folder with a finished run is read back."""
    low, high = torch.tensor(recipe.snr).log()

    def draw(number: int) -> Step:
        generator = torch.Generator().manual_seed(1_000_003 * recipe.seed + number)
        index = torch.randint(len(recipe.patches), (BATCH,), generator=generator)
        snr = torch.exp(low + (high - low) * torch.rand(BATCH, generator=generator))
        truth = recipe.patches.select(index)
        return Step(truth, measure(truth, recipe.gtab, snr, generator), 1.0 / snr, index)

    settings = Optimisation(
        n_steps=recipe.n_steps,
        warmup_steps=recipe.n_steps // 20,
        learning_rate=3e-3,
        final_learning_rate=1e-5,
        average_decay=0.98,
        seed=recipe.seed,
    )
    run = run_training(
        network,
        draw,
        lambda wrapped, step, _: {"loss": loss(wrapped(step.images), step)},
        settings=settings,
        folder=folder,
    )
    trained = run.model
    assert isinstance(trained, VoxelNetwork)
    return trained.eval().requires_grad_(False)
