"""Small networks from what is measured to what is estimated of each voxel, and their training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.feature_cache import digest
from dmri_fm_lab.review.patches import (
    Purpose,
    TruePatches,
    generator_of,
    measure,
    over_b0,
    seed_of,
    sigma_of,
)
from dmri_fm_lab.train.config import Optimisation
from dmri_fm_lab.train.loop import Sample, run_training

#: Channels by side of the kernel, about 50,000 weights each: voxel by voxel, or in context.
WIDTHS = {1: 128, 3: 28}

#: Patches of a step.
BATCH = 4


class VoxelNetwork(nn.Module):
    """Four layers of convolutions: with kernels of one voxel, an MLP of each voxel by itself.

    Parameters
    ----------
    n_in, n_out
        Numbers of a voxel that go in and out.
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

    def forward(self, inputs: Tensor) -> Tensor:
        """Map numbers (P, N, ...) to numbers (P, K, ...)."""
        found: Tensor = self.output(self.body(inputs))
        return found

    def codes(self, inputs: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the last layer's input over the brain of each patch, (P, width)."""
        inside = mask[:, None].float()
        features: Tensor = (self.body(inputs) * inside).sum(dim=(2, 3, 4))
        return features / inside.sum(dim=(2, 3, 4))


def new_network(n_in: int, n_out: int, seed: int, *, kernel: int = 1) -> VoxelNetwork:
    """Return a network whose initial weights depend on the seed alone."""
    state = seed_of(seed, Purpose.WEIGHTS).generate_state(1)
    torch.manual_seed(int(state[0]))
    return VoxelNetwork(n_in, n_out, kernel=kernel)


class Step(NamedTuple):
    """What a loss sees of a step of P patches.

    The truth, the images (P, N, E, E, E) and the deviation of their noise (P,), scanner units, and
    the patches' numbers (P,).
    """

    truth: TruePatches
    images: Tensor
    sigma: Tensor
    numbers: Tensor


class Loss(NamedTuple):
    """Error of a network's output (P, K, ...) in a step, and its name."""

    name: str
    error: Callable[[Tensor, Step], Tensor]


class Recipe(NamedTuple):
    """Training data: patches, volumes, range of SNR (log-uniform), steps, and the seed."""

    patches: TruePatches
    gtab: GradientTable
    snr: tuple[float, float]
    n_steps: int
    seed: int


def train(network: VoxelNetwork, loss: Loss, recipe: Recipe, folder: Path) -> VoxelNetwork:
    """Train a network on images over their measured b=0, with new noise in every step.

    A folder with a finished run of the same recipe is read back.

    Raises
    ------
    ConfigError
        If the folder holds a run of another recipe.
    """
    low, high = torch.tensor(recipe.snr).log()

    def draw(number: int) -> Step:
        generator = generator_of(recipe.seed, Purpose.TRAINING, number)
        index = torch.randint(len(recipe.patches), (BATCH,), generator=generator)
        snr = torch.exp(low + (high - low) * torch.rand(BATCH, generator=generator))
        truth = recipe.patches.select(index)
        images = measure(truth, recipe.gtab, snr, generator)
        return Step(truth, images, sigma_of(truth, snr), index)

    return train_on(
        network,
        draw,
        lambda wrapped, step: loss.error(wrapped(over_b0(step.images)), step),
        n_steps=recipe.n_steps,
        seed=recipe.seed,
        folder=folder,
        identity={
            "loss": loss.name,
            "patches": digest(*(getattr(recipe.patches, f.name) for f in fields(TruePatches))),
            "gradients": digest(recipe.gtab.bvals, recipe.gtab.bvecs_ras),
            "snr": list(recipe.snr),
            "batch": BATCH,
        },
    )


def train_on(
    network: VoxelNetwork,
    draw: Callable[[int], Sample],
    error: Callable[[nn.Module, Sample], Tensor],
    *,
    n_steps: int,
    seed: int,
    folder: Path,
    identity: dict[str, Any],
) -> VoxelNetwork:
    """Train a network on what `draw` gives for the number of a step, or read it back.

    `identity` holds, in plain types, all that determines the training beside steps, seed and the
    initial weights: a folder of another one is refused with ConfigError.
    """
    settings = Optimisation(
        n_steps=n_steps,
        warmup_steps=n_steps // 20,
        learning_rate=3e-3,
        final_learning_rate=1e-5,
        average_decay=0.98,
        seed=seed,
    )
    run = run_training(
        network,
        draw,
        lambda wrapped, sample, _: {"loss": error(wrapped, sample)},
        settings=settings,
        folder=folder,
        data={"initial_weights": digest(*network.state_dict().values()), **identity},
    )
    trained = run.model
    assert isinstance(trained, VoxelNetwork)
    return trained.eval().requires_grad_(False)
