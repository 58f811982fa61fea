"""The artefact-removal U-Net as an encoder: features of a scan are those of its bridge."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dmri_fm.brain import find_brain, require_template_brain
from dmri_fm.encoders.artefact_unet.network import ArtefactUnet, UnetConfig
from dmri_fm.encoders.base import LoadedEncoder
from dmri_fm.encoders.features import ScanFeatures
from dmri_fm.errors import WeightsError
from dmri_fm.gradients import Shell
from dmri_fm.identity import identity
from dmri_fm.normalise.grid import resample_image
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.normalise.template import load_template
from dmri_fm.out_of_distribution import ScanSummary, score_scan
from dmri_fm.series import Dwi
from dmri_fm.shell_resampling import (
    choose_order,
    choose_shell,
    fixed_directions,
    resampling_matrix,
)
from dmri_fm.weights import Weights

#: Least share of brain in the voxels that the bridge sees as one, for its features to be pooled.
LEAST_BRAIN = 0.1


class UnetInput(NamedTuple):
    """A shell of a scan as the network reads it, and a description of the preparation."""

    signal: Tensor  # (n_directions, X, Y, Z), S/S0, 0 to 1; zero outside the brain
    brain: Tensor  # (X, Y, Z), bool
    shell: Shell
    metadata: dict[str, Any]


def resample_shell(
    volumes: NDArray[np.floating], directions: NDArray[np.float64], *, n_directions: int
) -> NDArray[np.float32]:
    """Bring the volumes of a shell to the network's directions.

    Parameters
    ----------
    volumes
        Shape (N, X, Y, Z), S/S0.
    directions
        Shape (N, 3), RAS+, unit vectors.
    n_directions
        Number of the network's directions, see
        :func:`dmri_fm.shell_resampling.fixed_directions`.

    Returns
    -------
    ndarray
        Shape (n_directions, X, Y, Z), float32, clipped to 0 to 1, as the network reads it.
    """
    matrix = resampling_matrix(directions, fixed_directions(n_directions)).astype(np.float32)
    resampled = np.tensordot(matrix, volumes.astype(np.float32), 1)
    return np.asarray(resampled.clip(0.0, 1.0))


def prepare_shell(dwi: Dwi, config: UnetConfig) -> UnetInput:
    """Divide a shell by the mean b=0, and bring it to the network's directions.

    Raises
    ------
    GradientError
        If there is no b=0 volume, or no shell has enough directions.
    ImageError
        If the mask is empty, or more than half of the template's brain lies outside it.
    """
    mask = find_brain(dwi)
    require_template_brain(missing_share(mask, config))
    shell = choose_shell(dwi.gtab)
    volumes = np.concatenate([np.flatnonzero(dwi.gtab.is_b0), shell.index]).astype(int)
    table = dwi.gtab.select(volumes)
    normalised = normalise_b0(dwi.data[..., volumes], table, mask=mask)
    measured = np.moveaxis(normalised.signal[..., ~table.is_b0], 3, 0)
    own = table.bvecs_ras[~table.is_b0]
    signal = resample_shell(measured, own, n_directions=config.n_directions)
    return UnetInput(
        torch.from_numpy(np.where(mask, signal, np.float32(0.0))),
        torch.from_numpy(mask),
        shell,
        {
            "Region": "whole",
            "DirectionChoice": "shell",
            "ShellBValue": float(shell.bval),
            "Volumes": [int(i) for i in shell.index],
            "SphericalHarmonicOrder": choose_order(own),
            "B0NormalizationScale": float(normalised.scale),
        },
    )


@lru_cache(maxsize=2)
def template_brain(config: UnetConfig) -> NDArray[np.bool_]:
    """Return the template's brain on the encoder's grid, shape (X, Y, Z)."""
    template = load_template(2)
    mask = template.brain_mask.astype(np.float32)
    return resample_image(mask, template.grid.affine, config.grid, order=1) > 0.5


def missing_share(mask: NDArray[np.bool_], config: UnetConfig) -> float:
    """Return the share of the template's brain outside a mask (X, Y, Z) on the encoder's grid."""
    return 1.0 - float(mask[template_brain(config)].mean())


def summarise(network: ArtefactUnet, signal: Tensor, brain: Tensor) -> ScanSummary:
    """Return the bridge's features, mean over the brain, and the share of the brain missing.

    Parameters
    ----------
    network
        Its bridge is read.
    signal
        Shape (n_directions, X, Y, Z), S/S0, on the network's grid.
    brain
        Shape (X, Y, Z), bool.
    """
    stride = network.config.stride
    device = next(network.parameters()).device
    with torch.inference_mode():
        code = network.encode(signal[None].to(device))[0].float().cpu()
    share = functional.avg_pool3d(brain[None].float(), stride)[0]
    # A brain that fills no cell by that much is still a brain: its fullest cells count.
    valid = share >= min(LEAST_BRAIN, float(share.max()))
    missing = missing_share(brain.numpy(), network.config)
    return ScanSummary(code[:, valid].mean(dim=1).numpy(), {"missing": missing})


class UnetEncoder(LoadedEncoder[ArtefactUnet, UnetConfig]):
    """Encoder by an :class:`~dmri_fm.encoders.artefact_unet.network.ArtefactUnet`.

    Raises
    ------
    WeightsError
        If the weights are those of the plain autoencoder: its features are none of artefact
        removal.
    """

    def __init__(self, weights: Weights) -> None:
        if weights.training.get("settings", {}).get("objective") == "autoencoder":
            raise WeightsError(
                "weights of the plain autoencoder, a control",
                path=Path(weights.source),
                expected="weights of the objective artefacts",
                advice="pretrain without --objective; `dmri-fm study artefacts` reads the control",
            )
        super().__init__(weights)

    def prepare(
        self,
        dwi: Dwi,
        *,
        n_directions: int | None,
        seed: int,
        region: str | None = None,
        rotations: NDArray[np.float32] | None = None,
    ) -> UnetInput:
        """Bring one shell to fixed directions; see :meth:`dmri_fm.encoders.base.Encoder.prepare`.

        Raises ConfigError if a number of directions or a part of the brain is asked for.
        """
        dwi.gtab.require_b0()
        self._refuse_choices(n_directions, region, reads="one shell of the whole brain")
        return prepare_shell(dwi, self._config)

    def encode(self, prepared: UnetInput) -> ScanFeatures:
        """Compute the mean of the bridge's features over the brain, and the OOD score."""
        summary = summarise(self._network, prepared.signal, prepared.brain)
        ood = score_scan(summary, self.reference)
        return ScanFeatures(
            vectors={"pooled": summary.code},
            model=identity(self.name).label,
            n_directions=len(prepared.shell.index),
            max_bval=float(prepared.shell.bval),
            weights_sha256=self.weights.sha256,
            ood_score=ood.score,
            ood_percentile=ood.percentile,
            metadata={
                "OODIndicators": dict(ood.indicators),
                "MissingFraction": round(summary.indicators["missing"], 4),
                **prepared.metadata,
            },
        )
