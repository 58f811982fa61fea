"""Masked autoencoder around the D-RoPE encoder, for pretraining.

Either a share of the patch positions is masked (the same in every direction) or a share of the
directions; a light decoder of the same blocks, and three convolutions of each volume, reconstruct
what was masked.

Method: He et al. 2022, https://doi.org/10.1109/CVPR52688.2022.01553; Kung et al. 2026,
https://doi.org/10.48550/arXiv.2603.25977.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from dmri_fm.encoders.drope.block import DropeBlock, pass_blocks
from dmri_fm.encoders.drope.config import ABLATION, PAPER, SMALL, DropeConfig
from dmri_fm.encoders.drope.network import Drope, PositionCode
from dmri_fm.encoders.drope.rotary import find_weighted
from dmri_fm.encoders.patches import lay_in_box, take_from_box
from dmri_fm.errors import GradientError, WeightsError
from dmri_fm.layers import conv3d
from dmri_fm.weights import Pretraining, Weights


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
        Channels of three 3^3 convolutions over each reconstructed volume, zero where there is no
        patch, two or more; 0 leaves them out.
    spatial_ratio, diffusion_ratio
        Share of patch positions, or of directions, that is masked.
    """

    encoder: DropeConfig
    decoder_dim: int = 192
    decoder_depth: int = 3
    decoder_heads: int = 3
    decoder_mlp_ratio: int = 1
    conv_channels: int = 8
    spatial_ratio: float = 0.75
    diffusion_ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.conv_channels == 1:
            raise ValueError("one channel does not pass both signs on, expected two or more")


#: Pretraining of the published encoder, of ours, and of that of comparisons.
PAPER_MAE = MaeConfig(PAPER, decoder_dim=384)
SMALL_MAE = MaeConfig(SMALL)
ABLATION_MAE = MaeConfig(ABLATION, decoder_dim=84)


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

    def masked(self, n_directions: int, n_patches: int) -> Tensor:
        """Return the masked tokens, shape (B, T, S), bool."""
        n = n_patches if self.kind == "spatial" else n_directions
        flags = torch.ones(self.kept.shape[0], n, dtype=torch.bool, device=self.kept.device)
        flags.scatter_(1, self.kept, torch.zeros_like(self.kept, dtype=torch.bool))
        if self.kind == "spatial":
            return repeat(flags, "b s -> b t s", t=n_directions)
        return repeat(flags, "b t -> b t s", s=n_patches)


def draw_mask(
    rng: np.random.Generator,
    config: MaeConfig,
    *,
    kind: Literal["spatial", "diffusion"],
    n_directions: int,
    n_patches: int,
) -> Mask:
    """Choose at random what stays visible of a scan: one patch position or direction at least."""
    n = n_patches if kind == "spatial" else n_directions
    ratio = config.spatial_ratio if kind == "spatial" else config.diffusion_ratio
    n_kept = min(max(1, round(n * (1.0 - ratio))), n)
    return Mask(kind, torch.from_numpy(np.sort(rng.permutation(n)[:n_kept]))[None])


