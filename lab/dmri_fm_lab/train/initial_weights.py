"""Initial weights of a masked autoencoder: near the identity, instead of far from it.

The published architecture and loss, started where a patch passes through unchanged: patches are
projected on the lowest cosines of a patch and back, residual branches are small, the decoder's
attention across directions starts as the mean of directions (values and outputs are the identity;
compare Trockman & Kolter 2023, doi:10.48550/arXiv.2305.09828), and the convolutions pass a volume
on. From random weights a short training would spend most of its steps on learning that.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn

from dmri_fm.encoders.drope.block import DropeBlock
from dmri_fm.encoders.drope.mae import MaskedAutoencoder
from dmri_fm.encoders.drope.network import Drope

#: Factor on the last layer of every residual branch.
BRANCH_SCALE = 0.25

#: Scale of patches in tokens, beside position codes between -1 and 1.
GAIN = 2.0


@torch.no_grad()
def start_near_identity(network: MaskedAutoencoder) -> None:
    """Set the initial weights of an autoencoder; those that are not named above stay random."""
    start_encoder(network.encoder)
    decoder = network.decoder
    basis = cosine_basis(network.encoder.config.patch)
    _project(network.decoder_pred, basis[: network.config.decoder_dim].T)
    decoder.embed.weight.zero_()
    decoder.embed.weight.fill_diagonal_(1.0)
    decoder.embed.bias.zero_()
    _shrink_branches(decoder.blocks)
    for block in decoder.blocks:
        assert isinstance(block, DropeBlock)
        attention = block.attn_diffusion
        values = attention.qkv.weight[-attention.out_proj.in_features :]
        for weight in (values, attention.out_proj.weight):
            weight.zero_().fill_diagonal_(1.0)
    if network.decoder_conv is not None:
        _pass_on(network.decoder_conv)


@torch.no_grad()
def start_encoder(encoder: Drope) -> None:
    """Set the initial weights of an encoder, as :func:`start_near_identity` does."""
    _project(encoder.patch_mlp, GAIN * cosine_basis(encoder.config.patch)[: encoder.config.dim])
    _shrink_branches(encoder.blocks)


def _shrink_branches(blocks: nn.ModuleList) -> None:
    for block in blocks:
        assert isinstance(block, DropeBlock)
        for layer in (
            block.attn_diffusion.out_proj,
            block.attn_space.out_proj,
            block.mlp_diffusion.linear2,
            block.mlp_space.linear2,
        ):
            layer.weight *= BRANCH_SCALE
            layer.bias.zero_()


def cosine_basis(patch: tuple[int, int, int]) -> Tensor:
    """Return the orthonormal cosines of a patch of P voxels, lowest frequency first, (P, P)."""
    axes = [dct(np.eye(n), axis=0, norm="ortho") for n in patch]
    basis = np.einsum("ax,by,cz->abcxyz", *axes).reshape(np.prod(patch), -1)
    frequency = sum(np.indices(patch)[i] / n for i, n in enumerate(patch))
    order = np.argsort(np.asarray(frequency).ravel(), kind="stable")
    return torch.from_numpy(basis[order].astype(np.float32))


def _project(layer: nn.Linear, rows: Tensor) -> None:
    """Set the first rows and columns of a layer; the rest of its rows stays random."""
    layer.bias.zero_()
    layer.weight[: rows.shape[0], : rows.shape[1]] = rows
    layer.weight[: rows.shape[0], rows.shape[1] :] = 0.0


def _pass_on(convolutions: nn.Sequential) -> None:
    """Let two channels pass a volume's positive and its negative part on, unchanged."""
    first, second, last = (m for m in convolutions if isinstance(m, nn.Conv3d))
    for channel, sign in ((0, 1.0), (1, -1.0)):
        for layer in (first, second):
            layer.weight[channel] = 0.0
            assert layer.bias is not None
            layer.bias[channel] = 0.0
        first.weight[channel, 0, 1, 1, 1] = sign
        second.weight[channel, channel, 1, 1, 1] = 1.0
        last.weight[0, channel] = 0.0
        last.weight[0, channel, 1, 1, 1] = sign
    last.weight[0, 2:] *= BRANCH_SCALE
    assert last.bias is not None
    last.bias.zero_()
