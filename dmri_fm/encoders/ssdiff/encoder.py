"""SSDiff networks as encoders: from a series to its features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from dmri_fm.brain import find_brain, require_template_brain
from dmri_fm.encoders.base import LoadedEncoder
from dmri_fm.encoders.features import ScanFeatures
from dmri_fm.encoders.ssdiff.blocks import brain_blocks
from dmri_fm.encoders.ssdiff.config import SsdiffConfig
from dmri_fm.encoders.ssdiff.network import Ssdiff
from dmri_fm.gradients import B0_THRESHOLD, GradientTable
from dmri_fm.identity import identity
from dmri_fm.normalise.grid import Image3D
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.out_of_distribution import ScanSummary, score_scan
from dmri_fm.series import Dwi

#: Random combinations of features whose gradients give the sensitivity.
N_PROBES = 16


class SsdiffInput(NamedTuple):
    """A scan of T volumes as the network reads it, and a description of the preparation."""

    signal: Tensor  # (T, V), S/S0; NaN where there is no brain
    directions: Tensor  # (T, W, 3), RAS+
    bvals: Tensor  # (T,), s/mm^2
    metadata: dict[str, Any]

    def to(self, device: torch.device) -> SsdiffInput:
        """Return the input on a device."""
        arrays = (self.signal.to(device), self.directions.to(device), self.bvals.to(device))
        return SsdiffInput(*arrays, self.metadata)


def directions_at(
    gtab: GradientTable,
    rotations: NDArray[np.float32] | None,
    mask: NDArray[np.bool_],
    config: SsdiffConfig,
) -> NDArray[np.float32]:
    """Return the unit vectors (T, W, 3) of volumes at the W larger blocks, RAS+.

    Parameters
    ----------
    gtab
        Of the T volumes.
    rotations
        Shape (X, Y, Z, 3): rotation vectors of a warp, rad, which are averaged over the masked
        voxels of each block; None: there is no warp.
    mask
        Shape (X, Y, Z): the brain.
    config
        The encoder's. Where it reads b=0 volumes, these have (1, 0, 0), as published; else zero.
    """
    blocks = brain_blocks(config, config.direction_block)
    vectors = np.where(gtab.is_b0[:, None], 0.0, gtab.bvecs_ras)
    if rotations is None:
        found = np.repeat(vectors[:, None], len(blocks), axis=1)
    else:
        turns = np.nan_to_num(blocks.means(np.moveaxis(rotations, 3, 0), mask)).T
        found = np.einsum("wij,tj->twi", Rotation.from_rotvec(turns).as_matrix(), vectors)
    if config.reads_b0:
        found[gtab.is_b0] = [1.0, 0.0, 0.0]
    return found.astype(np.float32)


def prepare_volumes(
    dwi: Dwi, config: SsdiffConfig, *, rotations: NDArray[np.float32] | None = None
) -> SsdiffInput:
    """Divide a series by its mean b=0 and average it over the blocks of the template's brain.

    Parameters
    ----------
    dwi
        On the encoder's grid, with a brain mask.
    config
        The encoder's.
    rotations
        Shape (X, Y, Z, 3): rotation vectors of a warp, see
        :func:`dmri_fm.normalise.local_rotation.local_rotations`.

    Raises
    ------
    ImageError
        If more than half of the template's brain lies outside the mask.
    """
    mask = find_brain(dwi)
    normalised = normalise_b0(dwi.data, dwi.gtab, mask=mask)
    which = np.arange(len(dwi.gtab)) if config.reads_b0 else np.flatnonzero(~dwi.gtab.is_b0)
    gtab = dwi.gtab.select(which)
    blocks = brain_blocks(config, config.block)
    values = blocks.means(np.moveaxis(normalised.signal[..., which], 3, 0), mask)
    missing = float(np.isnan(values[0]).mean())
    require_template_brain(missing)
    vectors = directions_at(gtab, rotations, mask, config)
    return SsdiffInput(
        torch.from_numpy(values),
        torch.from_numpy(vectors),
        torch.from_numpy(gtab.bvals.astype(np.float32)),
        {
            "Region": "whole",
            "DirectionChoice": "all",
            "Volumes": len(which),
            "MissingFraction": round(missing, 4),
            "ClippedFraction": float(normalised.clipped_fraction),
            "B0NormalizationScale": float(normalised.scale),
            "LocalRotation": rotations is not None,
        },
    )


class Sensitivity(NamedTuple):
    """How far the pooled features follow the signal of each block, an estimate.

    Attributes
    ----------
    values
        Shape (V,), features per S/S0; zero where there is no brain.
    relative_error
        Standard error of a value over the value, median over the blocks with brain.
    """

    values: NDArray[np.float32]
    relative_error: float


def sensitivity(network: Ssdiff, scan: SsdiffInput, *, seed: int = 0) -> Sensitivity:
    """Return how far the pooled features follow the signal of each block.

    Root of the sum over features of the squared derivative by a change of S/S0 in one block, the
    same in all volumes; an estimate from :data:`N_PROBES` random combinations of the features
    (Hutchinson 1990, doi:10.1080/03610919008812866).
    """
    generator = torch.Generator().manual_seed(seed)
    shift = torch.zeros(scan.signal.shape[1], device=scan.signal.device, requires_grad=True)
    squares = []
    with torch.enable_grad():
        signal = scan.signal.nan_to_num(network.config.signal_mean) + shift
        _, tokens = network(signal[None], scan.directions[None], scan.bvals[None])
        pooled = tokens[0].mean(dim=0)
        for number in range(N_PROBES):
            signs = torch.randint(0, 2, pooled.shape, generator=generator).to(pooled) * 2 - 1
            keep = number < N_PROBES - 1
            (gradient,) = torch.autograd.grad(pooled @ signs, shift, retain_graph=keep)
            squares.append(gradient.detach() ** 2)
    probes = torch.stack(squares)[:, ~scan.signal[0].isnan()]
    mean = probes.mean(dim=0)
    # A root has half of the relative error.
    error = probes.std(dim=0) / N_PROBES**0.5 / (2 * mean.clamp(min=torch.finfo(mean.dtype).tiny))
    found = torch.zeros_like(shift.detach())
    found[~scan.signal[0].isnan()] = mean.sqrt()
    return Sensitivity(np.asarray(found.cpu().numpy()), float(error.median()))


def summarise(cls: Tensor, tokens: Tensor, scan: SsdiffInput) -> ScanSummary:
    """Return the input of the out-of-distribution score of a scan.

    Class token (d,), mean of the volumes' tokens (T, d), and the share of the brain that is
    missing.
    """
    code = torch.cat([cls, tokens.mean(dim=0)])
    missing = float(scan.signal[0].isnan().float().mean())
    return ScanSummary(code.float().cpu().numpy(), {"missing": missing})


class SsdiffEncoder(LoadedEncoder[Ssdiff, SsdiffConfig]):
    """Encoder by an :class:`~dmri_fm.encoders.ssdiff.network.Ssdiff` network."""

    def prepare(
        self,
        dwi: Dwi,
        *,
        n_directions: int | None,
        seed: int,
        region: str | None = None,
        rotations: NDArray[np.float32] | None = None,
    ) -> SsdiffInput:
        """Average all volumes over blocks; see :meth:`dmri_fm.encoders.base.Encoder.prepare`.

        Raises ConfigError if fewer directions or a part of the brain is asked for.
        """
        dwi.gtab.require_b0()
        self._refuse_choices(n_directions, region, reads="all volumes of the whole brain")
        return prepare_volumes(dwi, self._config, rotations=rotations)

    def encode(self, prepared: SsdiffInput) -> ScanFeatures:
        """Compute the features of a scan, its OOD score, and the sensitivity."""
        network, config = self._network, self._config
        scan = prepared.to(network.cls_token.device)
        with torch.inference_mode():
            cls, tokens = network(scan.signal[None], scan.directions[None], scan.bvals[None])
        summary = summarise(cls[0], tokens[0], scan)
        ood = score_scan(summary, self.reference)
        blocks = brain_blocks(config, config.block)
        followed = sensitivity(network, scan)
        return ScanFeatures(
            vectors={
                "cls": cls[0].float().cpu().numpy(),
                "pooled": tokens[0].mean(dim=0).float().cpu().numpy(),
            },
            model=identity(self.name).label,
            sensitivity=Image3D(blocks.image(followed.values), blocks.affine(config.grid)),
            n_directions=int((scan.bvals >= B0_THRESHOLD).sum()),
            max_bval=float(scan.bvals.max()),
            weights_sha256=self.weights.sha256,
            ood_score=ood.score,
            ood_percentile=ood.percentile,
            metadata={
                "OODIndicators": dict(ood.indicators),
                "SensitivityProbes": N_PROBES,
                "SensitivityRelativeError": round(followed.relative_error, 4),
                **scan.metadata,
            },
        )
