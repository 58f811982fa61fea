"""DeepDTI, small: a 3-D residual network that denoises seven images; then the tensor is fitted.

Method: Tian et al. 2020, https://doi.org/10.1016/j.neuroimage.2020.117017. One b=0 image and six
weighted images enter on channels, a plain convolutional network estimates their noise, and the
tensor of the images without it is the result. Published for one set of directions: the network is
not told them.

Differences: 32 channels and 8 layers in place of 190 and 10; no T1- and T2-weighted images; images
in units of the mean b=0 in place of standardised ones; and the loss is that of the fitted
tensor, as for the other networks here, not that of the images, because training patches of real
scans have no image free of noise. The last layer starts near zero, so that training starts from
the least-squares tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmri_fm.layers import conv3d, quieten
from dmri_fm.tensor_networks.inputs import (
    NORMALISATION,
    RATIO_RANGE,
    TensorEstimate,
    TensorInputs,
    fit_least_squares,
)

#: Least denoised b=0 signal that weighted images are divided by, in units of the mean b=0.
LEAST_B0 = 0.03


@dataclass(frozen=True)
class DeepDtiConfig:
    """Architecture of a :class:`DeepDti`.

    Attributes
    ----------
    channels
        Of the layers between the first and the last.
    n_layers
        Convolutions.
    n_items
        Weighted images.
    last_scale
        Factor on the initial weights of the last layer.
    """

    channels: int = 32
    n_layers: int = 8
    n_items: int = 6
    last_scale: float = 0.1

    @property
    def stride(self) -> int:
        """Sides of a block must be multiples of this."""
        return 1


class DeepDti(nn.Module):
    """Network: :class:`TensorInputs` of `n_items` images to :class:`TensorEstimate`."""

    normalisation = NORMALISATION

    def __init__(self, config: DeepDtiConfig) -> None:
        super().__init__()
        self.config = config
        n, width = 1 + config.n_items, config.channels
        layers: list[nn.Module] = [conv3d(n, width, 3), nn.ReLU()]
        for _ in range(config.n_layers - 2):
            layers += [conv3d(width, width, 3), nn.ReLU()]
        last = conv3d(width, n, 3)
        quieten(last, config.last_scale)
        self.noise = nn.Sequential(*layers, last)

    def forward(self, inputs: TensorInputs) -> TensorEstimate:
        """Denoise the images and fit their tensors.

        Raises
        ------
        ValueError
            If the number of weighted images is not `config.n_items`.
        """
        n = inputs.ratios.shape[1]
        if n != self.config.n_items:
            raise ValueError(f"{n} images, but this network reads {self.config.n_items}")
        measured = inputs.ratios.clamp(0.0, RATIO_RANGE[1]) * inputs.s0
        images = torch.cat([inputs.s0, measured], dim=1) * inputs.mask
        b0, weighted = (images - self.noise(images)).split([1, n], dim=1)
        ratios: Tensor = weighted / b0.clamp(min=LEAST_B0)
        return TensorEstimate(fit_least_squares(ratios, inputs.q) * inputs.mask)
