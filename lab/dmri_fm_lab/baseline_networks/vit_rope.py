"""Vision transformer for volumes with 3-D rotary positions: a baseline for fine-tuning.

Kung et al. 2026 (https://doi.org/10.48550/arXiv.2603.25977, section 4.3) compare with a ViT
(Dosovitskiy et al. 2021, https://doi.org/10.48550/arXiv.2010.11929) of 10 layers and 384 channels
with a 3-D version of RoPE (Su et al. 2024, https://doi.org/10.1016/j.neucom.2023.127063), on FA
and MD maps or on 12 diffusion directions as channels. A third of the channels of each attention
head turns with each axis of the image. The class token enters an MLP head, and does not turn.

Differences: their code is not public, so everything that the paper does not print is this
project's: pre-norm blocks, frequencies of base 100 (patches along an axis are tens, not
thousands), one inner layer in the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.layers import Mlp


@dataclass(frozen=True)
class VitRopeConfig:
    """Architecture of a :class:`VitRope`.

    Attributes
    ----------
    n_channels
        Of the input: two maps, or directions.
    patch
        Voxels of a patch along each axis; images are padded with zeros to multiples of it.
    dim, depth, heads, mlp_ratio
        Channels of a token, blocks, attention heads, widening of the MLP of a block.
    base
        The slowest rotary frequency is about 1 / `base` radians a patch, the fastest 1.
    """

    n_channels: int
    patch: tuple[int, int, int] = (8, 8, 4)
    dim: int = 384
    depth: int = 10
    heads: int = 3
    mlp_ratio: int = 4
    base: float = 100.0

    def __post_init__(self) -> None:
        if self.dim % self.heads or self.dim // self.heads < 6:
            raise ValueError(f"dim {self.dim}: a multiple of heads with six channels a head")


def rotary_angles(ijk: Tensor, head_dim: int, *, base: float) -> Tensor:
    """Return the angle of each channel pair at patch indices.

    Parameters
    ----------
    ijk
        Shape (S, 3).
    head_dim
        Channels of an attention head; the `head_dim // 6` first pairs turn with the first axis,
        and so on. Pairs that are left do not turn.
    base
        See :class:`VitRopeConfig`.

    Returns
    -------
    Tensor
        Shape (S, head_dim // 2), radians.
    """
    n = head_dim // 6
    frequencies = base ** (-torch.arange(n, device=ijk.device, dtype=torch.float32) / n)
    angles = rearrange(ijk.float()[..., None] * frequencies, "s xyz f -> s (xyz f)")
    return functional.pad(angles, (0, head_dim // 2 - 3 * n))


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the adjacent channel pairs of queries or keys (B, heads, S, d) by angles (S, d / 2)."""
    first, second = rearrange(x, "b h s (i two) -> two b h s i", two=2)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return rearrange(turned, "b h s i two -> b h s (i two)")


class RotaryAttention(nn.Module):
    """Self-attention whose scores depend on the differences of positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """Map (B, S, dim) to the same, given angles (S, dim / heads / 2)."""
        q, k, v = rearrange(self.qkv(x), "b s (three h d) -> three b h s d", three=3, h=self.heads)
        mixed = functional.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v)
        out: Tensor = self.out_proj(rearrange(mixed, "b h s d -> b s (h d)"))
        return out


class VitBlock(nn.Module):
    """Attention and MLP, each on normalised tokens and added to them."""

    def __init__(self, config: VitRopeConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.attention = RotaryAttention(config.dim, config.heads)
        self.norm2 = nn.LayerNorm(config.dim)
        self.mlp = Mlp(config.dim, config.mlp_ratio * config.dim)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """Map (B, S, dim) to the same."""
        x = x + self.attention(self.norm1(x), angles)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class VitRope(nn.Module):
    """Network: images (B, C, X, Y, Z) to one number each (B,)."""

    def __init__(self, config: VitRopeConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Conv3d(
            config.n_channels, config.dim, kernel_size=config.patch, stride=config.patch
        )
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, config.dim))
        self.blocks = nn.ModuleList(VitBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Sequential(
            nn.Linear(config.dim, config.dim), nn.GELU(), nn.Linear(config.dim, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z) to (B,)."""
        config = self.config
        lacking = [-n % p for n, p in zip(images.shape[2:], config.patch, strict=True)]
        patches = self.embed(
            functional.pad(images, [v for n in reversed(lacking) for v in (0, n)])
        )
        grid = [torch.arange(n, device=images.device) for n in patches.shape[2:]]
        ijk = torch.cartesian_prod(*grid)
        angles = rotary_angles(ijk, config.dim // config.heads, base=config.base)
        angles = functional.pad(angles, (0, 0, 1, 0))
        cls = repeat(self.cls_token, "1 1 d -> b 1 d", b=len(images))
        x = torch.cat([cls, rearrange(patches, "b d x y z -> b (x y z) d")], dim=1)
        for block in self.blocks:
            x = block(x, angles)
        out: Tensor = self.head(self.norm(x[:, 0]))[:, 0]
        return out
