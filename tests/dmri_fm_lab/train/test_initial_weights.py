"""Where training starts: patches pass through, and volumes."""

from dataclasses import replace

import torch

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.mae import MaeConfig, MaskedAutoencoder
from dmri_fm_lab.train.initial_weights import GAIN, cosine_basis, start_near_identity

CONFIG = DropeConfig(
    (24, 24, 8), 2.0, (4, 4, 4), dim=84, depth=2, heads=3, signal_mean=0.4, signal_std=0.1
)


def start(config=CONFIG):
    torch.manual_seed(0)
    network = MaskedAutoencoder(MaeConfig(config, decoder_dim=config.dim, decoder_depth=2))
    start_near_identity(network)
    return network.eval()


def test_cosines_are_orthonormal_and_begin_with_the_mean():
    basis = cosine_basis((4, 4, 2))
    torch.testing.assert_close(basis @ basis.T, torch.eye(32), atol=1e-5, rtol=0)
    torch.testing.assert_close(basis[0], torch.full((32,), 32**-0.5))


def test_patches_are_projected_and_given_back():
    network = start(replace(CONFIG, patch=(4, 4, 2)))
    patches = torch.randn(5, 32)
    with torch.inference_mode():
        tokens = network.encoder.patch_mlp(patches)
        found = network.decoder_pred(network.decoder.embed(tokens)) / GAIN
    torch.testing.assert_close(found, patches, atol=1e-5, rtol=0)


def test_attention_across_directions_passes_on_what_it_sees():
    attention = start().decoder.blocks[0].attn_diffusion
    with torch.no_grad():
        attention.qkv.weight[: -CONFIG.dim] = 0.0  # every direction sees all others alike
    x = torch.randn(1, 8, 3, CONFIG.dim)
    qspace = torch.rand(1, 8, 3, dtype=torch.float64) + 0.5
    tables = CONFIG.rotary_tables(qspace, CONFIG.dim // CONFIG.heads)
    with torch.inference_mode():
        found = attention(x, tables)
    torch.testing.assert_close(found, x.mean(dim=1, keepdim=True).expand_as(x), atol=1e-5, rtol=0)


def test_convolutions_start_as_the_identity():
    network, volume = start(), torch.randn(1, 1, 6, 7, 8)
    # Six further channels are random, and come in small.
    with torch.inference_mode():
        found = network.decoder_conv(volume)
    assert (found - volume).square().mean() < 0.01 * volume.square().mean()
    with torch.no_grad():
        network.decoder_conv[4].weight[0, 2:] = 0.0
        torch.testing.assert_close(network.decoder_conv(volume), volume)
