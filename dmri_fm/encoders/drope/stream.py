"""Inference with a D-RoPE encoder on a CPU: a scan passes in pieces, in place.

The same arithmetic as :meth:`dmri_fm.encoders.drope.block.DropeBlock.forward`, tested equal to it.
The tokens of a scan are held once; besides them there are only pieces that fit the processor's
cache: some patch positions with all their directions, then some rows of one direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from dmri_fm.encoders.drope.packed_linear import PackedLinear
from dmri_fm.encoders.drope.rotary import pair_tables, rotary_scores, rotary_tables
from dmri_fm.encoders.drope.rotary_kernel import attend_directions

if TYPE_CHECKING:
    from dmri_fm.encoders.drope.block import DropeBlock
    from dmri_fm.encoders.drope.config import DropeConfig
    from dmri_fm.layers import Mlp

#: Tokens that pass the linear layers together: their widest product is 6 MB.
ROWS = 1024

#: Attention scores (queries x keys of an attention head) that exist at once, for each thread.
SCORES = 2_500_000

#: Largest number of directions for which the compiled loop beats products of joint-rank tables.
KERNEL_DIRECTIONS = 160


def can_stream(parameter: Tensor) -> bool:
    """Say whether scans can pass an encoder in pieces: no gradients, float32, on the CPU."""
    on_cpu = parameter.device.type == "cpu" and parameter.dtype == torch.float32
    return on_cpu and not torch.is_grad_enabled()


def stream_blocks(
    blocks: Sequence[DropeBlock],
    cls: Tensor,
    x: Tensor,
    qspace: Tensor,
    config: DropeConfig,
    *,
    only_cls: bool,
) -> Tensor:
    """Pass one scan through all blocks.

    Parameters
    ----------
    blocks, config
        Blocks and configuration of the encoder.
    cls
        Shape (C, dim): class tokens.
    x
        Shape (T, S, dim), contiguous: patch tokens, overwritten by those after the last block.
    qspace
        Shape (T, 3).
    only_cls
        Compute the class tokens only; `x` is then of no use.

    Returns
    -------
    Tensor
        Shape (C, dim): class tokens after the last block.
    """
    n_threads = torch.get_num_threads()
    with ThreadPoolExecutor(n_threads) as pool:
        attend = _directions_attention(qspace, config, pool, n_threads)
        for number, block in enumerate(blocks):
            _stream_diffusion(block, x, attend)
            is_last = only_cls and number == len(blocks) - 1
            cls = _stream_space(block, cls, x, n_threads, only_cls=is_last)
    return cls


def _directions_attention(
    qspace: Tensor, config: DropeConfig, pool: ThreadPoolExecutor, n_threads: int
) -> Callable[[Tensor], Tensor]:
    """Return D-RoPE attention of this scan: (s, T, 3, heads, d), channels in halves."""
    head_dim = config.dim // config.heads
    gamma, base, layout = config.gamma, config.base, config.rotary
    if qspace.shape[0] <= KERNEL_DIRECTIONS:
        full = pair_tables(qspace, head_dim, gamma=gamma, base=base, layout=layout)
        cos, sin = (
            rearrange(t * head_dim**-0.5, "m n (i two) -> m n (two i)", two=2).numpy()
            for t in full
        )

        def attend(qkv: Tensor) -> Tensor:
            mixed = attend_directions(qkv.numpy(), cos, sin, pool=pool, n_threads=n_threads)
            return torch.from_numpy(mixed)

        return attend

    tables = rotary_tables(qspace[None], head_dim, gamma=gamma, base=base, layout=layout)

    def attend_joint_rank(qkv: Tensor) -> Tensor:
        q, k, v = rearrange(qkv, "s t three h d -> three 1 s h t d")
        q, k = (rearrange(t, "... (two i) -> ... (i two)", two=2) for t in (q, k))
        mixed: Tensor = rotary_scores(q, k, tables).softmax(dim=-1) @ v
        return mixed[0].transpose(1, 2)

    return attend_joint_rank


class _StreamedMlp:
    def __init__(self, mlp: Mlp) -> None:
        self.widen = PackedLinear(mlp.linear1.weight, mlp.linear1.bias, is_gelu=True)
        self.narrow = PackedLinear(mlp.linear2.weight, mlp.linear2.bias)

    def __call__(self, x: Tensor) -> Tensor:
        return self.narrow(self.widen(x))


def _halve_pairs(weight: Tensor, heads: int) -> Tensor:
    """Order the output channels of q, k: the first of all pairs of a head, then the second."""
    q, k, v = weight.chunk(3)
    q, k = (rearrange(t, "(h i two) c -> (h two i) c", h=heads, two=2) for t in (q, k))
    return torch.cat([q, k, v])


def _stream_diffusion(block: DropeBlock, x: Tensor, attend: Callable[[Tensor], Tensor]) -> None:
    """Attention across directions and its MLP, some patch positions at a time."""
    attention, heads = block.attn_diffusion, block.attn_diffusion.heads
    qkv = PackedLinear(_halve_pairs(attention.qkv.weight, heads))
    out_proj = PackedLinear(attention.out_proj.weight, attention.out_proj.bias)
    mlp = _StreamedMlp(block.mlp_diffusion)
    n_directions, n_positions, _ = x.shape
    step = max(1, ROWS // n_directions)
    for start in range(0, n_positions, step):
        piece = x[:, start : start + step]
        rows = rearrange(piece, "t s d -> (s t) d")
        parts = rearrange(
            qkv(block.norm1_diffusion(rows)),
            "(s t) (three h d) -> s t three h d",
            t=n_directions,
            three=3,
            h=heads,
        )
        rows = rows + out_proj(rearrange(attend(parts), "s t h d -> (s t) (h d)"))
        rows += mlp(block.norm2_diffusion(rows))
        piece.copy_(rearrange(rows, "(s t) d -> t s d", t=n_directions))


def _stream_space(
    block: DropeBlock, cls: Tensor, x: Tensor, n_threads: int, *, only_cls: bool
) -> Tensor:
    """Attention across patch positions by direction, and its MLP; return the class tokens."""
    attention, n_cls = block.attn_space, len(cls)
    q_weight, kv_weight = attention.qkv.weight.split([x.shape[2], 2 * x.shape[2]])
    project_q = PackedLinear(q_weight * (x.shape[2] // attention.heads) ** -0.5)
    project_kv = PackedLinear(kv_weight)
    out_proj = PackedLinear(attention.out_proj.weight, attention.out_proj.bias)
    mlp = _StreamedMlp(block.mlp_space)
    n_rows = n_cls + x.shape[1]
    step = min(ROWS, max(64, SCORES // n_rows)) * n_threads
    total = torch.zeros_like(cls)
    for tokens in x:
        rows = block.norm1_space(torch.cat([cls, tokens]))
        keys_values = torch.cat([project_kv(part) for part in rows.split(ROWS)])
        heads = _pack_heads(keys_values, attention.heads)
        last = n_cls if only_cls else n_rows
        for start in range(0, last, step):
            stop = min(start + step, last)
            r = out_proj(_attend(project_q(rows[start:stop]), heads))
            n_scan = min(max(n_cls - start, 0), stop - start)
            total[start : start + n_scan] += r[:n_scan]
            piece = tokens[max(start - n_cls, 0) : max(stop - n_cls, 0)]
            if len(piece):
                piece += r[n_scan:]
                piece += mlp(block.norm2_space(piece))
    cls = cls + total / len(x)
    return cls + mlp(block.norm2_space(cls))


def _pack_heads(keys_values: Tensor, heads: int) -> list[tuple[PackedLinear, PackedLinear]]:
    """Lay keys and values (N, 2 dim) out as the weights of two products, head by head."""
    keys, values = rearrange(keys_values, "n (two h d) -> two h n d", two=2, h=heads)
    return [(PackedLinear(k), PackedLinear(v.T)) for k, v in zip(keys, values, strict=True)]


def _attend(q: Tensor, heads: list[tuple[PackedLinear, PackedLinear]]) -> Tensor:
    """Let queries (n, dim), scaled, see all keys of all heads."""
    mixed = []
    for part, (to_scores, mix) in zip(q.chunk(len(heads), dim=1), heads, strict=True):
        scores = to_scores(part)
        torch.softmax(scores, dim=-1, out=scores)
        mixed.append(mix(scores))
    return torch.cat(mixed, dim=1)
