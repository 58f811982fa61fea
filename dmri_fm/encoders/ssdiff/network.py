"""SSDiff: a transformer over the volumes of a scan, one token each.

A token is a linear map of all voxels of a volume, with codes of its direction and b-value. The
published network and its pretraining are those of Gong et al. (see the model card); differences
of the compact one stand in :mod:`dmri_fm.encoders.ssdiff.config`.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange, repeat
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from dmri_fm.encoders.ssdiff.blocks import brain_blocks
from dmri_fm.encoders.ssdiff.config import SsdiffConfig
from dmri_fm.layers import Mlp, SelfAttention, dyadic_code


class SsdiffBlock(nn.Module):
    """Self-attention over the tokens of a scan, then an MLP; both with a norm in front."""

    def __init__(self, config: SsdiffConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.attention = SelfAttention(config.dim, config.heads)
        self.norm2 = nn.LayerNorm(config.dim)
        self.mlp = Mlp(config.dim, config.mlp_ratio * config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, dim) to the same."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def position_code(ijk: NDArray[np.int_], n: int) -> NDArray[np.float32]:
    """Encode indices (V, 3) by n sines and cosines along each axis: (V, 3 n).

    Sines of all wavelengths come first for an axis, then the cosines.
    """
    omega = 10000.0 ** (-np.arange(n // 2) / (n // 2))
    angle = ijk[..., None] * omega
    code = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
    return np.asarray(rearrange(code, "v xyz n -> v (xyz n)"), dtype=np.float32)


class DirectionCode(nn.Module):
    """Code of a volume's directions, which may differ between places.

    Parameters
    ----------
    config
        Its `direction_code` names the published code or the antipodally symmetric one.
    """

    def __init__(self, config: SsdiffConfig) -> None:
        super().__init__()
        self.is_dyadic = config.direction_code == "dyadic"
        n_places = len(brain_blocks(config, config.direction_block))
        self.linear = nn.Linear((6 if self.is_dyadic else 1) * n_places, config.dim)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, directions: Tensor) -> Tensor:
        """Map unit vectors (B, T, V, 3), or zero where there is none, to (B, T, dim)."""
        if self.is_dyadic:
            images = rearrange(dyadic_code(directions), "b t v six -> b t (v six)")
            code = self.linear(images)
        else:
            code = self.linear(rearrange(directions, "b t v xyz -> b t xyz v")).mean(dim=2)
        out: Tensor = self.norm(code)
        return out


class Ssdiff(nn.Module):
    """Encoder of scans.

    Parameters
    ----------
    config
        Architecture.
    """

    def __init__(self, config: SsdiffConfig) -> None:
        super().__init__()
        self.config = config
        places = brain_blocks(config, config.block)
        self.n_places = len(places)
        code = position_code(places.ijk, config.position_dim)
        self.register_buffer("places", torch.from_numpy(code), persistent=False)
        self.place_scalar = nn.Linear(3 * config.position_dim, 1)
        self.project = nn.Linear(self.n_places, config.dim)
        self.direction = DirectionCode(config)
        self.bvalue = nn.Linear(1, config.dim)
        self.bvalue_norm = nn.LayerNorm(config.dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        nn.init.normal_(self.cls_token, std=0.02)
        n_blocks = config.encoder_blocks + config.middle_blocks
        self.blocks = nn.ModuleList(SsdiffBlock(config) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(config.dim)

    @property
    def normalisation(self) -> dict[str, object]:
        """Description of the input, for the file of weights."""
        return {
            "signal": "S / mean b=0, clipped to 0 to 1.5",
            "mean": self.config.signal_mean,
            "std": self.config.signal_std,
        }

    def forward(self, signal: Tensor, directions: Tensor, bvals: Tensor) -> tuple[Tensor, Tensor]:
        """Encode scans of T volumes.

        Parameters
        ----------
        signal
            Shape (B, T, V): S/S0 of the blocks of :func:`.blocks.brain_blocks`; NaN where there
            is no brain.
        directions
            Shape (B, T, W, 3): unit b-vectors in RAS+ at the larger blocks, zero for b=0 (or, as
            published, (1, 0, 0)).
        bvals
            Shape (B, T), s/mm^2.

        Returns
        -------
        cls : Tensor
            Shape (B, dim).
        tokens : Tensor
            Shape (B, T, dim), of the volumes.
        """
        x = self.scale(signal)
        return self.encode(x, directions, bvals)

    def scale(self, signal: Tensor) -> Tensor:
        """Shift and scale S/S0; zero, the mean, where it is NaN."""
        config = self.config
        return ((signal - config.signal_mean) / config.signal_std).nan_to_num(0.0)

    def encode(self, x: Tensor, directions: Tensor, bvals: Tensor) -> tuple[Tensor, Tensor]:
        """Encode scaled signals (B, T, V); see :meth:`forward`."""
        x = x + self.place_scalar(self.places)[:, 0]
        b = (bvals / 100.0).round()[..., None] / 10.0  # as published: rounded to 100 s/mm^2
        tokens = self.project(x) + self.direction(directions)
        tokens = tokens + self.bvalue_norm(self.bvalue(b))
        rows = torch.cat([repeat(self.cls_token, "1 1 d -> b 1 d", b=len(tokens)), tokens], dim=1)
        for block in self.blocks:
            rows = block(rows)
        rows = self.norm(rows)
        return rows[:, 0], rows[:, 1:]


class SsdiffAutoencoder(nn.Module):
    """Encoder and decoder for pretraining by input dropout.

    Parameters
    ----------
    config
        Of the encoder; its `decoder_blocks` and `input_dropout` are the decoder's.
    """

    def __init__(self, config: SsdiffConfig) -> None:
        super().__init__()
        self.encoder = Ssdiff(config)
        self.blocks = nn.ModuleList(SsdiffBlock(config) for _ in range(config.decoder_blocks))
        self.norm = nn.LayerNorm(config.dim)
        self.expand = nn.Linear(config.dim, self.encoder.n_places)

    def forward(self, signal: Tensor, directions: Tensor, bvals: Tensor) -> Tensor:
        """Predict the scaled signal (B, T, V) of all volumes from what dropout leaves of it."""
        dropout = self.encoder.config.input_dropout
        x = functional.dropout(self.encoder.scale(signal), dropout, training=self.training)
        cls, tokens = self.encoder.encode(x, directions, bvals)
        rows = torch.cat([cls[:, None], tokens], dim=1)
        for block in self.blocks:
            rows = block(rows)
        found: Tensor = self.expand(self.norm(rows[:, 1:]))
        return found
