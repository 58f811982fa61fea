"""The published QCG-DTI network: q-space coordinate guided tensor estimation.

Each diffusion-weighted image, together with the b=0 image, passes one shared encoder; its
features are scaled and shifted by numbers computed from its q-space coordinate (QCF), the images
are fused at every level, and a decoder estimates the six tensor elements.

Method: Zheng et al. 2025, https://doi.org/10.1631/FITEE.2400766. The widths were worked out from
its table of costs. Differences, without which training diverged: the scale of QCF is 1 + alpha,
residual branches start small, and QCF pools over the brain in place of the whole block. Input and
output are in units (see :mod:`~dmri_fm.tensor_networks.inputs`), not standardised by a data set's
statistics. :data:`PAPER` is the whole network, :data:`ABLATIONS` a small one, whole and without
each of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.layers import ResidualBlock, conv3d, quieten
from dmri_fm.tensor_networks.inputs import (
    NORMALISATION,
    RATIO_RANGE,
    TensorEstimate,
    TensorInputs,
)


@dataclass(frozen=True)
class QcgDtiConfig:
    """Architecture of a :class:`QcgDti`.

    Attributes
    ----------
    widths
        Channels of the encoder's levels, finest first; each level halves the grid.
    n_items
        Number of weighted images.
    is_shared
        Whether each image passes the encoder with its own q-space coordinate (the paper's
        feature consistency strategy), or all of them at once, on channels, with all coordinates.
    has_qcf
        Whether features are scaled and shifted by q-space coordinates.
    is_multiscale
        Blocks of two kernel sizes (MRD), or plain residual blocks of about as many parameters.
    qcf_hidden
        Width of the hidden layers of QCF.
    branch_scale
        Factor on the initial weights of the last convolution of a residual branch.
    """

    widths: tuple[int, ...]
    n_items: int = 6
    is_shared: bool = True
    has_qcf: bool = True
    is_multiscale: bool = True
    qcf_hidden: int = 64
    branch_scale: float = 0.1

    @property
    def stride(self) -> int:
        """Sides of a block must be multiples of this."""
        return int(2 ** (len(self.widths) - 1))


#: The published network. Ships without weights.
PAPER = QcgDtiConfig(widths=(16, 32, 64, 128))

_SMALL = QcgDtiConfig(widths=(8, 16, 32))

#: Rows of the paper's table of ablations, as small networks.
ABLATIONS = {
    "whole": _SMALL,
    "no-qcf": replace(_SMALL, has_qcf=False),
    "no-strategy": replace(_SMALL, is_shared=False),
    "no-mrd": replace(_SMALL, is_multiscale=False),
    "baseline": replace(_SMALL, is_shared=False, has_qcf=False),
}


class MrBlock(nn.Module):
    """Two branches of different span, joined, fused, and added to the input."""

    def __init__(self, channels: int, branch_scale: float) -> None:
        super().__init__()
        self.narrow = conv3d(channels, channels, 3)
        self.wide = conv3d(channels, channels, 5)
        self.reduce = conv3d(2 * channels, channels, 1)
        self.fuse = conv3d(channels, channels, 3)
        quieten(self.fuse, branch_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel, X, Y, Z) to the same."""
        both = torch.cat([self.narrow(x).relu(), self.wide(x).relu()], dim=1)
        out: Tensor = x + self.fuse(self.reduce(both))
        return out


