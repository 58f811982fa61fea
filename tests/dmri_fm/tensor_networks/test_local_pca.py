import numpy as np
import pytest
import torch

from dmri_fm.tensor_networks.local_pca import denoise_locally


def make(*, n_images=7, side=20, sigma=0.05, seed=0):
    """Return clean and noisy images that are mixtures of two smooth ones."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(0, 1, side)] * 3, indexing="ij")
    basis = np.stack([np.sin(5 * x + 3 * y), np.cos(4 * z - 2 * x)])
    clean = 1.0 + 0.3 * np.tensordot(rng.normal(size=(n_images, 2)), basis, 1)
    noisy = clean + sigma * rng.standard_normal(clean.shape)
    return (torch.from_numpy(a).float()[None] for a in (clean, noisy))


def test_noise_falls_to_what_the_signals_components_hold():
    clean, noisy = make()
    mask = torch.ones(1, 1, 20, 20, 20)
    found = denoise_locally(noisy, mask, torch.full((1, 7, 1, 1, 1), 0.05))
    inner = (..., *[slice(3, -3)] * 3)
    left = (found - clean)[inner].std() / (noisy - clean)[inner].std()
    # Two of seven components hold signal: sqrt(2 / 7) = .53 without averaging windows.
    assert 0.25 < left < 0.55


def test_images_of_unlike_noise_are_weighed():
    clean, _ = make()
    generator = torch.Generator().manual_seed(1)
    sigma = torch.tensor([0.02] * 6 + [0.2])[None, :, None, None, None]
    noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
    found = denoise_locally(noisy, torch.ones(1, 1, 20, 20, 20), sigma)
    inner = (..., *[slice(3, -3)] * 3)
    assert (found - clean)[:, 6][inner].std() < 0.25 * 0.2
    assert (found - clean)[:, :6][inner].std() < 0.02


def test_without_noise_nothing_changes():
    clean, _ = make()
    found = denoise_locally(clean, torch.ones(1, 1, 20, 20, 20), torch.full((1, 7, 1, 1, 1), 0.0))
    torch.testing.assert_close(found, clean, atol=2e-3, rtol=0)


def test_nothing_outside_the_mask_counts():
    _, noisy = make()
    mask = torch.ones(1, 1, 20, 20, 20)
    mask[..., :8, :, :] = 0.0
    sigma = torch.full((1, 7, 1, 1, 1), 0.05)
    found = denoise_locally(noisy, mask, sigma)
    assert not found[:, :, :8].any()
    other = denoise_locally(torch.where(mask > 0, noisy, 9.0), mask, sigma)
    torch.testing.assert_close(found, other)


def test_too_few_voxels_are_handed_back():
    _, noisy = make()
    mask = torch.zeros(1, 1, 20, 20, 20)
    mask[..., 5, 5, 5] = 1.0
    found = denoise_locally(noisy, mask, torch.full((1, 7, 1, 1, 1), 0.05))
    torch.testing.assert_close(found[..., 5, 5, 5], noisy[..., 5, 5, 5], atol=1e-4, rtol=0)


@pytest.mark.parametrize("sides", [(7, 8, 9), (5, 5, 6)])
def test_any_shape(sides):
    images = torch.rand(2, 7, *sides)
    found = denoise_locally(images, torch.ones(2, 1, *sides), torch.full((2, 7, 1, 1, 1), 0.01))
    assert found.shape == images.shape
    assert found.isfinite().all()


def test_order_does_not_matter():
    _, noisy = make()
    mask, sigma = torch.ones(1, 1, 20, 20, 20), torch.full((1, 7, 1, 1, 1), 0.05)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    found = denoise_locally(noisy, mask, sigma)[:, order]
    torch.testing.assert_close(
        denoise_locally(noisy[:, order], mask, sigma), found, atol=1e-4, rtol=0
    )
