"""The default tensor network: averages neighbours with learnt weights, fits, and corrects.

The published QCG-DTI (:mod:`~dmri_fm.tensor_networks.qcg_dti`) lets a network learn how images,
b-vectors and b-values make a tensor. Here least squares does that, exactly: q-space enters
through the design matrix and through the standard deviation that it gives each element. A U-Net
sees the least-squares tensor and its deviation, voxel by voxel, and estimates

- the weights with which the images of a voxel and its neighbours are averaged before the tensor
  is fitted: a mixture of Gaussians, and a factor for each neighbour (Mildenhall et al. 2018,
  doi:10.1109/CVPR.2018.00265, call it kernel prediction),
- how much of the tensor of locally denoised images (:mod:`~dmri_fm.tensor_networks.local_pca`)
  to take in,
- both for the mean diffusivity and for the rest of the tensor apart, as grey matter is isotropic
  over wide areas whose diffusivity is not the same everywhere,
- by what factor the anisotropic part is to be stretched, as averages lose anisotropy,
- what then has to be added to the tensor,
- how large the errors of FA and MD are likely to be.

So order and sign of the directions cannot matter, any number from six on works, units stay
physical, and nothing is pooled over the block: its size does not matter beyond the receptive
field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.layers import ResidualBlock, conv3d
from dmri_fm.tensor_networks.inputs import (
    DEVIATION_LIMITS,
    NORMALISATION,
    RATIO_RANGE,
    TensorEstimate,
    TensorInputs,
    fit_least_squares,
    half_widths,
    least_squares_deviation,
    log_share,
    mean_diffusivity,
    tensor_fa,
)
from dmri_fm.tensor_networks.local_pca import denoise_locally

#: See :func:`_channels`.
N_CHANNELS = 4 * 6 + 4 + 3 + 6 + 1 + 1 + 1 + 5

#: Steps, voxels, to the neighbours that are averaged. All of the 3^3 cube; then faces and edges
#: of cubes twice and four times as wide, where the images are blurred first, the more the farther.
NEAR = tuple(product((-1, 0, 1), repeat=3))
_RIM = tuple(step for step in NEAR if 0 < sum(map(abs, step)) < 3)
RINGS = tuple(tuple((r * i, r * j, r * k) for i, j, k in _RIM) for r in (2, 4))
TAPS = (*NEAR, *RINGS[0], *RINGS[1])

#: Widths of the Gaussians that the weights are mixed of, voxels, and which of them an untrained
#: network prefers.
SIGMAS = (0.2, 0.5, 0.7, 1.0, 1.5, 2.5)
PREFERRED = 1

#: Factor of the network's numbers before they become weights: these have to move
#: much farther in training than the corrections of the tensor.
GAIN = 5.0

#: The anisotropic part of a tensor is stretched or shrunk by this at most, as a logarithm.
LARGEST_STRETCH = 1.0

#: A weight differs from that of the mixture by this factor at most, up or down, as a logarithm.
LARGEST_LOG_FACTOR = 8.0


@dataclass(frozen=True)
class RefinerConfig:
    """Architecture of a :class:`TensorRefiner`.

    Attributes
    ----------
    widths
        Channels of the levels, finest first; each level halves the grid.
    encoder_blocks, decoder_blocks
        Residual blocks of each level; the coarsest has no decoder.
    branch_scale
        Factor on the initial weights of the last convolution of a block.
    """

    widths: tuple[int, ...] = (16, 32, 64)
    encoder_blocks: tuple[int, ...] = (1, 2, 2)
    decoder_blocks: tuple[int, ...] = (1, 1)
    branch_scale: float = 0.1

    @property
    def stride(self) -> int:
        """Sides of a block must be multiples of this."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def margin_voxels(self) -> int:
        """Border of a block that is computed and thrown away."""
        return 24


#: The network whose weights ship with the package.
DEFAULT = RefinerConfig()


