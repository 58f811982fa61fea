"""The artefact-removal U-Net as an encoder: features of a scan are those of its bridge."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dmri_fm.brain import find_brain
from dmri_fm.encoders.artefact_unet.network import ArtefactUnet, UnetConfig
from dmri_fm.encoders.features import PatchFeatures, ScanFeatures
from dmri_fm.encoders.patches import patch_affine
from dmri_fm.errors import ConfigError, GradientError, ImageError
from dmri_fm.gradients import GradientTable, Shell
from dmri_fm.identity import identity
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.out_of_distribution import SCAN_STATISTICS, Reference, ScanSummary, score_scan
from dmri_fm.series import Dwi
from dmri_fm.shell_resampling import (
    FEWEST_DIRECTIONS,
    choose_order,
    fibonacci_directions,
    resampling_matrix,
)
from dmri_fm.weights import Weights

#: b-value of the shells that the network was pretrained on, s/mm^2.
PRETRAINED_BVAL = 1000.0

#: Least share of brain in the voxels that the bridge sees as one.
LEAST_BRAIN = 0.1


class UnetInput(NamedTuple):
    """A shell of a scan as the network reads it, and a description of the preparation."""

    signal: Tensor  # (n_directions, X, Y, Z), S/S0, 0 to 1
    brain: Tensor  # (X, Y, Z), bool
    shell: Shell
    metadata: dict[str, Any]


def choose_shell(gtab: GradientTable) -> Shell:
    """Return the shell of enough directions whose b-value is nearest to 1000 s/mm^2.

    Raises
    ------
    GradientError
        If no shell has enough distinct directions.
    """
    usable = [s for s in gtab.shells if len(gtab.group_axes(s.index)) >= FEWEST_DIRECTIONS]
    if not usable:
        counts = ", ".join(
            f"{len(gtab.group_axes(s.index))} at b {s.bval:.0f}" for s in gtab.shells
        )
        raise GradientError(
            f"too few distinct directions for spherical harmonics ({counts or 'none'})",
            expected=f"{FEWEST_DIRECTIONS} directions of one shell",
        )
    return min(usable, key=lambda s: abs(np.log(s.bval / PRETRAINED_BVAL)))


def prepare_shell(dwi: Dwi, config: UnetConfig) -> UnetInput:
    """Divide a shell by the mean b=0, and bring it to the network's directions.

    Raises
    ------
    GradientError
        If there is no b=0 volume, or no shell has enough directions.
    ImageError
        If the mask is empty.
    """
    mask = find_brain(dwi)
    if not mask.any():
        raise ImageError("no voxel of brain", expected="a brain mask on the model's grid")
    shell = choose_shell(dwi.gtab)
    volumes = np.concatenate([np.flatnonzero(dwi.gtab.is_b0), shell.index])
    table = dwi.gtab.select(volumes)
    normalised = normalise_b0(dwi.data[..., volumes], table, mask=mask)
    measured = normalised.signal[..., ~table.is_b0]
    own = table.bvecs_ras[~table.is_b0]
    order = choose_order(len(dwi.gtab.group_axes(shell.index)))
    matrix = resampling_matrix(own, fibonacci_directions(config.n_directions), order=order)
    signal = np.einsum("mn,xyzn->mxyz", matrix.astype(np.float32), measured).clip(0.0, 1.0)
    return UnetInput(
        torch.from_numpy(np.where(mask, signal, 0.0).astype(np.float32)),
        torch.from_numpy(mask),
        shell,
        {
            "Shell": float(shell.bval),
            "Volumes": [int(i) for i in shell.index],
            "SphericalHarmonicOrder": order,
            "B0NormalizationScale": float(normalised.scale),
        },
    )


class UnetEncoder:
    """Encoder by an :class:`~dmri_fm.encoders.artefact_unet.network.ArtefactUnet`."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.name = weights.name
        has_reference = weights.statistics.keys() >= {*SCAN_STATISTICS}
        self.reference: Reference | None = weights.statistics if has_reference else None
        self._network = cast(ArtefactUnet, weights.model)
        self._config: UnetConfig = self._network.config

    @property
    def grid(self) -> Grid:
        """Grid in MNI152NLin2009aSym that the encoder reads."""
        return self._config.grid

    def prepare(
        self,
        dwi: Dwi,
        *,
        n_directions: int | None,
        seed: int,
        region: str | None = None,
        rotations: NDArray[np.float32] | None = None,
    ) -> UnetInput:
        """Bring one shell to 64 directions; see :meth:`dmri_fm.encoders.base.Encoder.prepare`.

        Raises ConfigError if fewer directions or a part of the brain is asked for.
        """
        dwi.gtab.require_b0()
        if n_directions is not None or region not in (None, "whole"):
            raise ConfigError(
                f"{n_directions} directions, region {region!r}",
                expected=f"no such choice: {self.name} reads a shell of the whole brain",
            )
        return prepare_shell(dwi, self._config)

    def encode(self, prepared: UnetInput) -> ScanFeatures:
        """Compute the features of the bridge, their mean over the brain, and the OOD score."""
        config, stride = self._config, self._config.stride
        device = next(self._network.parameters()).device
        with torch.inference_mode():
            code = self._network.encode(prepared.signal[None].to(device))[0].cpu()
        brain = functional.avg_pool3d(prepared.brain[None].float(), stride)[0]
        tokens = rearrange(code, "d x y z -> (x y z) d").float().numpy()
        valid = (brain >= LEAST_BRAIN).ravel().numpy()
        pooled = tokens[valid].mean(axis=0)
        summary = ScanSummary(pooled, {"missing": float(1.0 - valid.mean())})
        ood = score_scan(summary, self.reference)
        patch = (stride, stride, stride)
        return ScanFeatures(
            vectors={"pooled": pooled},
            model=identity(self.name).label,
            patches=PatchFeatures(
                tokens=np.where(valid[:, None], tokens, 0.0).astype(np.float32),
                valid=valid,
                error=np.full(len(tokens), np.nan, dtype=np.float32),
                grid_shape=tuple(n // stride for n in config.grid_shape),  # type: ignore[arg-type]
                affine=patch_affine(config.grid, patch),
            ),
            n_directions=len(prepared.shell.index),
            max_bval=float(prepared.shell.bval),
            weights_sha256=self.weights.sha256,
            ood_score=ood.score,
            ood_percentile=ood.percentile,
            metadata={"OODIndicators": dict(ood.indicators), **prepared.metadata},
        )
