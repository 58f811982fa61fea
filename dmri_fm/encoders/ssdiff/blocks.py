"""Blocks of voxels of the template's brain: the places whose mean signal SSDiff reads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from einops import rearrange, reduce
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from dmri_fm.encoders.ssdiff.config import SsdiffConfig
from dmri_fm.normalise.grid import Grid, resample_image
from dmri_fm.normalise.template import load_template

#: Least share of a block that must lie in the template's brain.
LEAST_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class BrainBlocks:
    """Blocks that hold the template's brain, V in number, in C order.

    Attributes
    ----------
    side
        Voxels of a block along each axis.
    shape
        Blocks along each axis of the grid.
    index
        Shape (V,): their places in the flattened grid of blocks.
    """

    side: int
    shape: tuple[int, int, int]
    index: NDArray[np.int_]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def ijk(self) -> NDArray[np.int_]:
        """Shape (V, 3): indices of the blocks along the axes."""
        return np.stack(np.unravel_index(self.index, self.shape), axis=1)

    def voxels(self) -> NDArray[np.int_]:
        """Return the indices of the voxels of each block, shape (V, side^3, 3)."""
        inner = np.indices((self.side,) * 3).reshape(3, -1).T
        return self.side * self.ijk[:, None] + inner

    def mask(self) -> NDArray[np.bool_]:
        """Return which voxels of the grid, shape (X, Y, Z), lie in a block."""
        found = self.image(np.ones(len(self))) > 0
        for axis in range(3):
            found = found.repeat(self.side, axis=axis)
        return found

    def affine(self, grid: Grid) -> NDArray[np.float64]:
        """Return the affine (4, 4) of an image with a voxel per block, to RAS+ mm."""
        affine = grid.affine.copy()
        affine[:3, :3] *= self.side
        affine[:3, 3] = apply_affine(grid.affine, np.full(3, (self.side - 1) / 2))
        return affine

    def means(self, volumes: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Return the mean of volumes (..., X, Y, Z) over the masked voxels of each block.

        Shape (..., V), float32; NaN in blocks without a masked voxel.
        """
        inside = self._sums(mask.astype(np.float32))
        total = self._sums(np.where(mask, volumes, 0).astype(np.float32))
        with np.errstate(invalid="ignore"):
            return np.asarray(total / np.where(inside > 0, inside, np.nan))

    def _sums(self, volumes: NDArray[np.float32]) -> NDArray[np.float32]:
        side = self.side
        sums = reduce(volumes, "... (x a) (y b) (z c) -> ... x y z", "sum", a=side, b=side, c=side)
        return np.asarray(rearrange(sums, "... x y z -> ... (x y z)")[..., self.index])

    def image(self, values: NDArray[np.floating], *, fill: float = 0.0) -> NDArray[np.float32]:
        """Return an image with a voxel per block, of the shape of the grid of blocks."""
        out = np.full(int(np.prod(self.shape)), fill, dtype=np.float32)
        out[self.index] = values
        return out.reshape(self.shape)


@lru_cache(maxsize=8)
def brain_blocks(config: SsdiffConfig, side: int) -> BrainBlocks:
    """Return the blocks of a side, in voxels, that hold the template's brain on a grid."""
    template = load_template(2)
    brain = resample_image(
        template.brain_mask.astype(np.float32), template.grid.affine, config.grid, order=1
    )
    inside = (brain > 0.5).astype(np.float32)
    share = reduce(inside, "(x a) (y b) (z c) -> x y z", "mean", a=side, b=side, c=side)
    x, y, z = share.shape
    return BrainBlocks(side, (x, y, z), np.flatnonzero(share.ravel() >= LEAST_SHARE))
