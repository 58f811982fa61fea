"""Masked autoencoder around the D-RoPE encoder, for pretraining.

Either a share of the patch positions is masked (the same in every direction) or a share of the
directions; a light decoder of the same blocks reconstructs what was masked. This is the
published autoencoder; :mod:`dmri_fm.encoders.drope.guided_mae` pretrains our own encoder.

Method: He et al. 2022, https://doi.org/10.1109/CVPR52688.2022.01553; Kung et al. 2026,
https://doi.org/10.48550/arXiv.2603.25977.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray
from torch import Tensor, nn

from dmri_fm.encoders.drope.block import DropeBlock
from dmri_fm.encoders.drope.config import ABLATION, PAPER, DropeConfig
from dmri_fm.encoders.drope.network import Drope, PositionCode
from dmri_fm.encoders.drope.rotary import find_weighted
from dmri_fm.encoders.patches import patchify, unpatchify
from dmri_fm.errors import GradientError


@dataclass(frozen=True)
class MaeConfig:
    """Encoder, decoder and masking of a pretraining run.

    Attributes
    ----------
    encoder
        The encoder that is kept afterwards.
    decoder_dim, decoder_depth, decoder_heads, decoder_mlp_ratio
        Width, blocks, heads and MLP widening of the decoder.
    conv_channels
        Channels of three 3^3 convolutions over each reconstructed volume; 0 leaves them out,
        which packed encoders must, because they have no volume.
    spatial_ratio, diffusion_ratio
        Share of patch positions, or of directions, that is masked.
    """

    encoder: DropeConfig
    decoder_dim: int = 192
    decoder_depth: int = 3
    decoder_heads: int = 3
    decoder_mlp_ratio: int = 1
    conv_channels: int = 0
    spatial_ratio: float = 0.75
    diffusion_ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.conv_channels and self.encoder.is_packed:
            raise ValueError("convolutions need whole volumes; a packed encoder has none")


#: Pretraining of the published encoder.
PAPER_MAE = MaeConfig(PAPER, decoder_dim=384, conv_channels=8)

#: Pretraining for comparisons; its encoder is packed, so it has no convolutions.
ABLATION_MAE = MaeConfig(ABLATION, decoder_dim=96, decoder_depth=2)


class Mask(NamedTuple):
    """What the encoder sees.

    Attributes
    ----------
    kind
        "spatial": patch positions are masked in all directions at once. "diffusion": whole
        directions are.
    kept
        Shape (B, K): ascending indices of the patch positions, or directions, that stay visible.
    """

    kind: Literal["spatial", "diffusion"]
    kept: Tensor

    def hidden(self, n_directions: int, n_places: int) -> Tensor:
        """Return the masked tokens, shape (B, T, S), bool."""
        n = n_places if self.kind == "spatial" else n_directions
        flags = torch.ones(self.kept.shape[0], n, dtype=torch.bool, device=self.kept.device)
        flags.scatter_(1, self.kept, torch.zeros_like(self.kept, dtype=torch.bool))
        if self.kind == "spatial":
            return repeat(flags, "b s -> b t s", t=n_directions)
        return repeat(flags, "b t -> b t s", s=n_places)


def draw_mask(
    rng: np.random.Generator,
    config: MaeConfig,
    *,
    kind: Literal["spatial", "diffusion"],
    n_directions: int,
    n_places: int,
    batch: int = 1,
) -> Mask:
    """Choose at random what stays visible; at least one patch position or direction does."""
    n = n_places if kind == "spatial" else n_directions
    ratio = config.spatial_ratio if kind == "spatial" else config.diffusion_ratio
    n_kept = min(max(1, round(n * (1.0 - ratio))), n)
    kept: NDArray[np.int64] = np.stack(
        [np.sort(rng.permutation(n)[:n_kept]) for _ in range(batch)]
    )
    return Mask(kind, torch.from_numpy(kept))


class Decoder(nn.Module):
    """Blocks as of the encoder: from visible tokens and a mask to tokens of all patches."""

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.decoder_dim
        self.embed = nn.Linear(config.encoder.dim, dim)
        self.mask_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.position = PositionCode(config.encoder, dim)
        self.blocks = nn.ModuleList(
            DropeBlock(dim, config.decoder_heads, config.decoder_mlp_ratio)
            for _ in range(config.decoder_depth)
        )
        self.ln = nn.LayerNorm(dim, eps=1e-5)

    def forward(
        self,
        features: Tensor,
        seen: Tensor,
        mask: Mask,
        qspace: Tensor,
        positions: Tensor,
        hints: Tensor | None = None,
    ) -> Tensor:
        """Compute tokens (B, T, S, decoder_dim).

        Parameters
        ----------
        features, seen
            What the encoder made of the visible patches: (B, n_cls * dim) and (B, T', S', dim).
        mask
            Which these are.
        qspace, positions
            Shapes (B, T, 3) and (B, S, 3): of all directions and patch positions.
        hints
            Shape (B, T, S, decoder_dim): added to masked tokens.
        """
        config, encoder = self.config, self.config.encoder
        n_directions, n_places = qspace.shape[1], positions.shape[1]
        cls = self.embed(rearrange(features, "b (c d) -> b c d", c=encoder.n_cls))
        blank = self.mask_token.to(seen.dtype)
        if hints is None:
            hints = blank.expand(len(seen), n_directions, n_places, -1)
        else:
            hints = hints + blank
        embedded = self.embed(seen)
        x = _fill(embedded, hints.to(embedded.dtype), mask)
        x = x + self.position(qspace, positions)
        head_dim = config.decoder_dim // config.decoder_heads
        tables = encoder.rotary_tables(qspace, head_dim, dtype=x.dtype)
        for block in self.blocks:
            cls, x = block(cls, x, tables)
        out: Tensor = self.ln(x)
        return out


class MaskedAutoencoder(nn.Module):
    """The encoder and the decoder that pretrains it, as published."""

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        self.config = config
        encoder = config.encoder
        self.encoder = Drope(encoder)
        self.decoder = Decoder(config)
        n_voxels = encoder.patch[0] * encoder.patch[1] * encoder.patch[2]
        self.decoder_pred = nn.Linear(config.decoder_dim, n_voxels)
        c = config.conv_channels
        self.decoder_conv = (
            nn.Sequential(
                nn.Conv3d(1, c, 3, padding=1),
                nn.ReLU(),
                nn.Conv3d(c, c, 3, padding=1),
                nn.ReLU(),
                nn.Conv3d(c, 1, 3, padding=1),
            )
            if c
            else None
        )

    def forward(self, patches: Tensor, qspace: Tensor, positions: Tensor, mask: Mask) -> Tensor:
        """Reconstruct all patches from the visible ones.

        Parameters
        ----------
        patches, qspace, positions
            As :meth:`dmri_fm.encoders.drope.network.Drope.forward` takes them, nothing masked
            yet. With convolutions the patches must be those of a whole grid, in order.
        mask
            What the encoder sees.

        Returns
        -------
        Tensor
            Shape (B, T, S, P), S/S0.

        Raises
        ------
        GradientError
            If a vector is missing or a volume is b=0.
        """
        refuse_b0(qspace)
        encoder = self.config.encoder
        seen_patches, seen_qspace, seen_positions = keep_visible(patches, qspace, positions, mask)
        features, seen = self.encoder(seen_patches, seen_qspace, seen_positions)
        out: Tensor = self.decoder_pred(self.decoder(features, seen, mask, qspace, positions))
        if self.decoder_conv is not None:
            out = self._convolve(out, positions)
        return out * encoder.signal_std + encoder.signal_mean

    def reconstruct(
        self, patches: Tensor, qspace: Tensor, positions: Tensor, mask: Mask, brain: Tensor
    ) -> Tensor:
        """Return what :meth:`forward` does; the brain mask (B, S, P) is not read."""
        out: Tensor = self(patches, qspace, positions, mask)
        return out

    def _convolve(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Smooth the seams between patches, volume by volume."""
        assert self.decoder_conv is not None
        patch = self.config.encoder.patch
        low, high = positions[0].amin(dim=0), positions[0].amax(dim=0)
        h, w, z = (round(float(b - a) / p) + 1 for a, b, p in zip(low, high, patch, strict=True))
        volumes = unpatchify(patches, patch, (h, w, z))
        n_directions = volumes.shape[1]
        flat: Tensor = self.decoder_conv(rearrange(volumes, "b t x y z -> (b t) 1 x y z"))
        smooth = rearrange(flat, "(b t) 1 x y z -> b t x y z", t=n_directions)
        return patchify(smooth, patch)


