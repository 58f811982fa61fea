"""Initial weights of a masked autoencoder: the mean of visible directions, instead of noise.

The published architecture and loss, started where a visible patch passes through unchanged and a
masked direction is about the mean of the visible ones. From random weights a short training would
spend most of its steps on learning that. Nothing is said about distances between directions: that
is left to training. Compare Trockman & Kolter 2023, doi:10.48550/arXiv.2305.09828.

- Patches are projected on their lowest cosines, within the channels that position and direction
  codes leave free, and back at the end.
- One channel holds a large constant, so that layer norms hardly change the scale of a token;
  their weights undo the constant scale, and that channel is one behind them.
- Residual branches are small. In the first block of the decoder, values and outputs of the
  attention across directions pass patches on, and a mark lets masked tokens see visible ones, and
  these masked ones.
- The convolutions pass a volume on.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.fft import dct
from scipy.linalg import null_space
from torch import Tensor, nn

from dmri_fm.encoders.drope.block import DropeBlock
from dmri_fm.encoders.drope.mae import MaskedAutoencoder
from dmri_fm.encoders.drope.network import PositionCode
from dmri_fm.encoders.drope.tokens import patch_centres

#: Factor on the last layer of every residual branch.
BRANCH_SCALE = 0.05

#: The constant in the last channel of all tokens, and mean square of the others.
CONSTANT, TYPICAL_SQUARE = 100.0, 2.0

#: Share of the energy of position codes that may lie in the channels of patches.
CODE_TOLERANCE = 1e-4

#: Mark of masked tokens, and its negative of visible ones; difference of their attention scores.
MARK, SCORE = 3.0, 8.0


@torch.no_grad()
def start_near_identity(network: MaskedAutoencoder) -> None:
    """Set the initial weights of an autoencoder; those that are not named above stay random.

    Raises
    ------
    ValueError
        If encoder and decoder differ in width.
    """
    encoder, decoder, config = network.encoder, network.decoder, network.config
    if config.decoder_dim != config.encoder.dim:
        raise ValueError("encoder and decoder of one width are expected")
    for code in (encoder.position, decoder.position):
        code.qpos_embed.weight.copy_(encoder.position.qpos_embed.weight)
        code.qpos_embed.weight[-1] = 0.0
        code.qpos_embed.bias.zero_()
    free = _free_channels(encoder.position, patch_centres(config.encoder))
    mark, content = free[:, 0], free[:, 1:]
    basis = cosine_basis(config.encoder.patch)[: content.shape[1]]
    content = content[:, : len(basis)]
    for norm in (m for m in network.modules() if isinstance(m, nn.LayerNorm)):
        norm.weight.fill_(math.sqrt(CONSTANT**2 / len(mark) + TYPICAL_SQUARE))
        norm.bias.fill_(CONSTANT / len(mark))
        norm.weight[-1], norm.bias[-1] = 0.0, 1.0
    encoder.patch_mlp.weight.copy_(content @ basis)
    encoder.patch_mlp.bias.zero_()
    decoder.embed.weight.copy_(content @ content.T)
    decoder.embed.bias.copy_(-MARK * mark)
    decoder.mask_token.copy_(MARK * mark)
    for constant in (encoder.patch_mlp.bias, encoder.cls_token[0, 0], decoder.embed.bias):
        constant[-1] = CONSTANT
    decoder.mask_token[-1] = CONSTANT
    network.decoder_pred.weight.copy_((content @ basis).T)
    network.decoder_pred.bias.zero_()
    for block in (*encoder.blocks, *decoder.blocks):
        _quieten(block)
    _show_visible(decoder.blocks[0], mark, content)
    if network.decoder_conv is not None:
        _pass_on(network.decoder_conv)


def cosine_basis(patch: tuple[int, int, int]) -> Tensor:
    """Return the orthonormal cosines of a patch of P voxels, lowest frequency first, (P, P)."""
    axes = [dct(np.eye(n), axis=0, norm="ortho") for n in patch]
    basis = np.einsum("ax,by,cz->abcxyz", *axes).reshape(math.prod(patch), -1)
    frequency = sum(np.indices(patch)[i] / n for i, n in enumerate(patch))
    order = np.argsort(np.asarray(frequency).ravel(), kind="stable")
    return torch.from_numpy(basis[order].astype(np.float32))


def _free_channels(code: PositionCode, centres: np.ndarray) -> Tensor:
    """Return orthonormal vectors (dim, M) that no code, no constant and no mean reaches."""
    half = code.position_dim
    where = torch.from_numpy(np.unique(centres, axis=0).astype(np.float32))
    codes = code.encode_positions(where).double()
    _, values, rows = torch.linalg.svd(codes, full_matrices=False)
    tail = values.square().flip(0).cumsum(0).flip(0) / values.square().sum()
    places = rows[tail > CODE_TOLERANCE].numpy()
    directions = code.qpos_embed.weight.detach().double().T.numpy()
    dim = half + directions.shape[1]
    taken = np.zeros((len(places) + len(directions) + 2, dim))
    taken[: len(places), :half] = places
    taken[len(places) : -2, half:] = directions
    taken[-2], taken[-1, -1] = 1.0, 1.0
    return torch.from_numpy(null_space(taken).astype(np.float32))


def _quieten(block: nn.Module) -> None:
    assert isinstance(block, DropeBlock)
    for layer in (
        block.attn_diffusion.out_proj,
        block.attn_space.out_proj,
        block.mlp_diffusion.linear2,
        block.mlp_space.linear2,
    ):
        layer.weight *= BRANCH_SCALE
        layer.bias.zero_()


def _show_visible(block: nn.Module, mark: Tensor, content: Tensor) -> None:
    """Let masked tokens see visible ones of other directions."""
    assert isinstance(block, DropeBlock)
    attention = block.attn_diffusion
    queries, keys, values = attention.qkv.weight.chunk(3)
    values.copy_(content @ content.T)
    attention.out_proj.weight.copy_(torch.eye(len(values)))
    head_dim = len(values) // attention.heads
    slope = math.sqrt(SCORE / 2 * math.sqrt(head_dim)) / MARK
    # The last channel of a head has the lowest frequency and hardly turns.
    queries[head_dim - 1 :: head_dim] = slope * mark
    keys[head_dim - 1 :: head_dim] = -slope * mark


def _pass_on(convolutions: nn.Sequential) -> None:
    """Let two channels pass a volume's positive and its negative part on, unchanged."""
    first, second, last = (m for m in convolutions if isinstance(m, nn.Conv3d))
    for layer in (first, second, last):
        assert layer.bias is not None
        layer.bias.zero_()
    for channel, sign in ((0, 1.0), (1, -1.0)):
        for layer in (first, second):
            layer.weight[channel] = 0.0
        first.weight[channel, 0, 1, 1, 1] = sign
        second.weight[channel, channel, 1, 1, 1] = 1.0
        last.weight[0, channel] = 0.0
        last.weight[0, channel, 1, 1, 1] = sign
    last.weight[0, 2:] *= BRANCH_SCALE
