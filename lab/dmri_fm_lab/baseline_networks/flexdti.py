"""FlexDTI, small: convolutions whose kernels are computed from the gradient direction.

Method: Wu et al. 2024, https://doi.org/10.1088/1361-6560/ad45a5. A small network turns the
direction of each weighted image into a convolution kernel, which that image passes; the features
of all images, on channels, enter a convolutional network that estimates the tensor. The number of
images is limited by the number of channels; channels without an image are zero. The b-value is
not an input.

Differences: no code is public, so layers and widths are this project's; three dimensions in
place of two, as Zheng et al. 2025 (doi:10.1631/FITEE.2400766) have it; each image passes its
kernel together with the b=0 image; 28 channels and plain residual blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.layers import ResidualBlock, conv3d
from dmri_fm.tensor_networks.inputs import (
    NORMALISATION,
    RATIO_RANGE,
    TensorEstimate,
    TensorInputs,
)

#: Side of the computed kernels, voxels.
KERNEL = 3


@dataclass(frozen=True)
class FlexDtiConfig:
    """Architecture of a :class:`FlexDti`.

    Attributes
    ----------
    features
        Channels that each image's computed kernel gives.
    channels
        Of the network that reads them.
    n_blocks
        Its residual blocks.
    hidden
        Width of the network that computes kernels.
    most_images
        Largest number of weighted images.
    """

    features: int = 8
    channels: int = 28
    n_blocks: int = 3
    hidden: int = 32
    most_images: int = 6

    @property
    def stride(self) -> int:
        """Sides of a block must be multiples of this."""
        return 1


class DynamicConvolution(nn.Module):
    """Convolve pairs of images by kernels that depend on directions."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.features = features
        self.kernel = nn.Sequential(
            nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2 * features * KERNEL**3)
        )

    def forward(self, pairs: Tensor, directions: Tensor) -> Tensor:
        """Map pairs (B, N, 2, X, Y, Z) by directions (B, N, 3) to (B, N features, X, Y, Z)."""
        n = pairs.shape[1]
        kernels = rearrange(
            self.kernel(directions),
            "b n (f c i j k) -> (b n f) c i j k",
            f=self.features,
            c=2,
            i=KERNEL,
            j=KERNEL,
        )
        groups = pairs.shape[0] * n
        out = functional.conv3d(
            rearrange(pairs, "b n c x y z -> 1 (b n c) x y z"),
            kernels,
            padding=KERNEL // 2,
            groups=groups,
        )
        return rearrange(out, "1 (b n f) x y z -> b (n f) x y z", n=n, f=self.features)


class FlexDti(nn.Module):
    """Network: :class:`TensorInputs` of up to `most_images` images to :class:`TensorEstimate`."""

    normalisation = NORMALISATION

    def __init__(self, config: FlexDtiConfig) -> None:
        super().__init__()
        self.config = config
        self.dynamic = DynamicConvolution(config.features, config.hidden)
        self.first = conv3d(config.most_images * config.features, config.channels, 3)
        self.blocks = nn.Sequential(
            *(ResidualBlock(config.channels, 1.0) for _ in range(config.n_blocks))
        )
        self.head = conv3d(config.channels, 6, 3)

    def forward(self, inputs: TensorInputs) -> TensorEstimate:
        """Estimate tensors.

        Raises
        ------
        ValueError
            If there are more images than `config.most_images`.
        """
        n, most = inputs.ratios.shape[1], self.config.most_images
        if n > most:
            raise ValueError(f"{n} images, but this network reads {most} at most")
        weighted = inputs.ratios.clamp(0.0, RATIO_RANGE[1]) * inputs.s0 * inputs.mask
        b0 = repeat(inputs.s0 * inputs.mask, "b 1 x y z -> b n x y z", n=n)
        features = self.dynamic(torch.stack([b0, weighted], dim=2), inputs.q[..., :3])
        absent = (most - n) * self.config.features
        features = functional.pad(features, (0, 0, 0, 0, 0, 0, 0, absent))
        x = self.blocks(self.first(features.relu()).relu())
        return TensorEstimate(self.head(x) * inputs.mask)
