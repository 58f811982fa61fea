"""Volumes cut into patches."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

__all__ = ["patchify", "unpatchify"]


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
