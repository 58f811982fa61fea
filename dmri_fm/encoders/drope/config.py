"""Architecture of D-RoPE encoders: the published one, and ours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from dmri_fm.encoders.drope.rotary import Layout, RotaryTables, rotary_tables
from dmri_fm.normalise.grid import Grid, mni_box


@dataclass(frozen=True)
class DropeConfig:
    """Architecture of a :class:`~dmri_fm.encoders.drope.network.Drope` encoder.

    Attributes
    ----------
    grid_shape, voxel_size_mm
        Voxels of the encoder's grid, see :attr:`grid`.
    patch
        Voxels of a patch along each axis; divides `grid_shape`.
    dim
        Channels of a token, a multiple of 12 and of twice `heads`.
    depth, heads, mlp_ratio
        Blocks, attention heads, widening of the two MLPs of a block.
    gamma
        Weight of the squared difference of b / 1000 against the squared angle in radians.
    base
        The slowest rotary frequency is about 1 / `base`; below 1, the fastest.
    rotary
        Layout of the frequencies over channels, see :data:`dmri_fm.encoders.drope.rotary.Layout`.
    direction_code
        "spherical": linear in (rho, theta, phi), as published. "dyadic": linear in rho v v^T.
    pos_scale
        Patch centres in voxels are multiplied by this before they are encoded.
    patch_centre
        Position of a patch of p voxels: "middle", (p - 1) / 2; or "voxel", p // 2, as in the
        authors' code.
    is_packed
        Whether only patches that hold brain become tokens.
    signal_mean, signal_std
        S/S0 is shifted and scaled by these two numbers before the first layer.
    """

    grid_shape: tuple[int, int, int]
    voxel_size_mm: float
    patch: tuple[int, int, int]
    dim: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    gamma: float = 0.5
    base: float = 10000.0
    direction_code: Literal["spherical", "dyadic"] = "dyadic"
    pos_scale: float = 1.0
    is_packed: bool = True
    signal_mean: float = 0.0
    signal_std: float = 1.0
    rotary: Layout = "paired"
    patch_centre: Literal["middle", "voxel"] = "middle"

    def __post_init__(self) -> None:
        if any(n % p for n, p in zip(self.grid_shape, self.patch, strict=True)):
            raise ValueError(f"patches {self.patch} do not tile the grid {self.grid_shape}")
        if self.dim % 12 or self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of 12 and of 2 * heads")
        if self.direction_code not in ("spherical", "dyadic"):
            raise ValueError(f"unknown direction code {self.direction_code!r}")
        if self.rotary not in get_args(Layout):
            raise ValueError(f"unknown rotary layout {self.rotary!r}")
        if self.patch_centre not in ("middle", "voxel"):
            raise ValueError(f"unknown patch centre {self.patch_centre!r}")

    @property
    def grid(self) -> Grid:
        """Grid in MNI152NLin2009aSym that the encoder reads, see :mod:`dmri_fm.normalise.grid`."""
        return mni_box(self.grid_shape, self.voxel_size_mm)

    def rotary_tables(
        self, qspace: Tensor, head_dim: int, *, dtype: torch.dtype = torch.float32
    ) -> RotaryTables:
        """Prepare the rotations between measurements (B, T, 3) for one attention head."""
        return rotary_tables(
            qspace, head_dim, gamma=self.gamma, base=self.base, layout=self.rotary, dtype=dtype
        )

    @property
    def patch_grid(self) -> tuple[int, int, int]:
        """Number of patches along each axis of the grid."""
        a, b, c = (n // p for n, p in zip(self.grid_shape, self.patch, strict=True))
        return a, b, c


#: The published encoder (35M parameters). Ships without weights.
PAPER = DropeConfig(
    grid_shape=(192, 224, 192),
    voxel_size_mm=1.0,
    patch=(8, 8, 4),
    dim=384,
    depth=10,
    heads=3,
    direction_code="spherical",
    is_packed=False,
)

#: The small encoder whose weights ship with the package (8.9M parameters): the published one on a
#: grid of 2 mm, half as wide, on patches that hold brain, with a direction code without a seam.
SMALL = DropeConfig(
    grid_shape=(96, 112, 96),
    voxel_size_mm=2.0,
    patch=(8, 8, 4),
    dim=192,
    depth=10,
    heads=3,
    signal_mean=0.35,
    signal_std=0.2,
)

#: A yet smaller encoder (0.5M parameters) for comparisons of trainings.
ABLATION = replace(SMALL, dim=84, depth=3)