class Decoder(nn.Module):
    """Blocks as of the encoder: from visible tokens and a mask to tokens of all patches."""

    is_checkpointed = False

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
        self, cls: Tensor, seen: Tensor, mask: Mask, qspace: Tensor, positions: Tensor
    ) -> Tensor:
        """Compute tokens (B, T, S, decoder_dim).

        Parameters
        ----------
        cls, seen
            What the encoder made of the visible patches: (B, dim) and (B, T', S', dim).
        mask
            Which these are.
        qspace, positions
            Shapes (B, T, 3) and (B, S, 3): of all directions and patch positions.
        """
        config, encoder = self.config, self.config.encoder
        cls = self.embed(cls)[:, None]
        embedded = self.embed(seen)
        blank = self.mask_token.to(embedded.dtype)
        blank = blank.expand(len(seen), qspace.shape[1], positions.shape[1], -1)
        x = _fill(embedded, blank, mask) + self.position(qspace, positions)
        head_dim = config.decoder_dim // config.decoder_heads
        tables = encoder.rotary_tables(qspace, head_dim, dtype=x.dtype)
        cls, x = pass_blocks(self.blocks, cls, x, tables, is_checkpointed=self.is_checkpointed)
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
            nn.Sequential(conv3d(1, c, 3), nn.ReLU(), conv3d(c, c, 3), nn.ReLU(), conv3d(c, 1, 3))
            if c
            else None
        )
        if self.decoder_conv is not None:
            self.decoder_conv.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def checkpoint_blocks(self, is_wanted: bool) -> None:
        """Let training keep the input of each block alone, or all that happens in it."""
        self.encoder.is_checkpointed = self.decoder.is_checkpointed = is_wanted

    def forward(self, patches: Tensor, qspace: Tensor, positions: Tensor, mask: Mask) -> Tensor:
        """Reconstruct all patches from the visible ones.

        Parameters
        ----------
        patches, qspace, positions
            As :meth:`dmri_fm.encoders.drope.network.Drope.forward` takes them, nothing masked
            yet.
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
        if find_weighted(qspace) is not None:
            raise GradientError(
                "b=0 volumes among those to reconstruct", expected="weighted volumes only"
            )
        encoder = self.config.encoder
        seen_patches, seen_qspace, seen_positions = _keep_visible(patches, qspace, positions, mask)
        cls, seen = self.encoder(seen_patches, seen_qspace, seen_positions)
        out: Tensor = self.decoder_pred(self.decoder(cls, seen, mask, qspace, positions))
        if self.decoder_conv is not None:
            convolved = [self._convolve(*scan) for scan in zip(out, positions, strict=True)]
            out = torch.stack(convolved)
        return out * encoder.signal_std + encoder.signal_mean

    def _convolve(self, patches: Tensor, positions: Tensor) -> Tensor:
        """Smooth the seams between patches (T, S, P) at positions (S, 3), volume by volume."""
        assert self.decoder_conv is not None
        p1, p2, p3 = patch = self.config.encoder.patch
        steps = (positions - positions.amin(dim=0)) / torch.tensor(patch).to(positions)
        # The axis of slices, the shortest, comes first: several times faster on processors. So the
        # kernels' axes are z, x, y.
        cells, turned = steps.round().long().roll(1, dims=1), (p3, p1, p2)
        size = (cells.amax(dim=0) + 1).tolist()
        values = rearrange(patches, "t s (x y z) -> t s (z x y) 1", x=p1, y=p2)
        # Without gradients one direction after the other: whole heads are large.
        step = len(values) if torch.is_grad_enabled() else 1
        smooth = torch.cat(
            [
                self.decoder_conv(lay_in_box(part, cells, size, turned))
                for part in values.split(step)
            ]
        )
        taken = take_from_box(smooth, cells, turned)
        return rearrange(taken, "t s (z x y) 1 -> t s (x y z)", x=p1, y=p2)


def _keep_visible(
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


def _fill(seen: Tensor, blank: Tensor, mask: Mask) -> Tensor:
    """Put visible tokens at their positions among those of all patches."""
    _, n_directions, n_patches, dim = blank.shape
    if mask.kind == "spatial":
        index = repeat(mask.kept, "b k -> b t k d", t=n_directions, d=dim)
        return blank.scatter(2, index, seen)
    index = repeat(mask.kept, "b k -> b k s d", s=n_patches, d=dim)
    return blank.scatter(1, index, seen)


def ramp_tau(progress: float) -> float:
    """Return the weight of the masked patches: 0.05 at the start, 0.95 at the end, linear."""
    return 0.05 + 0.90 * min(max(progress, 0.0), 1.0)


def masked_errors(
    reconstruction: Tensor, target: Tensor, masked: Tensor, *, brain: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean squared errors of visible and of masked patches.

    Parameters
    ----------
    reconstruction, target
        Shape (B, T, S, P), S/S0.
    masked
        Shape (B, T, S), bool: the masked patches.
    brain
        Shape (B, S, P): 1 inside the brain, 0 outside; errors outside do not count.

    Returns
    -------
    visible, masked : Tensor
        Scalars; a part without voxels counts as zero.
    """
    squared = (reconstruction - target).square() * brain[:, None]
    per_patch = squared.sum(dim=-1)
    voxels = brain.sum(dim=-1)[:, None].expand_as(per_patch)
    seen, unseen = (
        (per_patch * where).sum() / (voxels * where).sum().clamp(min=1.0)
        for where in (~masked, masked)
    )
    return seen, unseen


def split_autoencoder(network: MaskedAutoencoder) -> Pretraining:
    """Return tensors and configuration of all but the encoder."""
    rest = {k: v for k, v in network.state_dict().items() if not k.startswith("encoder.")}
    config = {k: v for k, v in asdict(network.config).items() if k != "encoder"}
    return Pretraining(rest, config)


def restore_autoencoder(loaded: Weights) -> MaskedAutoencoder:
    """Put an encoder and the decoder that pretrained it together again.

    Raises
    ------
    WeightsError
        If the decoder did not come with the weights, or does not fit them.
    """
    if loaded.pretraining is None:
        raise WeightsError(
            f"weights {loaded.version} of {loaded.name!r} hold the encoder alone",
            expected="weights that `dmri-fm pretrain` has written",
        )
    assert isinstance(loaded.model, Drope)
    try:
        config = MaeConfig(encoder=loaded.model.config, **loaded.pretraining.config)
        network = MaskedAutoencoder(config)
        encoder = {f"encoder.{k}": v for k, v in loaded.model.state_dict().items()}
        network.load_state_dict(encoder | loaded.pretraining.tensors, strict=True)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise WeightsError(
            f"the decoder does not fit its configuration ({error})",
            expected="the weights that were written together",
        ) from None
    device = next(loaded.model.parameters()).device
    return network.eval().requires_grad_(False).to(device)
