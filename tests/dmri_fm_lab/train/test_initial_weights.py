"""Where training starts: visible patches pass through, masked directions are a mean."""

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import ABLATION, DropeConfig
from dmri_fm.encoders.drope.mae import MaeConfig, Mask, MaskedAutoencoder
from dmri_fm.encoders.drope.tokens import patch_centres
from dmri_fm_lab.train.initial_weights import cosine_basis, start_near_identity

CONFIG = DropeConfig(
    (24, 24, 8), 2.0, (4, 4, 4), dim=84, depth=2, heads=3, signal_mean=0.4, signal_std=0.1
)


@pytest.fixture(scope="module")
def scan():
    """Return smooth patches of eight directions, their directions and positions."""
    generator = torch.Generator().manual_seed(0)
    centres = patch_centres(CONFIG)
    waves = torch.rand(8, 4, generator=generator)
    x, y, z = (torch.arange(n) / 24 for n in (24, 24, 8))
    image = torch.stack(
        [
            0.4 + 0.1 * torch.sin(6 * a * x[:, None, None] + 3 * b * y[:, None] + c * z + d)
            for a, b, c, d in waves
        ]
    )
    patches = image.reshape(8, 6, 4, 6, 4, 2, 4).permute(0, 1, 3, 5, 2, 4, 6).reshape(1, 8, -1, 64)
    qspace = torch.tensor(
        np.column_stack([np.ones(8), np.linspace(0.2, 1.4, 8), np.linspace(-2, 2, 8)])
    )[None]
    return patches, qspace, torch.from_numpy(centres.astype(np.float32))[None]


def start(config=CONFIG):
    torch.manual_seed(0)
    network = MaskedAutoencoder(MaeConfig(config, decoder_dim=config.dim, decoder_depth=2))
    start_near_identity(network)
    return network.eval()


def test_cosines_are_orthonormal_and_begin_with_the_mean():
    basis = cosine_basis((4, 4, 2))
    torch.testing.assert_close(basis @ basis.T, torch.eye(32), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis[0], torch.full((32,), 32**-0.5))


def test_masked_directions_start_at_the_mean_of_visible_ones(scan):
    patches, qspace, positions = scan
    kept = torch.tensor([[0, 2, 3, 6]])
    with torch.inference_mode():
        found = start()(patches, qspace, positions, Mask("diffusion", kept))[0]
    masked = [1, 4, 5, 7]
    mean = patches[0, kept[0]].mean(dim=0)
    away = (patches[0, masked] - mean).square().mean()
    assert (found[masked] - mean).square().mean() < 0.2 * away
    assert (found[kept[0]] - patches[0, kept[0]]).square().mean() < 0.1 * away


def test_convolutions_start_as_the_identity():
    network, volume = start(), torch.randn(1, 1, 6, 7, 8)
    # Six further channels are random, and come in small.
    with torch.inference_mode():
        found = network.decoder_conv(volume)
    assert (found - volume).square().mean() < 0.01 * volume.square().mean()
    with torch.no_grad():
        network.decoder_conv[4].weight[0, 2:] = 0.0
        torch.testing.assert_close(network.decoder_conv(volume), volume)


def test_random_weights_are_far_from_it(scan):
    patches, qspace, positions = scan
    torch.manual_seed(0)
    network = MaskedAutoencoder(MaeConfig(CONFIG, decoder_dim=84, decoder_depth=2)).eval()
    kept = torch.tensor([[0, 2, 3, 6]])
    with torch.inference_mode():
        found = network(patches, qspace, positions, Mask("diffusion", kept))[0]
    away = patches[0].var(dim=0).mean()
    assert (found[kept[0]] - patches[0, kept[0]]).square().mean() > away


def test_decoder_of_another_width_is_refused():
    network = MaskedAutoencoder(MaeConfig(ABLATION, decoder_dim=96))
    with pytest.raises(ValueError, match="one width"):
        start_near_identity(network)