class _VoxelNumbers(NamedTuple):
    """Numbers that the U-Net gives for each voxel, (B, C, X, Y, Z), in their order."""

    correction: Tensor  # added to the tensor
    log_width: Tensor  # half-widths of the intervals of FA and MD
    size_scales: Tensor  # logits of the Gaussians' shares, for the mean diffusivity
    shape_scales: Tensor  # the same for the rest of the tensor
    blend: Tensor  # logits of the shares of the locally denoised images' tensor, for both parts
    log_stretch: Tensor  # factor of the anisotropic part
    log_factors: Tensor  # factors of the weights of the neighbours

    @classmethod
    def split(cls, channels: Tensor, *, dim: int) -> _VoxelNumbers:
        """Split outputs along their channels."""
        return cls(*channels.split(_N_NUMBERS, dim=dim))


#: Channels of each of :class:`_VoxelNumbers`.
_N_NUMBERS = (6, 2, len(SIGMAS), len(SIGMAS), 2, 1, len(TAPS))


class _Convolved(NamedTuple):
    """Outputs of the U-Net: all numbers of each voxel, and its coarsest features."""

    numbers: Tensor  # (B, C, X, Y, Z)
    code: Tensor  # (B, C', X', Y', Z')


class TensorRefiner(nn.Module):
    """Network: :class:`TensorInputs` to :class:`TensorEstimate`."""

    normalisation = NORMALISATION

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths

        def blocks(channels: int, n: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(channels, config.branch_scale) for _ in range(n)))

        self.stem = conv3d(N_CHANNELS, widths[0], 3)
        self.encoder = nn.ModuleList(
            blocks(c, n) for c, n in zip(widths, config.encoder_blocks, strict=True)
        )
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, 2) for a, b in pairwise(widths))
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(
            blocks(c, n) for c, n in zip(widths[:-1], config.decoder_blocks, strict=True)
        )
        self.join = conv3d(widths[0], 2 * widths[0], 3)
        self.head = nn.Conv3d(2 * widths[0], sum(_N_NUMBERS), 1)
        nn.init.normal_(self.head.weight, std=1e-3)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)
        biases = _VoxelNumbers.split(self.head.bias.detach(), dim=0)
        for scales in (biases.size_scales, biases.shape_scales):
            scales[PREFERRED] = 2.0 / GAIN

    def forward(self, inputs: TensorInputs) -> TensorEstimate:
        """Estimate tensors; sides of the images are multiples of `config.stride`."""
        # Logarithms and inverses stay in full precision where the convolutions do not.
        with torch.autocast(inputs.mask.device.type, enabled=False):
            pyramid = image_pyramid(inputs)
            shared = fit_least_squares(_ratios(_shared_part(inputs, pyramid[0])), inputs.q)
            channels = _channels(inputs, pyramid, shared)
        convolved = self._convolve(channels)
        with torch.autocast(inputs.mask.device.type, enabled=False):
            numbers = _VoxelNumbers.split(convolved.numbers.to(channels.dtype), dim=1)
            tensor = _assemble_tensor(numbers, inputs, pyramid, shared)
            width = half_widths(GAIN * numbers.log_width, inputs.mask)
        return TensorEstimate(tensor, width, convolved.code)

    def _convolve(self, channels: Tensor) -> _Convolved:
        x = self.stem(channels)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            if level:
                skips.append(x)
                x = self.down[level - 1](x)
            x = block(x)
        code = x
        for level in reversed(range(len(self.decoder))):
            up = functional.interpolate(self.up[level](x), scale_factor=2, mode="nearest")
            x = self.decoder[level](skips[level] + up)
        return _Convolved(self.head(self.join(x.relu_()).relu_()), code)


