"""Patches that are interpolated as the app does it."""

import numpy as np
import pytest
import torch

from dmri_fm_lab.train.raw_patch import MARGIN, RawPatch
from dmri_fm_lab.train.tensor_training import draw_tensor_batch

SIDE = 24


def make_patch(*, sigma=1.0, seed=0):
    rng = np.random.default_rng(seed)
    shape = (SIDE + MARGIN,) * 3
    noisy = 1000 + sigma * rng.standard_normal((7, *shape), dtype=np.float32)
    return RawPatch(
        images=torch.from_numpy(noisy),
        q=torch.cat([torch.zeros(1, 4), torch.eye(3, 4).repeat(2, 1)]),
        is_b0=np.arange(7) == 0,
        n_b0=1,
        mask=torch.ones(shape),
        noise=torch.full(shape, sigma),
        truth=torch.zeros(6, *shape),
        csf=torch.zeros(shape),
        voxel_mm=torch.tensor([2.0, 2.0, 3.0]),
    )


def test_the_noise_of_interpolated_patches_is_as_their_map_says():
    ratios = []
    for seed in range(4):
        patch = make_patch(sigma=5.0, seed=seed)
        moved = patch.interpolated(np.random.default_rng(seed), SIDE)
        inside = moved.mask > 0
        assert inside.float().mean() > 0.6
        # Voxels whose noise is lowered much and little, apart.
        low, high = torch.quantile(moved.noise[inside], torch.tensor([0.2, 0.8]))
        for where in (inside & (moved.noise < low), inside & (moved.noise > high)):
            measured = (moved.images[:, where] - 1000).square().mean().sqrt()
            ratios.append(float(measured / moved.noise[where].square().mean().sqrt()))
    np.testing.assert_allclose(ratios, 1.0, atol=0.03)


def test_crops_and_interpolated_patches_have_one_size():
    patch = make_patch()
    for made in (patch.cropped(SIDE), patch.interpolated(np.random.default_rng(0), SIDE)):
        assert made.images.shape == (7, SIDE, SIDE, SIDE)
        assert made.truth.shape == (6, SIDE, SIDE, SIDE)
        assert made.mask.shape == made.noise.shape == made.csf.shape == (SIDE,) * 3


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_simulated_noise_is_that_of_the_images(share):
    """The map agrees with what the images hold, up to the error that is made of it."""
    ratios = []
    for seed in range(6):
        batch = draw_tensor_batch(
            np.random.default_rng(seed),
            batch=1,
            patch_voxels=16,
            spread_share=0.0,
            interpolated_share=share,
        )
        inputs = batch.inputs
        assert inputs.noise.shape == inputs.mask.shape
        assert not inputs.noise[inputs.mask == 0].any()
        ratios.append(float(inputs.noise[inputs.mask > 0].median()))
    assert 1 / 130 < np.median(ratios) < 1 / 4
