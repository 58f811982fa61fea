"""Q-space coordinate guided diffusion tensor estimation from few directions.

Each diffusion-weighted image, together with the b=0 image, passes one shared encoder; its
features are scaled and shifted by numbers computed from its q-space coordinate (QCF), the images
are fused at every level, and a decoder estimates the six tensor elements.

Method: Zheng et al. 2025, https://doi.org/10.1631/FITEE.2400766.

Two configurations: :data:`PAPER` follows the publication (20M parameters; widths worked out from
its table of costs); :data:`SMALL`, the default of this project, has the same blocks, narrower, and

- estimates what has to be added to the tensor that least squares finds in the same images,
- fuses images by mean and maximum, so that any number from six on works and order cannot matter,
- encodes a direction by g g^T, so that g and -g are the same,
- pools nothing over the block, so that its size does not matter beyond the receptive field.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.models.layers import conv3d, dyadic_code

__all__ = ["PAPER", "SMALL", "QcgDti", "QcgDtiConfig", "estimate_noise", "fit_least_squares"]

#: Ratios S/S0 are clipped to this range before a logarithm is taken.
RATIO_RANGE = (0.01, 1.5)

#: Elements of the least-squares tensor are clipped to plus and minus this, um^2/ms.
LARGEST_ELEMENT = 6.0

#: The median absolute deviation of a normal variable times this is its standard deviation.
MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class QcgDtiConfig:
    """Architecture of a :class:`QcgDti`.

    Attributes
    ----------
    widths
        Channels of the encoder's levels, finest first; each level halves the grid.
    wide_kernel, wide_dilation
        The second branch of a block beside the 3^3 one: 5^3, or a 3^3 of dilation 2, which
        spans as much with a fifth of the weights.
    n_items
        Number of images where they are fused by concatenation; None: any number, fused by mean
        and maximum.
    is_dyadic
        Code of a direction: g g^T in place of g.
    is_pooled
        Whether QCF sees the mean of an image's features over the brain.
    is_residual
        Whether the network adds to the least-squares tensor, and sees it.
    qcf_hidden
        Width of the hidden layers of QCF.
    branch_scale
        Factor on the initial weights of the last convolution of a residual branch.
    """

    widths: tuple[int, ...]
    wide_kernel: int = 5
    wide_dilation: int = 1
    n_items: int | None = 6
    is_dyadic: bool = False
    is_pooled: bool = True
    is_residual: bool = False
    qcf_hidden: int = 64
    branch_scale: float = 0.1

    @property
    def stride(self) -> int:
        """Sides of a block must be multiples of this."""
        return int(2 ** (len(self.widths) - 1))


#: The published network. Ships without weights.
PAPER = QcgDtiConfig(widths=(16, 32, 64, 128))

#: The small network whose weights ship with the package.
SMALL = QcgDtiConfig(
    widths=(8, 16, 24),
    wide_kernel=3,
    wide_dilation=2,
    n_items=None,
    is_dyadic=True,
    is_pooled=False,
    is_residual=True,
    qcf_hidden=32,
)


def fit_least_squares(ratios: Tensor, q: Tensor) -> Tensor:
    """Fit tensors to ln(S/S0) by ordinary least squares.

    Parameters
    ----------
    ratios
        Shape (B, N, X, Y, Z): S/S0, clipped to :data:`RATIO_RANGE`.
    q
        Shape (B, N, 4): unit g in the frame of the result, and b in ms/um^2.

    Returns
    -------
    Tensor
        Shape (B, 6, X, Y, Z), um^2/ms, order xx, xy, xz, yy, yz, zz, clipped to
        plus and minus :data:`LARGEST_ELEMENT`.
    """
    x, y, z, b = q.to(torch.float64).unbind(-1)
    design = torch.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z], dim=-1)
    inverse = torch.linalg.pinv(design * b[..., None]).to(ratios.dtype)
    attenuation = -ratios.clamp(*RATIO_RANGE).log()
    tensor = torch.einsum("bin,bnxyz->bixyz", inverse, attenuation)
    return tensor.clamp(-LARGEST_ELEMENT, LARGEST_ELEMENT)


def estimate_noise(images: Tensor, mask: Tensor) -> Tensor:
    """Estimate the noise of each block from the finest diagonal detail of its images.

    Parameters
    ----------
    images
        Shape (B, N, X, Y, Z).
    mask
        Shape (B, 1, X, Y, Z), 1 inside the brain.

    Returns
    -------
    Tensor
        Shape (B,): standard deviation in the units of `images`; 0 where no 2^3 cube lies inside
        the mask. Interpolated images look less noisy than they are.
    """
    kernel = torch.tensor([1.0, -1.0], dtype=images.dtype, device=images.device)
    cube = torch.einsum("i,j,k->ijk", kernel, kernel, kernel)[None, None] / 8.0**0.5
    n_images = images.shape[1]
    flat = rearrange(images, "b n x y z -> (b n) 1 x y z")
    detail = rearrange(functional.conv3d(flat, cube), "(b n) 1 x y z -> b n x y z", n=n_images)
    inside = functional.conv3d(mask.to(images.dtype), cube.abs() * 8.0**0.5) > 7.5
    sigmas = []
    for values, where in zip(detail, inside, strict=True):
        kept = values[:, where[0]].abs()
        sigmas.append(MAD_TO_SIGMA * kept.median() if kept.numel() else kept.sum())
    return torch.stack(sigmas)


class MrBlock(nn.Module):
    """Two branches of different span, joined, fused, and added to the input."""

    def __init__(self, channels: int, config: QcgDtiConfig) -> None:
        super().__init__()
        self.narrow = conv3d(channels, channels, 3)
        self.wide = conv3d(channels, channels, config.wide_kernel, dilation=config.wide_dilation)
        self.reduce = conv3d(2 * channels, channels, 1)
        self.fuse = conv3d(channels, channels, 3)
        with torch.no_grad():
            self.fuse.weight *= config.branch_scale
            assert self.fuse.bias is not None
            self.fuse.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel, X, Y, Z) to the same."""
        both = torch.cat([self.narrow(x).relu(), self.wide(x).relu()], dim=1)
        out: Tensor = x + self.fuse(self.reduce(both))
        return out


