"""Architecture of SSDiff encoders: the published one, and a compact one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dmri_fm.normalise.grid import Grid, mni_box


@dataclass(frozen=True)
class SsdiffConfig:
    """Architecture of an :class:`~dmri_fm.encoders.ssdiff.network.Ssdiff` encoder.

    Attributes
    ----------
    grid_shape, voxel_size_mm
        Voxels of the encoder's grid, see :attr:`grid`.
    block, direction_block
        Sides, in voxels, of the blocks over which the signal and the images of directions are
        averaged; 1: each voxel by itself.
    dim, heads, mlp_ratio
        Channels of a token, attention heads, widening of the MLP.
    encoder_blocks, middle_blocks, decoder_blocks
        Transformer blocks; features are read behind the middle ones, the decoder is for
        pretraining.
    position_dim
        Sines and cosines of a position along each axis.
    direction_code
        "mean": one linear map of the three images of the b-vectors' components, averaged over the
        components, as published. "dyadic": a linear map of the six images of v v^T, which is
        equal for v and -v.
    reads_b0
        Whether b=0 volumes are tokens too, with the vector (1, 0, 0), as published.
    signal_mean, signal_std
        S/S0 is shifted and scaled by these two numbers before the first layer.
    input_dropout
        Share of the voxels that pretraining masks.
    """

    grid_shape: tuple[int, int, int]
    voxel_size_mm: float
    block: int
    direction_block: int
    dim: int
    heads: int
    encoder_blocks: int
    middle_blocks: int
    decoder_blocks: int
    mlp_ratio: int = 4
    position_dim: int = 100
    direction_code: Literal["mean", "dyadic"] = "dyadic"
    reads_b0: bool = False
    signal_mean: float = 0.0
    signal_std: float = 1.0
    input_dropout: float = 0.75

    def __post_init__(self) -> None:
        for side in (self.block, self.direction_block):
            if side < 1 or any(n % side for n in self.grid_shape):
                raise ValueError(f"blocks of {side} voxels do not tile the grid {self.grid_shape}")
        if self.dim % self.heads or self.position_dim % 2:
            raise ValueError("dim must be a multiple of heads, position_dim of 2")
        if self.direction_code not in ("mean", "dyadic"):
            raise ValueError(f"unknown direction code {self.direction_code!r}")

    @property
    def grid(self) -> Grid:
        """Grid in MNI152NLin2009aSym that the encoder reads, see :mod:`dmri_fm.normalise.grid`."""
        return mni_box(self.grid_shape, self.voxel_size_mm)


#: The published encoder. Ships without weights.
PAPER = SsdiffConfig(
    grid_shape=(96, 112, 96),
    voxel_size_mm=2.0,
    block=1,
    direction_block=1,
    dim=1536,
    heads=16,
    encoder_blocks=12,
    middle_blocks=1,
    decoder_blocks=6,
    direction_code="mean",
    reads_b0=True,
)

#: The compact encoder: blocks of 4 mm, half as many transformer blocks, a twelfth as wide, with a
#: direction code that is equal for v and -v.
COMPACT = SsdiffConfig(
    grid_shape=(96, 112, 96),
    voxel_size_mm=2.0,
    block=2,
    direction_block=16,
    dim=128,
    heads=8,
    encoder_blocks=6,
    middle_blocks=1,
    decoder_blocks=3,
    signal_mean=0.35,
    signal_std=0.2,
)
