"""QCG-DTI: q-space coordinate guided estimation of diffusion tensors.

Each diffusion-weighted image, together with the b=0 image, passes one shared encoder of MRD
blocks; at every level its features are scaled and shifted by numbers computed from its q-space
coordinate (QCF), the images are fused, and a symmetric decoder estimates the six tensor elements.
Method: Zheng et al. 2025, https://doi.org/10.1631/FITEE.2400766.

Two forms. The published one (:data:`PAPER`; widths worked out from its table of costs) differs
from the publication where training of small versions diverged: the scale of QCF is 1 + alpha, and
residual branches start small. The default, :data:`DEFAULT`, is smaller and starts from the
least-squares tensor (`starts_from_fit`):

- it corrects the least-squares tensor of the seven images in place of estimating one from nothing;
- an image comes with its apparent diffusivity and its noise, and the finest level is told the
  least-squares tensor and the deviation that noise gives it;
- the q-space coordinate is g g^T, b, and the image's column of the inverse design matrix, so that
  QCF knows what the image contributes to each tensor element;
- images are fused by a mean, so neither order nor sign of the directions matters;
- it gives half-widths of intervals of FA and MD.

In both, QCF pools over a window around each voxel, not over the block that happens to be computed:
how a scan is cut into blocks does not matter beyond the reach of windows and convolutions. The
published form reads images that are standardised by mean and deviation of the scan, and its output
is standardised by those of the training tensors, which its weights hold and which are undone: what
comes out is in units, as is input and output of the default (see
:mod:`~dmri_fm.tensor_networks.inputs`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.layers import ResidualBlock, conv3d, dyadic_code, quieten
from dmri_fm.tensor_networks.inputs import (
    NORMALISATION,
    RATIO_RANGE,
    TensorEstimate,
    TensorInputs,
    fit_least_squares,
    half_widths,
    inverse_design,
    least_squares_deviation,
    log_share,
)

#: Points along the side of QCF's window at which its pooled features are computed; between them
#: they are interpolated.
POINTS_PER_WINDOW = 4

#: Apparent diffusivities are clipped to this, um^2/ms.
LARGEST_DIFFUSIVITY = 4.0

#: b=0 signals are clipped to this, in units of their mean.
LARGEST_S0 = 6.0


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
    pool_voxels
        Side of the window that QCF pools over, finest voxels; a part of it lies outside of
        training blocks, near their borders.
    starts_from_fit
        The default's form, see the module; else the published one.
    """

    widths: tuple[int, ...]
    n_items: int = 6
    is_shared: bool = True
    has_qcf: bool = True
    is_multiscale: bool = True
    qcf_hidden: int = 64
    branch_scale: float = 0.1
    pool_voxels: int = 64
    starts_from_fit: bool = False

    @property
    def stride(self) -> int:
        """Sides of a block must be multiples of this."""
        return max(int(2 ** (len(self.widths) - 1)), self.pool_voxels // POINTS_PER_WINDOW)

    @property
    def is_standardised(self) -> bool:
        """Whether images and tensors are standardised: in the published form."""
        return not self.starts_from_fit

    @property
    def margin_voxels(self) -> int:
        """Border of a block that is computed and thrown away."""
        return max(24, self.pool_voxels // 2)


#: The published network. Ships without weights.
PAPER = QcgDtiConfig(widths=(16, 32, 64, 128))

#: Description of input and output of networks that standardise.
STANDARDISED = {
    **NORMALISATION,
    "images": "minus the mean, over the deviation, of b=0 and weighted images within the brain",
    "target": "the weights' `target` holds mean and deviation of the training tensors' elements "
    "(um^2/ms), which are undone in the output",
}

#: The network whose weights ship with the package.
DEFAULT = QcgDtiConfig(widths=(8, 24, 48), pool_voxels=16, starts_from_fit=True)

_SMALL = replace(DEFAULT, widths=(8, 16, 24))

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

    Starts near the identity: the scale is 1 + alpha, and alpha and beta start small.
    """

    def __init__(self, channels: int, n_coordinates: int, hidden: int, *, std: float) -> None:
        super().__init__()
        self.pool = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU())
        last = nn.Linear(hidden, 2 * channels)
        nn.init.normal_(last.weight, std=std)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(hidden + n_coordinates, hidden), nn.ReLU(), last)

    def forward(self, features: Tensor, q: Tensor, mask: Tensor, window: int) -> Tensor:
        """Modulate (item, channel, X, Y, Z) by q (item, coordinate).

        `mask` is (item, 1, X, Y, Z), `window` the side of what is pooled, in voxels.
        """
        pooled = window_means(features, mask, window).movedim(1, -1)
        code = self.pool(pooled)
        q = q[:, None, None, None].expand(*code.shape[:-1], -1)
        numbers = self.mlp(torch.cat([code, q], dim=-1)).movedim(-1, 1)
        step, sides = window // POINTS_PER_WINDOW, features.shape[2:]
        size = [step * (n - 1) + 1 for n in numbers.shape[2:]]
        fine = functional.interpolate(numbers, size=size, mode="trilinear", align_corners=True)
        alpha, beta = fine[..., : sides[0], : sides[1], : sides[2]].chunk(2, dim=1)
        guided: Tensor = (1.0 + alpha) * features + beta
        return guided


def window_means(features: Tensor, mask: Tensor, window: int) -> Tensor:
    """Average features within the mask over windows.

    Parameters
    ----------
    features
        Shape (B, C, X, Y, Z).
    mask
        Shape (B, 1, X, Y, Z): weights, 0 to 1.
    window
        Side of a window, voxels, a multiple of :data:`POINTS_PER_WINDOW`, as are X, Y and Z of
        the step between windows. What lies beyond the images does not count.

    Returns
    -------
    Tensor
        Shape (B, C, X', Y', Z'), X' = X / step + 1: windows around the first edge of the images
        and of every further `window / POINTS_PER_WINDOW` voxels; zero without any mask.
    """
    step = window // POINTS_PER_WINDOW
    # Sums over cells of the step, then over the cells of a window, one axis after the other.
    sums = functional.avg_pool3d(torch.cat([features * mask, mask], dim=1), step) * step**3
    half = POINTS_PER_WINDOW // 2
    for axis in (2, 3, 4):
        pad = [0, 0] * (4 - axis) + [half, half]
        sums = functional.pad(sums, pad).unfold(axis, POINTS_PER_WINDOW, 1).sum(dim=-1)
    return sums[:, :-1] / sums[:, -1:].clamp(min=1e-3)


class _Items(NamedTuple):
    """What the encoder reads; an item is an image, or a scan where images are not apart."""

    images: Tensor  # (item, C, X, Y, Z)
    q: Tensor  # (item, coordinate)
    mask: Tensor  # (item, 1, X, Y, Z)


class QcgDti(nn.Module):
    """Network: :class:`TensorInputs` of exactly `n_items` images to :class:`TensorEstimate`."""

    normalisation = NORMALISATION
    target: Tensor  # (2,): mean and deviation of the training tensors' elements, um^2/ms

    def __init__(self, config: QcgDtiConfig) -> None:
        super().__init__()
        self.config = config
        widths, n, fit = config.widths, config.n_items, config.starts_from_fit
        own, common = (2, 2) if fit else (1, 1)  # channels of an image, and of all
        n_coordinates = 13 if fit else 4
        self.stem = conv3d(common + (own if config.is_shared else own * n), widths[0], 3)
        self.encoder = nn.ModuleList(MrdBlock(c, config) for c in widths)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        n_coordinates *= 1 if config.is_shared else n
        self.qcf = nn.ModuleList(
            Qcf(c, n_coordinates, config.qcf_hidden, std=0.1 if fit else 1e-2)
            for c in (widths if config.has_qcf else ())
        )
        n_fused = n if config.is_shared and not fit else 1
        more = [12 if fit else 0, *(0 for _ in widths[1:])]
        self.fusion = nn.ModuleList(
            conv3d(n_fused * c + m, c, 3) for c, m in zip(widths, more, strict=True)
        )
        below = [*(2 * c for c in widths[1:-1]), widths[-1]]
        self.up = nn.ModuleList(conv3d(b, c, 3) for b, c in zip(below, widths[:-1], strict=True))
        self.decoder = nn.ModuleList(MrdBlock(2 * c, config) for c in widths[:-1])
        self.head = conv3d(2 * widths[0], 8 if fit else 6, 3)
        if fit:
            quieten(self.head, config.branch_scale)
        if config.is_standardised:
            self.normalisation = STANDARDISED
            self.register_buffer("target", torch.tensor([0.0, 1.0]))

    def forward(self, inputs: TensorInputs) -> TensorEstimate:
        """Estimate tensors; sides of the images are multiples of `config.stride`.

        Raises
        ------
        ValueError
            If the number of images is not `config.n_items`.
        """
        config, mask = self.config, inputs.mask
        if inputs.ratios.shape[1] != config.n_items:
            raise ValueError(
                f"{inputs.ratios.shape[1]} images, but this network fuses {config.n_items}"
            )
        # Logarithms and inverses stay in full precision where the convolutions do not.
        with torch.autocast(mask.device.type, enabled=False):
            items = _items(inputs, config)
            start = _start(inputs) if config.starts_from_fit else None
        skips = self._encode(items, mask.shape[0], start)
        x = skips[-1]
        for level in reversed(range(len(self.decoder))):
            up = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = self.decoder[level](torch.cat([self.up[level](up), skips[level]], dim=1))
        numbers = self.head(x).to(mask.dtype)
        if config.is_standardised:
            mean, deviation = self.target
            numbers = mean + deviation * numbers
        if start is None:
            return TensorEstimate(numbers * mask)
        tensor = start[:, :6] + numbers[:, :6]
        return TensorEstimate(
            tensor * mask, half_widths(numbers[:, 6:], mask), skips[-1].to(mask.dtype)
        )

    def _encode(self, items: _Items, n_scans: int, start: Tensor | None) -> list[Tensor]:
        """Return the fused features of each level, finest first."""
        config, item_mask = self.config, items.mask
        x = self.stem(items.images)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            if level:
                x = self.down[level - 1](x)
                item_mask = functional.avg_pool3d(item_mask, 2)
            x = block(x)
            guided = x
            if config.has_qcf:
                guided = self.qcf[level](x, items.q, item_mask, config.pool_voxels >> level)
            if start is None:
                joined = rearrange(guided, "(b n) c x y z -> b (n c) x y z", b=n_scans)
            else:
                joined = reduce(guided, "(b n) c x y z -> b c x y z", "mean", b=n_scans)
                if not level:
                    joined = torch.cat([joined, start], dim=1)
            skips.append(self.fusion[level](joined))
        return skips


def _items(inputs: TensorInputs, config: QcgDtiConfig) -> _Items:
    """Return the images with what every image is told, and their q-space coordinates."""
    mask, n = inputs.mask, inputs.ratios.shape[1]
    s0 = inputs.s0.clamp(max=LARGEST_S0) if config.starts_from_fit else inputs.s0
    own = [inputs.ratios.clamp(0.0, RATIO_RANGE[1]) * s0]
    common, q = [s0], inputs.q
    if config.is_standardised:
        mean, deviation = inputs.intensity.T[..., None, None, None, None]
        own, common = [(own[0] - mean) / deviation], [(s0 - mean) / deviation]
    if config.starts_from_fit:
        bval = inputs.q[:, :, 3]
        attenuation = -inputs.ratios.clamp(*RATIO_RANGE).log()
        diffusivity = attenuation / bval[..., None, None, None]
        own.append(diffusivity.clamp(max=LARGEST_DIFFUSIVITY))
        relative = inputs.noise / inputs.s0.clamp(min=0.05)
        common.append(log_share(relative))
        columns = inverse_design(inputs.q).to(q.dtype).movedim(1, 2) * bval[..., None]
        q = torch.cat([dyadic_code(q[..., :3]), bval[..., None], columns], dim=-1)
    images, shared = torch.stack(own, dim=2) * mask[:, :, None], torch.cat(common, dim=1) * mask
    if not config.is_shared:
        flat = rearrange(images, "b n c x y z -> b (n c) x y z")
        return _Items(torch.cat([shared, flat], dim=1), rearrange(q, "b n c -> b (n c)"), mask)
    both = torch.cat([repeat(shared, "b c x y z -> b n c x y z", n=n), images], dim=2)
    return _Items(
        rearrange(both, "b n c x y z -> (b n) c x y z"),
        rearrange(q, "b n c -> (b n) c"),
        repeat(mask, "b 1 x y z -> (b n) 1 x y z", n=n),
    )


def _start(inputs: TensorInputs) -> Tensor:
    """Return the least-squares tensor and the log-deviation of its elements, (B, 12, X, Y, Z)."""
    tensor = fit_least_squares(inputs.ratios, inputs.q)
    deviation = log_share(least_squares_deviation(inputs))
    return torch.cat([tensor, deviation], dim=1) * inputs.mask