class MrdBlock(nn.Module):
    """x + MR(MR(x)); or seven plain residual blocks, 4 % more parameters, in place of MR(MR)."""

    def __init__(self, channels: int, config: QcgDtiConfig) -> None:
        super().__init__()
        block, n = (MrBlock, 2) if config.is_multiscale else (ResidualBlock, 7)
        self.blocks = nn.Sequential(*(block(channels, config.branch_scale) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel, X, Y, Z) to the same."""
        out: Tensor = x + self.blocks(x)
        return out


class Qcf(nn.Module):
    """Scale and shift features by numbers computed from their mean and the q-space coordinate.

    Starts as the identity: the scale is 1 + alpha, and alpha and beta start near zero.
    """

    def __init__(self, channels: int, n_coordinates: int, hidden: int) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU())
        last = nn.Linear(hidden, 2 * channels)
        nn.init.normal_(last.weight, std=1e-2)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(hidden + n_coordinates, hidden), nn.ReLU(), last)

    def forward(self, features: Tensor, q: Tensor, mask: Tensor) -> Tensor:
        """Modulate (item, channel, X, Y, Z) by q (item, coordinate); mask (item, 1, X, Y, Z)."""
        total = reduce(features * mask, "i c x y z -> i c", "sum")
        count = reduce(mask, "i 1 x y z -> i 1", "sum").clamp(min=1.0)
        code = torch.cat([self.pool(total / count), q], dim=1)
        alpha, beta = rearrange(self.mlp(code), "i (two c) -> two i c 1 1 1", two=2)
        guided: Tensor = (1.0 + alpha) * features + beta
        return guided


class QcgDti(nn.Module):
    """Network: :class:`TensorInputs` of exactly `n_items` images to :class:`TensorEstimate`."""

    normalisation = NORMALISATION

    def __init__(self, config: QcgDtiConfig) -> None:
        super().__init__()
        self.config = config
        widths, n = config.widths, config.n_items
        self.stem = conv3d(2 if config.is_shared else 1 + n, widths[0], 3)
        self.encoder = nn.ModuleList(MrdBlock(c, config) for c in widths)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.qcf = nn.ModuleList(
            Qcf(c, 4 if config.is_shared else 4 * n, config.qcf_hidden)
            for c in (widths if config.has_qcf else ())
        )
        n_fused = n if config.is_shared else 1
        self.fusion = nn.ModuleList(conv3d(n_fused * c, c, 3) for c in widths)
        below = [*(2 * c for c in widths[1:-1]), widths[-1]]
        self.up = nn.ModuleList(conv3d(b, c, 3) for b, c in zip(below, widths[:-1], strict=True))
        self.decoder = nn.ModuleList(MrdBlock(2 * c, config) for c in widths[:-1])
        self.head = conv3d(2 * widths[0], 6, 3)

    def forward(self, inputs: TensorInputs) -> TensorEstimate:
        """Estimate tensors; sides of the images are multiples of `config.stride`.

        Raises
        ------
        ValueError
            If the number of images is not `config.n_items`.
        """
        mask, n = inputs.mask, inputs.ratios.shape[1]
        if n != self.config.n_items:
            raise ValueError(f"{n} images, but this network fuses {self.config.n_items}")
        weighted = inputs.ratios.clamp(0.0, RATIO_RANGE[1]) * inputs.s0 * mask
        s0 = inputs.s0 * mask
        if self.config.is_shared:
            pairs = torch.stack([repeat(s0, "b 1 x y z -> b n x y z", n=n), weighted], dim=2)
            x = rearrange(pairs, "b n c x y z -> (b n) c x y z")
            q = rearrange(inputs.q, "b n c -> (b n) c")
            item_mask = repeat(mask, "b 1 x y z -> (b n) 1 x y z", n=n)
        else:
            x, item_mask = torch.cat([s0, weighted], dim=1), mask
            q = rearrange(inputs.q, "b n c -> b (n c)")
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            if level:
                x = self.down[level - 1](x)
                item_mask = functional.avg_pool3d(item_mask, 2)
            x = block(x)
            guided = self.qcf[level](x, q, item_mask) if self.config.has_qcf else x
            joined = rearrange(guided, "(b n) c x y z -> b (n c) x y z", b=mask.shape[0])
            skips.append(self.fusion[level](joined))
        x = skips[-1]
        for level in reversed(range(len(self.decoder))):
            up = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = self.decoder[level](torch.cat([self.up[level](up), skips[level]], dim=1))
        return TensorEstimate(self.head(x) * mask)