def refuse_b0(qspace: Tensor) -> None:
    """Raise GradientError if a vector is missing or a volume is b=0."""
    if find_weighted(qspace) is not None:
        raise GradientError(
            "b=0 volumes among those to reconstruct", expected="weighted volumes only"
        )


def keep_visible(
    patches: Tensor, qspace: Tensor, positions: Tensor, mask: Mask
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the visible part of patches, measurements and patch positions."""
    kept = mask.kept
    if mask.kind == "spatial":
        index = repeat(kept, "b k -> b t k p", t=patches.shape[1], p=patches.shape[3])
        where = repeat(kept, "b k -> b k c", c=3)
        return patches.gather(2, index), qspace, positions.gather(1, where)
    index = repeat(kept, "b k -> b k s p", s=patches.shape[2], p=patches.shape[3])
    which = repeat(kept, "b k -> b k c", c=3)
    return patches.gather(1, index), qspace.gather(1, which), positions


def _fill(seen: Tensor, hints: Tensor, mask: Mask) -> Tensor:
    """Put visible tokens at their positions among those of all patches."""
    _, n_directions, n_places, dim = hints.shape
    if mask.kind == "spatial":
        index = repeat(mask.kept, "b k -> b t k d", t=n_directions, d=dim)
        return hints.scatter(2, index, seen)
    index = repeat(mask.kept, "b k -> b k s d", s=n_places, d=dim)
    return hints.scatter(1, index, seen)


def ramp_tau(progress: float) -> float:
    """Return the weight of the masked patches: 0.05 at the start, 0.95 at the end, linear."""
    return 0.05 + 0.90 * min(max(progress, 0.0), 1.0)


def masked_errors(
    reconstruction: Tensor, target: Tensor, hidden: Tensor, *, brain: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean squared errors of visible and of masked patches.

    Parameters
    ----------
    reconstruction, target
        Shape (B, T, S, P), S/S0.
    hidden
        Shape (B, T, S), bool.
    brain
        Shape (B, S, P): 1 inside the brain, 0 outside; errors outside do not count.

    Returns
    -------
    visible, hidden : Tensor
        Scalars; a part without voxels counts as zero.
    """
    squared = (reconstruction - target).square() * brain[:, None]
    per_patch = squared.sum(dim=-1)
    voxels = brain.sum(dim=-1)[:, None].expand_as(per_patch)
    seen, unseen = (
        (per_patch * where).sum() / (voxels * where).sum().clamp(min=1.0)
        for where in (~hidden, hidden)
    )
    return seen, unseen
