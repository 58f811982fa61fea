"""Images of true tensors with Rician noise, and the networks that read them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rice

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.review.experiments import (
    maps_loss,
    read_maps,
    rician_loss,
    signal_loss,
    six_directions,
    tensor_loss,
    true_maps,
)
from dmri_fm_lab.review.networks import Step, VoxelNetwork
from dmri_fm_lab.review.patches import TruePatches, draw_patches, measure, signal_of


@pytest.fixture(scope="module")
def patches() -> TruePatches:
    return draw_patches(3, 6, edge=8)


def test_patches_hold_brain_and_depend_on_the_seed_alone(patches: TruePatches) -> None:
    assert patches.tensor.shape == (6, 6, 8, 8, 8)
    assert patches.mask.float().mean(dim=(1, 2, 3)).min() >= 0.5
    assert not patches.tensor.movedim(1, 0)[:, ~patches.mask].any()
    trace = patches.tensor[:, [0, 3, 5]].sum(dim=1)[patches.mask]
    assert 0.3 < trace.median() / 3 < 1.5, "um^2/ms"
    assert torch.equal(draw_patches(3, 6, edge=8).tensor, patches.tensor)
    assert not torch.equal(draw_patches(4, 6, edge=8).tensor, patches.tensor)


def test_a_signal_is_that_of_its_tensor() -> None:
    tensor = torch.tensor([1.7, 0.0, 0.0, 0.3, 0.0, 0.3]).reshape(1, 6, 1)
    gtab = GradientTable([0, 1000, 1000, 2000], [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0.6, 0.8]])
    found = signal_of(tensor, gtab)[0, :, 0]
    np.testing.assert_allclose(found, np.exp([0, -1.7, -0.3, -0.6]), rtol=1e-6)


def test_noise_is_rician() -> None:
    nothing = TruePatches(torch.full((1, 6, 30, 30, 30), 0.0), torch.ones(1, 30, 30, 30).bool())
    nothing.tensor[:, [0, 3, 5]] = 3.0
    snr = torch.tensor([4.0])
    images = measure(nothing, six_directions(), snr, torch.Generator().manual_seed(0))[0]
    for image, clean in ((images[0], 1.0), (images[3], np.exp(-3.0))):
        expected = rice(clean * 4, scale=0.25)
        assert float(image.mean()) == pytest.approx(expected.mean(), rel=0.01)
        assert float(image.std()) == pytest.approx(expected.std(), rel=0.03)


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
    clean = signal_of(patches.tensor, gtab) * patches.mask[:, None]
    step = Step(patches, clean, torch.full((6,), 0.1), torch.arange(6))
    tensors = torch.cat([patches.tensor, torch.zeros(6, 1, 8, 8, 8)], dim=1)
    assert float(tensor_loss(tensors, step)) == 0
    assert float(signal_loss(gtab)(tensors, step)) < 1e-12
    maps = true_maps(patches)
    assert float(maps_loss(patches)(maps, step)) == 0
    back = read_maps(maps)
    inside = patches.mask.numpy()
    np.testing.assert_allclose(back.fa[inside], maps[:, 0].numpy()[inside])
    axes = np.abs((back.v1 * read_maps(maps + 1e-4).v1).sum(axis=-1))[inside & (back.fa > 0.3)]
    assert axes.min() > 0.999


def test_the_rician_loss_is_the_log_likelihood(patches: TruePatches) -> None:
    gtab, sigma = six_directions(), 0.2
    noisy = measure(patches, gtab, torch.full((6,), 1 / sigma), torch.Generator().manual_seed(1))
    step = Step(patches, noisy, torch.full((6,), sigma), torch.arange(6))
    loss = rician_loss(gtab)

    def at(factor: float) -> tuple[float, float]:
        tensors = torch.cat([factor * patches.tensor, torch.zeros(6, 1, 8, 8, 8)], dim=1)
        clean = signal_of(factor * patches.tensor, gtab)
        inside = patches.mask[:, None].expand_as(clean)
        exact = -rice.logpdf(noisy[inside], clean[inside] / sigma, scale=sigma).mean()
        return float(loss(tensors, step)), float(exact)

    found, exact = np.array([at(f) for f in (0.7, 1.0, 1.4)]).T
    np.testing.assert_allclose(np.diff(found), np.diff(exact), atol=1e-5)
    assert np.argmin(found) == 1