def _assemble_tensor(
    numbers: _VoxelNumbers, inputs: TensorInputs, pyramid: Sequence[Tensor], shared: Tensor
) -> Tensor:
    """Return tensors (B, 6, X, Y, Z); `shared` is that of the locally denoised images."""
    log_factors = (GAIN * numbers.log_factors).clamp(-LARGEST_LOG_FACTOR, LARGEST_LOG_FACTOR)
    factors = log_factors.exp()

    def average(scales: Tensor, share: Tensor) -> Tensor:
        weights = factors * mixed_weights(GAIN * scales)
        tensor = fit_least_squares(average_neighbours(pyramid, weights), inputs.q)
        return tensor + share * (shared - tensor)

    size_share, shape_share = (GAIN * numbers.blend).sigmoid().split(1, dim=1)
    size = average(numbers.size_scales, size_share)
    shape = average(numbers.shape_scales, shape_share)
    # Averaging takes anisotropy away, and noise adds some: one factor for each voxel.
    stretch = (GAIN * numbers.log_stretch).clamp(-LARGEST_STRETCH, LARGEST_STRETCH).exp()
    identity = numbers.correction.new_tensor([1.0, 0, 0, 1, 0, 1])[:, None, None, None]
    anisotropic = stretch * (shape - mean_diffusivity(shape) * identity)
    tensor = mean_diffusivity(size) * identity + anisotropic + numbers.correction
    return tensor * inputs.mask


def coarse_codes(code: Tensor, mask: Tensor) -> Tensor:
    """Return the features (M, C) of coarse voxels that lie in the brain by more than half.

    Parameters
    ----------
    code
        Shape (B, C, X', Y', Z').
    mask
        Shape (B, 1, X, Y, Z).
    """
    stride = mask.shape[-1] // code.shape[-1]
    share = functional.avg_pool3d(mask, stride)[:, 0]
    return code.movedim(1, 4)[share > 0.5]


def _gaussian_weights() -> Tensor:
    """Return the weights (K, N) of N neighbours for each of K Gaussians; rows sum to one.

    A neighbour in a ring of blurred images stands for all voxels nearer to it than to others.
    """
    distance = torch.tensor(TAPS, dtype=torch.float32).square().sum(dim=1)
    share = len(NEAR) / len(_RIM)
    size = torch.tensor([1.0] * len(NEAR) + [8.0 * share] * len(_RIM) + [64.0 * share] * len(_RIM))
    sigma = torch.tensor(SIGMAS)[:, None]
    weights = size * torch.exp(-distance / (2 * sigma.square()))
    return weights / weights.sum(dim=1, keepdim=True)


def mixed_weights(scales: Tensor) -> Tensor:
    """Return weights of the neighbours, (B, N, X, Y, Z), that add up to one.

    Parameters
    ----------
    scales
        Shape (B, K, X, Y, Z): logits of the shares of the Gaussians of :data:`SIGMAS`.
    """
    return torch.einsum("bkxyz,kn->bnxyz", scales.softmax(dim=1), _gaussian_weights().to(scales))


def average_neighbours(pyramid: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return S/S0 (B, N, X, Y, Z) of averaged images.

    Neighbours outside the mask have no weight.

    Parameters
    ----------
    pyramid
        From :func:`image_pyramid`.
    weights
        Shape (B, K, X, Y, Z), in the order of :data:`TAPS`.
    """
    total: Tensor = _WeightedSum.apply(weights.contiguous(), *pyramid)
    return _ratios(total / total[:, -1:].clamp(min=1e-6))


class _WeightedSum(torch.autograd.Function):
    """Sum shifted images with the weights of each voxel; images get no gradient.

    Written out as autograd would otherwise keep every product and a copy of every weight.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *images: Tensor) -> Tensor:
        ctx.save_for_backward(weights, *images)
        total = torch.zeros_like(images[0])
        for k, shifted in enumerate(_shifted(images)):
            total.addcmul_(weights[:, k : k + 1], shifted)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        weights, *images = ctx.saved_tensors
        out = torch.empty_like(weights)
        for k, shifted in enumerate(_shifted(images)):
            torch.sum(gradient * shifted, dim=1, out=out[:, k])
        return out, None, None, None


