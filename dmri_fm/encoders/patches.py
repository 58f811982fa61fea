"""Volumes cut into patches, for encoders on a grid of patches."""

from __future__ import annotations

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.normalise.grid import Grid


def patchify(volumes: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Cut (B, T, X, Y, Z) into (B, T, S, P), patches and voxels in C order of their axes."""
    p1, p2, p3 = patch
    return rearrange(
        volumes, "b t (h p1) (w p2) (z p3) -> b t (h w z) (p1 p2 p3)", p1=p1, p2=p2, p3=p3
    )


def unpatchify(
    patches: Tensor, patch: tuple[int, int, int], patch_grid: tuple[int, int, int]
) -> Tensor:
    """Assemble (B, T, S, P) into (B, T, X, Y, Z); inverse of :func:`patchify`."""
    (p1, p2, p3), (h, w, z) = patch, patch_grid
    return rearrange(
        patches,
        "b t (h w z) (p1 p2 p3) -> b t (h p1) (w p2) (z p3)",
        p1=p1,
        p2=p2,
        p3=p3,
        h=h,
        w=w,
        z=z,
    )


def patch_affine(grid: Grid, patch: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return patch index to RAS+ mm of the middle of a patch, shape (4, 4).

    Parameters
    ----------
    grid
        Grid of the voxels.
    patch
        Voxels of a patch along each axis.
    """
    patch2voxel = np.diag([*(float(p) for p in patch), 1.0])
    patch2voxel[:3, 3] = (np.array(patch) - 1) / 2
    affine: NDArray[np.float64] = grid.affine.astype(np.float64) @ patch2voxel
    return affine


def lay_in_box(
    values: Tensor, cells: Tensor, size: list[int], patch: tuple[int, int, int]
) -> Tensor:
    """Lay patches (N, S, P, C) into a box of cells: (N, C, X, Y, Z), zero where there is none."""
    h, w, z = size
    full = values.new_zeros(len(values), h * w * z, *values.shape[2:])
    full[:, (cells[:, 0] * w + cells[:, 1]) * z + cells[:, 2]] = values
    return unpatchify(rearrange(full, "n s p c -> n c s p"), patch, (h, w, z))


def take_from_box(box: Tensor, cells: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Take patches (N, S, P, C) out of a box (N, C, X, Y, Z); inverse of :func:`lay_in_box`."""
    w, z = box.shape[3] // patch[1], box.shape[4] // patch[2]
    full = rearrange(patchify(box, patch), "n c s p -> n s p c")
    return full[:, (cells[:, 0] * w + cells[:, 1]) * z + cells[:, 2]]
