"""One block of the D-RoPE transformer."""

from __future__ import annotations

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dmri_fm.encoders.drope.rotary import RotaryTables, rotary_scores
from dmri_fm.layers import Mlp, SelfAttention


class DiffusionAttention(nn.Module):
    """Self-attention across directions with D-RoPE; values are not rotated."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, tables: RotaryTables) -> Tensor:
        """Map (B, T, S, dim) to the same."""
        q, k, v = rearrange(
            self.qkv(x), "b t s (three h d) -> three b s h t d", three=3, h=self.heads
        )
        mixed = rotary_scores(q, k, tables).softmax(dim=-1) @ v
        out: Tensor = self.out_proj(rearrange(mixed, "b s h t d -> b t s (h d)"))
        return out


class DropeBlock(nn.Module):
    """Attention across directions, then across patch positions; an MLP after each."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1_diffusion = nn.LayerNorm(dim, eps=1e-5)
        self.attn_diffusion = DiffusionAttention(dim, heads)
        self.norm2_diffusion = nn.LayerNorm(dim, eps=1e-5)
        self.mlp_diffusion = Mlp(dim, mlp_ratio * dim)
        self.norm1_space = nn.LayerNorm(dim, eps=1e-5)
        self.attn_space = SelfAttention(dim, heads)
        self.norm2_space = nn.LayerNorm(dim, eps=1e-5)
        self.mlp_space = Mlp(dim, mlp_ratio * dim)

    def forward(self, cls: Tensor, x: Tensor, tables: RotaryTables) -> tuple[Tensor, Tensor]:
        """Update class tokens (B, C, dim) and patch tokens (B, T, S, dim)."""
        n_directions, n_cls = x.shape[1], cls.shape[1]
        x = x + self.attn_diffusion(self.norm1_diffusion(x), tables)
        x = x + self.mlp_diffusion(self.norm2_diffusion(x))
        everywhere = torch.cat([repeat(cls, "b c d -> b t c d", t=n_directions), x], dim=2)
        rows = rearrange(self.norm1_space(everywhere), "b t n d -> (b t) n d")
        r = rearrange(self.attn_space(rows), "(b t) n d -> b t n d", t=n_directions)
        cls = cls + reduce(r[:, :, :n_cls], "b t c d -> b c d", "mean")
        x = x + r[:, :, n_cls:]
        cls = cls + self.mlp_space(self.norm2_space(cls))
        x = x + self.mlp_space(self.norm2_space(x))
        return cls, x


def pass_blocks(
    blocks: nn.ModuleList, cls: Tensor, x: Tensor, tables: RotaryTables, *, is_checkpointed: bool
) -> tuple[Tensor, Tensor]:
    """Pass class tokens (B, C, dim) and patch tokens (B, T, S, dim) through blocks.

    With `is_checkpointed`, a block keeps its input alone for the backward pass, which computes
    the rest again: less memory, more time, the same gradients.
    """
    for block in blocks:
        if is_checkpointed and torch.is_grad_enabled():
            cls, x = checkpoint(block, cls, x, tables, use_reentrant=False)
        else:
            cls, x = block(cls, x, tables)
    return cls, x
