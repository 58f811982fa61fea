"""U-Net over the volumes of one shell, pretrained to remove artefacts.

Weninger et al. 2022, doi:10.1007/978-3-658-36932-3_32: 64 directions are channels; three levels
of two convolutions with instance normalisation, a bridge, transposed convolutions, skip
connections.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.layers import conv3d
from dmri_fm.normalise.grid import Grid, mni_box


@dataclass(frozen=True)
class UnetConfig:
    """Architecture of an :class:`ArtefactUnet`.

    Attributes
    ----------
    grid_shape, voxel_size_mm
        Voxels of the encoder's grid, see :attr:`grid`; sides are multiples of :attr:`stride`.
    n_directions
        Directions of the shell on which the network reads and writes, those of
        :func:`dmri_fm.shell_resampling.fixed_directions`.
    widths
        Channels of each level, the bridge last.
    """

    grid_shape: tuple[int, int, int] = (80, 96, 80)
    voxel_size_mm: float = 2.4
    n_directions: int = 64
    widths: tuple[int, ...] = (16, 32, 64, 128)

    def __post_init__(self) -> None:
        if any(n % self.stride for n in self.grid_shape):
            raise ValueError(f"sides of {self.grid_shape} must be multiples of {self.stride}")

    @property
    def stride(self) -> int:
        """Voxels along a side that the bridge sees as one."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def grid(self) -> Grid:
        """Grid in MNI152NLin2009aSym that the encoder reads, see :mod:`dmri_fm.normalise.grid`."""
        return mni_box(self.grid_shape, self.voxel_size_mm)


#: The published network, 2.07M parameters. Ships without weights.
PAPER = UnetConfig()


def double_convolution(n_in: int, n_out: int) -> nn.Sequential:
    """Build two convolutions, each with instance normalisation and ReLU."""
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers += [conv3d(n, n_out, 3), nn.InstanceNorm3d(n_out), nn.ReLU()]
    return nn.Sequential(*layers)


class ArtefactUnet(nn.Module):
    """From S/S0 of a shell with artefacts to S/S0 without, on the same directions.

    Parameters
    ----------
    config
        Architecture.
    n_outputs
        Channels of the output; those of the input if None. A task in place of the pretraining has
        an output layer of its own.
    """

    def __init__(self, config: UnetConfig, *, n_outputs: int | None = None) -> None:
        super().__init__()
        self.config = config
        *levels, bridge = config.widths
        inputs = (config.n_directions, *levels)
        self.down = nn.ModuleList(
            double_convolution(a, b) for a, b in zip(inputs[:-1], levels, strict=True)
        )
        self.bridge = double_convolution(inputs[-1], bridge)
        above = (*levels[1:], bridge)
        self.grow = nn.ModuleList(
            nn.ConvTranspose3d(n, n, 3, stride=2, padding=1, output_padding=1) for n in above
        )
        self.up = nn.ModuleList(
            double_convolution(n + level, level) for n, level in zip(above, levels, strict=True)
        )
        self.out = nn.Conv3d(levels[0], n_outputs or config.n_directions, 1)

    @property
    def normalisation(self) -> dict[str, object]:
        """Description of the input, for the file of weights."""
        return {"signal": "S / mean b=0, clipped to 0 to 1, on fixed directions of one shell"}

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_directions, X, Y, Z) to (B, n_outputs, X, Y, Z).

        Sides are multiples of the stride.
        """
        code, skipped = self._descend(x)
        levels = zip(reversed(self.grow), reversed(self.up), reversed(skipped), strict=True)
        for grow, level, skip in levels:
            code = level(torch.cat([grow(code), skip], dim=1))
        return self.out(code)  # type: ignore[no-any-return]

    def encode(self, x: Tensor) -> Tensor:
        """Return the bridge's output, shape (B, widths[-1], X / stride, ...)."""
        return self._descend(x)[0]

    def _descend(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        skipped = []
        for level in self.down:
            x = level(x)
            skipped.append(x)
            x = functional.max_pool3d(x, 2)
        code: Tensor = self.bridge(x)
        return code, skipped
