"""Patches that are interpolated as the app does it."""

import numpy as np
import torch

from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.tensor_networks.inputs import fit_least_squares
from dmri_fm_lab.simulate import batch as batch_module
from dmri_fm_lab.simulate.acquisition import add_noise
from dmri_fm_lab.simulate.batch import draw_batch
from dmri_fm_lab.train.raw_patch import MARGIN, RawPatch

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


def test_simulated_noise_is_that_of_the_images(monkeypatch):
    """Two draws that differ in nothing but noise: their difference is as the map says."""
    ratios = []
    for seed in range(3):
        pair = []
        for k in range(2):
            noise = torch.Generator().manual_seed(10 * seed + k)

            def add(_, signal, noise=noise, **settings):
                return add_noise(noise, signal, **settings)

            monkeypatch.setattr(batch_module, "add_noise", add)
            table = GradientTable(
                np.r_[0.0, np.full(6, 1000.0)], np.r_[[[0, 0, 0]], SKARE_DIRECTIONS]
            )
            generator = torch.Generator().manual_seed(seed)
            pair.append(draw_batch(generator, [table], shape=(24, 24, 24), snr=30.0))
        bright = pair[0].mask[0] & (pair[0].signal[0] > 6 * pair[0].noise[0]).all(dim=0)
        apart = (pair[0].signal - pair[1].signal)[0][:, bright]
        expected = pair[0].noise[0][bright]
        ratios.append(float((apart / expected).std() / 2**0.5))
    # Sums of squares of three coils are a little steadier than one.
    np.testing.assert_allclose(ratios, 1.0, atol=0.06)


def test_truth_and_images_are_interpolated_alike():
    """Of a tensor that varies in space, the images' own fit is the truth, brain edge included."""
    patch = make_patch(sigma=0.0)
    shape = patch.mask.shape
    x, y, z = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    md = 0.8 + 0.3 * torch.sin(x / 1.7) * torch.sin(y / 1.9) * torch.cos(z / 2.1)
    g = torch.tensor(SKARE_DIRECTIONS.tolist())
    q = torch.cat([torch.zeros(1, 4), torch.cat([g, torch.ones(6, 1)], dim=1)])
    images = torch.cat([torch.ones(1, *shape), torch.exp(-md).repeat(6, 1, 1, 1)])
    diagonal = torch.tensor([1.0, 0, 0, 1, 0, 1])[:, None, None, None]
    patch = patch._replace(images=images, q=q, truth=md * diagonal)
    moved = patch.interpolated(np.random.default_rng(0), SIDE).as_batch(np.random.default_rng(0))
    fitted = fit_least_squares(moved.inputs.ratios, moved.inputs.q)
    inside = moved.inputs.mask.expand(-1, 6, -1, -1, -1) > 0
    assert (fitted - moved.truth)[inside].abs().mean() < 0.01
