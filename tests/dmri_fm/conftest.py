"""Directions, and random inputs of the tensor networks."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.tensor_networks.inputs import TensorInputs


@pytest.fixture
def vectors() -> np.ndarray:
    """Give twelve unit vectors."""
    directions = np.random.default_rng(4).normal(size=(12, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions


@pytest.fixture
def draw_inputs():
    """Return a function that draws a batch; the first two planes lie outside the mask."""

    def draw(*, n=6, side=8, batch=1, seed=0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        shape = (side, side, side)
        s0 = 0.5 + torch.rand(batch, 1, *shape, generator=generator)
        ratios = 0.1 + 0.8 * torch.rand(batch, n, *shape, generator=generator)
        g = functional.normalize(torch.randn(batch, n, 3, generator=generator), dim=-1)
        g[:, :6] = torch.tensor(SKARE_DIRECTIONS.tolist())
        mask = torch.ones(batch, 1, *shape)
        mask[:, :, :2] = 0.0
        return TensorInputs(
            s0=s0 * mask,
            ratios=ratios * mask,
            q=torch.cat([g, 1.0 + torch.rand(batch, n, 1, generator=generator)], dim=-1),
            mask=mask,
            noise=0.05 * mask,
            n_b0=torch.ones(batch),
            voxel_mm=torch.full((batch, 3), 2.0),
            intensity=torch.tensor([[0.5, 0.3]]).repeat(batch, 1),
        ).map(lambda t: t.to(dtype))

    return draw


@pytest.fixture
def overfit(draw_inputs):
    """Return a function that trains on one batch; first and last mean squared error."""

    def train(model):
        inputs = draw_inputs()
        generator = torch.Generator().manual_seed(5)
        truth = torch.rand(1, 6, 8, 8, 8, generator=generator) * inputs.mask
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        losses = []
        for _ in range(600):
            loss = (model(inputs).tensor - truth).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        return losses[0], losses[-1]

    return train