def _shifted(images: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the neighbours in the order of :data:`TAPS`; zeros lie beyond the border."""
    x, y, z = images[0].shape[2:]
    for image, steps in zip(images, (NEAR, *RINGS), strict=True):
        reach = max(map(max, steps))
        padded = functional.pad(image, (reach,) * 6)
        for step in steps:
            i, j, k = (s + reach for s in step)
            yield padded[:, :, i : i + x, j : j + y, k : k + z]


def _blur(images: Tensor, reach: int) -> Tensor:
    """Blur (B, C, X, Y, Z) with the weights 1/4, 1/2, 1/4 at -reach, 0, reach of each axis."""
    for axis in (2, 3, 4):
        n = images.shape[axis]
        wide = functional.pad(images, [0, 0] * (4 - axis) + [reach, reach])
        neighbours = wide.narrow(axis, 0, n) + wide.narrow(axis, 2 * reach, n)
        images = 0.5 * images + 0.25 * neighbours
    return images


def image_pyramid(inputs: TensorInputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return images and mask, (B, N + 2, X, Y, Z), sharp and twice blurred: weighted, b=0, mask.

    Blurred images have to be divided by the blurred mask.
    """
    weighted = inputs.ratios.clamp(max=RATIO_RANGE[1]) * inputs.s0
    sharp = torch.cat([torch.cat([weighted, inputs.s0], dim=1) * inputs.mask, inputs.mask], dim=1)
    soft = _blur(sharp, 1)
    return sharp, soft, _blur(soft, 2)


def _shared_part(inputs: TensorInputs, sharp: Tensor) -> Tensor:
    """Return the sharp images of the pyramid, denoised locally."""
    images, mask = sharp[:, :-1], sharp[:, -1:]
    sigma = inputs.noise.repeat(1, images.shape[1], 1, 1, 1)
    sigma[:, -1] /= inputs.n_b0.sqrt()[:, None, None, None]
    return torch.cat([denoise_locally(images, mask, sigma), mask], dim=1)


def _ratios(images: Tensor) -> Tensor:
    """Return S/S0 (B, N, X, Y, Z) of images as :func:`image_pyramid` returns them."""
    weighted, b0 = images[:, :-2], images[:, -2:-1]
    return weighted / b0.clamp(min=1e-3 * images[:, -1:].clamp(min=1e-3))


def _channels(inputs: TensorInputs, pyramid: Sequence[Tensor], shared: Tensor) -> Tensor:
    """Stack the input of the U-Net, (B, C, X, Y, Z).

    The tensors of sharp, blurred and locally denoised images; how far these are from the sharp
    one's, in its standard deviations, which tells structure from noise; deviations as logarithms,
    so that a factor between scans is a step; and the numbers of the scan.
    """
    s0, mask = inputs.s0, inputs.mask
    deviation = least_squares_deviation(inputs).clamp(*DEVIATION_LIMITS)
    tensors = [*(fit_least_squares(_ratios(images), inputs.q) for images in pyramid), shared]
    apart = [
        ((t - tensors[0]) / deviation).square().mean(dim=1, keepdim=True).log1p()
        for t in tensors[1:]
    ]
    relative = (inputs.noise / s0.clamp(min=0.05)).clamp(max=1.0)
    numbers = torch.cat(
        [
            inputs.q[:, :, 3].mean(dim=1, keepdim=True),
            (inputs.q.shape[1] / 6 * torch.ones_like(inputs.q[:, :1, 0])).log(),
            (inputs.voxel_mm / 2).log(),
        ],
        dim=1,
    )
    maps = [
        *tensors,
        *(tensor_fa(t)[:, None].clamp(max=1.5) for t in tensors),
        *apart,
        log_share(deviation),
        log_share(relative),
        s0.clamp(max=6.0),
        torch.ones_like(mask),
        numbers[:, :, None, None, None].expand(-1, -1, *s0.shape[2:]),
    ]
    return torch.cat(maps, dim=1) * mask
