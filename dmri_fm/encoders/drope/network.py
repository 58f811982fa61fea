"""Diffusion-space rotary transformer: an encoder of whole diffusion scans.

The image of every direction is cut into patches. A block lets the tokens of one patch position
attend to one another across directions, and then those of one direction across patch positions.
Attention across directions rotates queries against keys by an angle that grows with the distance
between two measurements in q-space (D-RoPE), so any number of directions in any order can be read.

Method: Kung et al. 2026, https://doi.org/10.48550/arXiv.2603.25977. Configurations, the published
one and ours, are in :mod:`dmri_fm.encoders.drope.config`.

Without gradients, on a CPU, a scan passes in pieces (:mod:`dmri_fm.encoders.drope.stream`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from dmri_fm.encoders.drope.block import DropeBlock, pass_blocks
from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.packed_linear import PackedLinear
from dmri_fm.encoders.drope.rotary import check_table, find_weighted, qspace_directions
from dmri_fm.encoders.drope.stream import can_stream, stream_blocks
from dmri_fm.encoders.drope.tokens import NORMALISATION
from dmri_fm.layers import dyadic_code, sincos_positions

#: Returns patches (B, t, S, P) of the directions of a slice, or of a list of indices.
Reader = Callable[[slice | Tensor], Tensor]


class PositionCode(nn.Module):
    """[patch position | direction] code that is added to the tokens, half of the channels each."""

    def __init__(self, config: DropeConfig, dim: int) -> None:
        super().__init__()
        self.is_dyadic = config.direction_code == "dyadic"
        self.pos_scale = config.pos_scale
        self.position_dim = dim // 2
        self.qpos_embed = nn.Linear(6 if self.is_dyadic else 3, dim - self.position_dim)

    def encode_directions(self, qspace: Tensor) -> Tensor:
        """Encode (..., T, 3) measurements as (..., T, dim - dim // 2)."""
        if self.is_dyadic:
            code = qspace[..., :1] * dyadic_code(qspace_directions(qspace))
        else:
            code = qspace
        out: Tensor = self.qpos_embed(code.to(self.qpos_embed.weight.dtype))
        return out

    def encode_positions(self, positions: Tensor) -> Tensor:
        """Encode (..., S, 3) patch centres as (..., S, dim // 2)."""
        return sincos_positions(positions * self.pos_scale, self.position_dim)

    def forward(self, qspace: Tensor, positions: Tensor) -> Tensor:
        """Encode (B, T, 3) measurements and (B, S, 3) patch centres as (B, T, S, dim)."""
        n_directions, n_patches = qspace.shape[1], positions.shape[1]
        return torch.cat(
            [
                repeat(self.encode_positions(positions), "b s d -> b t s d", t=n_directions),
                repeat(self.encode_directions(qspace), "b t d -> b t s d", s=n_patches),
            ],
            dim=-1,
        )


class Drope(nn.Module):
    """Encoder: patches of all directions to a class token and patch tokens.

    Set `is_checkpointed` to train with less memory, see
    :func:`dmri_fm.encoders.drope.block.pass_blocks`.
    """

    normalisation = NORMALISATION
    is_checkpointed = False

    def __init__(self, config: DropeConfig) -> None:
        super().__init__()
        self.config = config
        n_voxels = config.patch[0] * config.patch[1] * config.patch[2]
        self.patch_mlp = nn.Linear(n_voxels, config.dim)
        self.position = PositionCode(config, config.dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, config.dim) * 0.02)
        self.blocks = nn.ModuleList(
            DropeBlock(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.ln = nn.LayerNorm(config.dim, eps=1e-5)

    def forward(self, patches: Tensor, qspace: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Encode scans.

        Parameters
        ----------
        patches
            Shape (B, T, S, P): S/S0 of S patches of P voxels in T directions, zero outside the
            brain.
        qspace
            Shape (B, T, 3): rho = b / 1000, theta, phi; b-vectors in the grid's RAS frame.
            Volumes of b=0, where rho is 0, are excluded here.
        positions
            Shape (B, S, 3): patch centres in voxels of the model's grid.

        Returns
        -------
        cls : Tensor
            Shape (B, dim): the class token of each scan.
        tokens : Tensor
            Shape (B, T, S, dim), T without b=0.

        Raises
        ------
        GradientError
            If the table does not fit the patches, lacks a vector, or has b=0 only.
        """
        return self.encode(_read_patches(patches, qspace), qspace, positions)

    def encode_cls(self, patches: Tensor, qspace: Tensor, positions: Tensor) -> Tensor:
        """Encode scans as :meth:`forward` does, but compute the class token only."""
        read = _read_patches(patches, qspace)
        return self.encode(read, qspace, positions, only_cls=True)[0]

    def encode(
        self, read: Reader, qspace: Tensor, positions: Tensor, *, only_cls: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Encode scans whose patches are read as they are needed.

        Parameters
        ----------
        read
            See :data:`Reader`; volumes are numbered as in `qspace`.
        qspace, positions
            As in :meth:`forward`.
        only_cls
            Compute the class token only. The patch tokens are then of no use.
        """
        kept = find_weighted(qspace)
        if kept is not None:
            qspace = qspace[:, kept]
        encode = self._encode_in_pieces if can_stream(self.cls_token) else self._encode_at_once
        cls, tokens = encode(read, kept, qspace, positions, only_cls=only_cls)
        return self.ln(cls)[:, 0], tokens

    def _encode_at_once(
        self,
        read: Reader,
        kept: Tensor | None,
        qspace: Tensor,
        positions: Tensor,
        *,
        only_cls: bool,
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        patches = read(slice(None) if kept is None else kept)
        x = self.patch_mlp((patches - config.signal_mean) / config.signal_std)
        x = x + self.position(qspace, positions)
        tables = config.rotary_tables(qspace, config.dim // config.heads, dtype=x.dtype)
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        cls, x = pass_blocks(self.blocks, cls, x, tables, is_checkpointed=self.is_checkpointed)
        return cls, x if only_cls else self.ln(x)

    def _encode_in_pieces(
        self,
        read: Reader,
        kept: Tensor | None,
        qspace: Tensor,
        positions: Tensor,
        *,
        only_cls: bool,
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        embed = PackedLinear(self.patch_mlp.weight, self.patch_mlp.bias)
        codes = self.position.encode_positions(positions)
        directions = self.position.encode_directions(qspace)
        batch, n_directions = qspace.shape[:2]
        half = codes.shape[-1]
        tokens = codes.new_empty(batch, n_directions, positions.shape[1], config.dim)
        for t, volume in enumerate(range(n_directions) if kept is None else kept.tolist()):
            patches = (read(slice(volume, volume + 1)) - config.signal_mean) / config.signal_std
            rows = embed(rearrange(patches, "b 1 s p -> (b s) p"))
            tokens[:, t] = rearrange(rows, "(b s) d -> b s d", b=batch)
            tokens[:, t, :, :half] += codes
            tokens[:, t, :, half:] += directions[:, t, None]
        blocks = cast("list[DropeBlock]", list(self.blocks))
        cls = []
        for scan, table in zip(tokens, qspace, strict=True):
            first = self.cls_token[0].clone()
            cls.append(stream_blocks(blocks, first, scan, table, config, only_cls=only_cls))
            for direction in scan[: 0 if only_cls else None]:
                direction.copy_(self.ln(direction))
        return torch.stack(cls), tokens


def _read_patches(patches: Tensor, qspace: Tensor) -> Reader:
    check_table(qspace, patches.shape[1])
    return lambda t: patches[:, t]