class MrdBlock(nn.Module):
    """x + MR(MR(x))."""

    def __init__(self, channels: int, config: QcgDtiConfig) -> None:
        super().__init__()
        self.blocks = nn.Sequential(MrBlock(channels, config), MrBlock(channels, config))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel, X, Y, Z) to the same."""
        out: Tensor = x + self.blocks(x)
        return out


class Qcf(nn.Module):
    """Scale and shift features by numbers computed from the q-space coordinate.

    Starts as the identity: the scale is 1 + alpha, and alpha and beta start at zero.
    """

    def __init__(self, channels: int, config: QcgDtiConfig) -> None:
        super().__init__()
        hidden = config.qcf_hidden
        self.is_dyadic = config.is_dyadic
        self.pool = (
            nn.Sequential(nn.Linear(channels, hidden), nn.ReLU()) if config.is_pooled else None
        )
        n_inputs = (7 if config.is_dyadic else 4) + (hidden if config.is_pooled else 0)
        self.mlp = nn.Sequential(
            nn.Linear(n_inputs, hidden), nn.ReLU(), nn.Linear(hidden, 2 * channels)
        )
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=1e-2)
        nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, q: Tensor, mask: Tensor) -> Tensor:
        """Modulate (item, channel, X, Y, Z) by q (item, 4); mask (item, 1, X, Y, Z)."""
        code = torch.cat([dyadic_code(q[:, :3]), q[:, 3:]], dim=1) if self.is_dyadic else q
        if self.pool is not None:
            total = reduce(features * mask, "i c x y z -> i c", "sum")
            count = reduce(mask, "i 1 x y z -> i 1", "sum").clamp(min=1.0)
            code = torch.cat([self.pool(total / count), code], dim=1)
        alpha, beta = rearrange(self.mlp(code), "i (two c) -> two i c 1 1 1", two=2)
        guided: Tensor = (1.0 + alpha) * features + beta
        return guided


class QcgDti(nn.Module):
    """Network: one b=0 image and N weighted images to a tensor image."""

    #: s0, noise / s0, and the six least-squares elements, which the residual network sees.
    N_CONTEXT = 8

    def __init__(self, config: QcgDtiConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        context = self.N_CONTEXT if config.is_residual else 0
        fused = (config.n_items or 2, context)
        self.stem = conv3d(2, widths[0], 3)
        self.encoder = nn.ModuleList(MrdBlock(c, config) for c in widths)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.qcf = nn.ModuleList(Qcf(c, config) for c in widths)
        self.fusion = nn.ModuleList(conv3d(fused[0] * c + fused[1], c, 3) for c in widths)
        below = [*(2 * c for c in widths[1:-1]), widths[-1]]
        self.up = nn.ModuleList(conv3d(b, c, 3) for b, c in zip(below, widths[:-1], strict=True))
        self.decoder = nn.ModuleList(MrdBlock(2 * c, config) for c in widths[:-1])
        self.head = conv3d(2 * widths[0], 6, 3)
        if config.is_residual:
            nn.init.normal_(self.head.weight, std=1e-3)
            assert self.head.bias is not None
            nn.init.zeros_(self.head.bias)

    def forward(
        self, s0: Tensor, ratios: Tensor, q: Tensor, mask: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """Estimate tensors.

        Parameters
        ----------
        s0
            Shape (B, 1, X, Y, Z): b=0 image over its mean within the brain. Sides are multiples
            of `config.stride`.
        ratios
            Shape (B, N, X, Y, Z): weighted images over the b=0 image, voxel by voxel.
        q
            Shape (B, N, 4): unit b-vectors in the frame of the result (RAS), b in ms/um^2.
        mask
            Shape (B, 1, X, Y, Z): 1 inside the brain, 0 outside, float.
        noise
            Shape (B,): standard deviation of the weighted images in units of `s0`; estimated
            from the block if None. Blocks of one scan should be given that scan's value.

        Returns
        -------
        Tensor
            Shape (B, 6, X, Y, Z), um^2/ms, order xx, xy, xz, yy, yz, zz; zero outside the mask.
        """
        config = self.config
        n_images = ratios.shape[1]
        s0, ratios = s0 * mask, ratios.clamp(0.0, RATIO_RANGE[1]) * mask
        weighted = ratios if config.is_residual else ratios * s0
        items = torch.stack([repeat(s0, "b 1 x y z -> b n x y z", n=n_images), weighted], dim=2)
        x = self.stem(rearrange(items, "b n c x y z -> (b n) c x y z"))
        item_q = rearrange(q, "b n c -> (b n) c")
        least_squares, context = None, None
        if config.is_residual:
            if noise is None:
                noise = estimate_noise(ratios * s0, mask)
            least_squares = fit_least_squares(ratios, q) * mask
            relative = (noise[:, None, None, None, None] / s0.clamp(min=0.05)).clamp(max=1.0)
            context = torch.cat([s0, relative * mask, least_squares], dim=1)
        skips: list[Tensor] = []
        level_mask = mask
        for level, block in enumerate(self.encoder):
            if level:
                x = self.down[level - 1](x)
                level_mask = functional.avg_pool3d(level_mask, 2)
                context = None if context is None else functional.avg_pool3d(context, 2)
            x = block(x)
            item_mask = repeat(level_mask, "b 1 x y z -> (b n) 1 x y z", n=n_images)
            guided = rearrange(
                self.qcf[level](x, item_q, item_mask), "(b n) c x y z -> b n c x y z", n=n_images
            )
            skips.append(self.fusion[level](self._join(guided, context)))
        x = skips[-1]
        for level in reversed(range(len(self.decoder))):
            up = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = self.decoder[level](torch.cat([self.up[level](up), skips[level]], dim=1))
        out: Tensor = self.head(x)
        if least_squares is not None:
            out = out + least_squares
        return out * mask

    def _join(self, guided: Tensor, context: Tensor | None) -> Tensor:
        """Join the images' features, (B, N, C, X, Y, Z), into (B, C', X, Y, Z)."""
        if self.config.n_items is None:
            parts = [guided.mean(dim=1), guided.amax(dim=1)]
        else:
            if guided.shape[1] != self.config.n_items:
                raise ValueError(
                    f"{guided.shape[1]} images, but this network fuses {self.config.n_items}"
                )
            parts = [rearrange(guided, "b n c x y z -> b (n c) x y z")]
        return torch.cat(parts if context is None else [*parts, context], dim=1)
