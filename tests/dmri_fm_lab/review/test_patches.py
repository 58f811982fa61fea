"""Images of true tensors with Rician noise, and the networks that read them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rice

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.review.estimates import read_maps, true_maps
from dmri_fm_lab.review.losses import maps_loss, rician_loss, signal_loss, tensor_loss
from dmri_fm_lab.review.networks import Loss, Recipe, Step, VoxelNetwork, new_network, train
from dmri_fm_lab.review.patches import (
    LARGEST_RATIO,
    Purpose,
    TruePatches,
    draw_patches,
    generator_of,
    measure,
    over_b0,
    seed_of,
    sigma_of,
    signal_of,
)
from dmri_fm_lab.review.tensor_experiments import six_directions

SEED = seed_of(3, Purpose.TEST)


@pytest.fixture(scope="module")
def patches() -> TruePatches:
    return draw_patches(SEED, 6, edge=8)


def test_patches_hold_brain_and_depend_on_the_seed_alone(patches: TruePatches) -> None:
    assert patches.tensor.shape == (6, 6, 8, 8, 8)
    assert patches.mask.float().mean(dim=(1, 2, 3)).min() >= 0.5
    assert not patches.tensor.movedim(1, 0)[:, ~patches.mask].any()
    trace = patches.tensor[:, [0, 3, 5]].sum(dim=1)[patches.mask]
    assert 0.3 < trace.median() / 3 < 1.5, "um^2/ms"
    assert torch.equal(draw_patches(SEED, 6, edge=8).tensor, patches.tensor)
    assert not torch.equal(
        draw_patches(seed_of(4, Purpose.TEST), 6, edge=8).tensor, patches.tensor
    )


def test_a_signal_is_that_of_its_tensor() -> None:
    tensor = torch.tensor([1.7, 0.0, 0.0, 0.3, 0.0, 0.3]).reshape(1, 6, 1)
    gtab = GradientTable([0, 1000, 1000, 2000], [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0.6, 0.8]])
    found = signal_of(tensor, gtab)[0, :, 0]
    np.testing.assert_allclose(found, np.exp([0, -1.7, -0.3, -0.6]), rtol=1e-6)


def test_b0_differs_between_patches_and_within(patches: TruePatches) -> None:
    assert not patches.s0[~patches.mask].any()
    assert patches.white_s0.min() >= 50
    assert patches.white_s0.max() / patches.white_s0.min() > 1.5
    for s0, inside in zip(patches.s0, patches.mask, strict=True):
        assert s0[inside].std() / s0[inside].mean() > 0.03


def test_noise_is_rician() -> None:
    one = torch.ones(1, 30, 30, 30)
    nothing = TruePatches(
        torch.zeros(1, 6, 30, 30, 30), one.bool(), 200 * one, torch.tensor([100.0])
    )
    nothing.tensor[:, [0, 3, 5]] = 3.0
    snr = torch.tensor([4.0])
    images = measure(nothing, six_directions(), snr, torch.Generator().manual_seed(0))[0]
    sigma = float(sigma_of(nothing, snr))
    assert sigma == 25, "white matter's b=0 over the SNR"
    for image, clean in ((images[0], 200.0), (images[3], 200 * np.exp(-3.0))):
        expected = rice(clean / sigma, scale=sigma)
        assert float(image.mean()) == pytest.approx(expected.mean(), rel=0.01)
        assert float(image.std()) == pytest.approx(expected.std(), rel=0.03)


def test_networks_see_no_scale_and_no_s0(patches: TruePatches) -> None:
    gtab = six_directions()
    clean = patches.s0[:, None] * signal_of(patches.tensor, gtab)
    other = torch.rand(patches.s0.shape, generator=torch.Generator().manual_seed(0)) + 0.1
    shown = over_b0(clean)
    assert shown.shape[1] == 6
    torch.testing.assert_close(over_b0(clean * other[:, None]), shown)
    torch.testing.assert_close(
        shown * patches.mask[:, None],
        signal_of(patches.tensor, gtab)[:, 1:] * patches.mask[:, None],
    )
    assert over_b0(torch.tensor([[0.1, 5.0], [0.0, 5.0]])).tolist() == [[LARGEST_RATIO], [0.0]]


def test_nothing_drawn_serves_two_purposes() -> None:
    states = {
        generator_of(seed, purpose, snr).initial_seed()
        for seed in range(20)
        for purpose in Purpose
        for snr in (5.0, 8.0, 10.0, 10.5)
    }
    assert len(states) == 20 * len(Purpose) * 4


def test_an_mlp_sees_one_voxel_and_a_cnn_its_neighbours() -> None:
    images = torch.rand(1, 7, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    other = images.clone()
    other[..., 4, 4, 4] += 1.0
    for kernel, n_changed in ((1, 1), (3, 7**3)):
        torch.manual_seed(0)
        network = VoxelNetwork(7, 6, kernel=kernel).eval()
        changed = (network(other) - network(images)).detach().abs().amax(dim=1) > 0
        assert int(changed.sum()) == n_changed
    sizes = [sum(p.numel() for p in VoxelNetwork(7, 6, kernel=k).parameters()) for k in (1, 3)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.5)


def test_losses_are_lowest_at_the_truth(patches: TruePatches) -> None:
    gtab = six_directions()
    clean = patches.s0[:, None] * signal_of(patches.tensor, gtab)
    step = Step(patches, clean, 0.1 * patches.white_s0, torch.arange(6))
    tensors = torch.cat([patches.tensor, torch.zeros(6, 1, 8, 8, 8)], dim=1)
    assert float(tensor_loss().error(tensors, step)) == 0
    assert float(signal_loss(gtab).error(tensors, step)) < 1e-10
    maps = true_maps(patches)
    assert float(maps_loss(patches).error(maps, step)) == 0
    back = read_maps(maps)
    inside = patches.mask.numpy()
    np.testing.assert_allclose(back.fa[inside], maps[:, 0].numpy()[inside])
    axes = np.abs((back.v1 * read_maps(maps + 1e-4).v1).sum(axis=-1))[inside & (back.fa > 0.3)]
    assert axes.min() > 0.999


def test_the_rician_loss_is_the_log_likelihood(patches: TruePatches) -> None:
    gtab = six_directions()
    snr = torch.linspace(3.0, 8.0, 6)
    sigma = sigma_of(patches, snr)
    noisy = measure(patches, gtab, snr, torch.Generator().manual_seed(1))
    # The measured b=0 is the factor of S0 in what a network predicts: here it has no noise.
    noisy[:, 0] = patches.s0
    step = Step(patches, noisy, sigma, torch.arange(6))
    scale = sigma[:, None, None, None, None].numpy()
    inside = patches.mask[:, None].expand_as(noisy).numpy()

    def at(factor: float) -> tuple[float, float]:
        tensors = torch.cat([factor * patches.tensor, torch.zeros(6, 1, 8, 8, 8)], dim=1)
        clean = patches.s0[:, None] * signal_of(factor * patches.tensor, gtab)
        exact = -rice.logpdf(noisy.numpy(), clean.numpy() / scale, scale=scale)
        return float(rician_loss(gtab).error(tensors, step)), float(exact[inside].mean())

    found, exact = np.array([at(f) for f in (0.7, 1.0, 1.4)]).T
    np.testing.assert_allclose(np.diff(found), np.diff(exact), rtol=1e-3)
    assert np.argmin(found) == 1


def test_both_losses_weigh_patches_alike_where_noise_is_low(patches: TruePatches) -> None:
    """The Rician distribution of a high SNR is Gaussian; its log i0e(x) is -log(2 pi x) / 2."""
    gtab = six_directions()
    snr = torch.linspace(200.0, 800.0, 6)
    noisy = measure(patches, gtab, snr, torch.Generator().manual_seed(1))
    step = Step(patches, noisy, sigma_of(patches, snr), torch.arange(6))
    tensors = torch.cat([patches.tensor, torch.zeros(6, 1, 8, 8, 8)], dim=1)
    changes = [
        float(loss.error(1.2 * tensors, step) - loss.error(tensors, step))
        for loss in (signal_loss(gtab), rician_loss(gtab))
    ]
    assert changes[0] == pytest.approx(changes[1], rel=0.02)


def test_a_training_is_not_read_back_for_another(patches: TruePatches, tmp_path: Path) -> None:
    recipe = Recipe(patches, six_directions(), (5.0, 50.0), 2, 0)

    def trained(loss: Loss, recipe: Recipe) -> VoxelNetwork:
        return train(new_network(6, 7, 0), loss, recipe, tmp_path)

    first = trained(tensor_loss(), recipe)
    again = trained(tensor_loss(), recipe)
    assert torch.equal(first.output.weight, again.output.weight)
    others = [
        recipe._replace(patches=patches.select(torch.arange(5))),
        recipe._replace(patches=replace(patches, s0=2 * patches.s0)),
        recipe._replace(gtab=six_directions(1200.0)),
        recipe._replace(snr=(5.0, 40.0)),
        recipe._replace(n_steps=3),
        recipe._replace(seed=1),
    ]
    for other in others:
        with pytest.raises(ConfigError, match="run with other settings"):
            trained(tensor_loss(), other)
    with pytest.raises(ConfigError, match="run with other settings"):
        trained(signal_loss(six_directions()), recipe)
