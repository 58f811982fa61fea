"""D-RoPE networks as encoders: from a series to its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.brain import find_brain
from dmri_fm.encoders.base import LoadedEncoder
from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.extraction import (
    PUBLISHED_SLICES,
    Region,
    check_region,
    choose_directions,
    select_region,
)
from dmri_fm.encoders.drope.masked_directions import prediction_errors
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.pooling import pool_tokens
from dmri_fm.encoders.drope.scan_indicators import scan_indicators
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.encoders.features import PatchFeatures, ScanFeatures
from dmri_fm.encoders.patches import patch_affine
from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import identity
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.out_of_distribution import ScanSummary, score_scan
from dmri_fm.qspace import FEATURE_DIRECTIONS
from dmri_fm.series import Dwi


class EncodedTokens(NamedTuple):
    """Output of the network for a scan with S patches.

    Attributes
    ----------
    cls
        Shape (d,): the class token.
    pooled
        Shape (2 d,): see :func:`dmri_fm.encoders.drope.pooling.pool_tokens`.
    patches
        Shape (S, d): features of the patches, mean over directions.
    error
        Shape (S,): error of predicted measurements, S/S0; NaN where unknown.
    summary
        Input of the out-of-distribution score. Its code, shape (4 d,): the class token, and of the
        patch tokens the mean, the deviation over directions, and that of `patches` over patches.
        Its indicators: :func:`scan_indicators`.
    """

    cls: NDArray[np.float32]
    pooled: NDArray[np.float32]
    patches: NDArray[np.float32]
    error: NDArray[np.float32]
    summary: ScanSummary


def run_network(network: Drope, tokens: ScanTokens) -> tuple[Tensor, Tensor]:
    """Return class token (d,) and patch tokens (T, S, d) of a scan, on the network's device."""
    own = tokens.to(network.cls_token.device)
    with torch.inference_mode():
        cls, patches = network(own.patches[None], own.qspace[None], own.positions[None])
    return cls[0], patches[0]


def encode_tokens(
    network: Drope, tokens: ScanTokens, *, region: Region = "whole"
) -> EncodedTokens:
    """Encode a scan, or the part of it in a region, on the device of its tokens."""
    cls, rows = run_network(network, tokens)
    with torch.inference_mode():
        pooled = pool_tokens(rows, tokens.qspace)
        patches = rows.mean(dim=0)
        over_directions = rows.std(dim=0, correction=0).mean(dim=0)
        over_patches = patches.std(dim=0, correction=0)
        code = torch.cat([cls, patches.mean(dim=0), over_directions, over_patches])
        errors = prediction_errors(tokens)
    error = torch.full_like(tokens.brain[:, 0], float("nan")) if errors is None else errors.patches
    indicators = scan_indicators(tokens, network.config, errors, region=region)
    # The distance of tokens is large for every scanner that was not trained on (model card).
    summary = ScanSummary(_numbers(code), indicators, counts_distance=False)
    return EncodedTokens(
        _numbers(cls), _numbers(pooled), _numbers(patches), _numbers(error), summary
    )


def _numbers(values: Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = values.float().cpu().numpy()
    return numbers


@dataclass(frozen=True, eq=False)
class DropeInput:
    """A scan as :class:`DropeEncoder` reads it.

    Attributes
    ----------
    tokens
        Tokens of the chosen directions.
    gtab
        Gradient table of these directions.
    region
        Part of the grid that the tokens fill.
    metadata
        Description of the preparation.
    """

    tokens: ScanTokens
    gtab: GradientTable
    region: Region
    metadata: dict[str, Any]


class DropeEncoder(LoadedEncoder[Drope, DropeConfig]):
    """Encoder by a :class:`~dmri_fm.encoders.drope.network.Drope` network.

    Its record says what it reads of a scan, see :class:`~dmri_fm.identities.base.Extraction`.
    """

    def prepare(
        self,
        dwi: Dwi,
        *,
        n_directions: int | None,
        seed: int,
        region: str | None = None,
        rotations: NDArray[np.float32] | None = None,
    ) -> DropeInput:
        """Choose directions, divide them by the mean b=0 and cut them into patches.

        See :meth:`dmri_fm.encoders.base.Encoder.prepare`; `region` is that of the record if None,
        `n_directions` :data:`~dmri_fm.qspace.FEATURE_DIRECTIONS`. `rotations` are not read.
        """
        dwi.gtab.require_b0()
        config, own = self._config, identity(self.name).extraction
        part = check_region(region or own.region)
        chosen = choose_directions(
            dwi.gtab,
            n_directions or FEATURE_DIRECTIONS,
            how=own.directions,
            seed=seed,
            gamma=config.gamma,
        )
        volumes = np.concatenate([np.flatnonzero(dwi.gtab.is_b0), chosen])
        table = dwi.gtab.select(volumes)
        mask = find_brain(dwi)
        normalised = normalise_b0(dwi.data[..., volumes], table, mask=mask)
        signal = normalised.signal[..., ~table.is_b0]
        gtab = dwi.gtab.select(chosen)
        tokens = select_region(tokenise(signal, gtab, mask, config), config, part)
        if not tokens.index.size:
            raise ImageError("no patch holds brain", expected="a brain mask on the model's grid")
        return DropeInput(
            tokens=tokens.to(self._network.cls_token.device),
            gtab=gtab,
            region=part,
            metadata={
                **_describe_extraction(part, own.directions),
                "Volumes": [int(i) for i in chosen],
                "ClippedFraction": float(normalised.clipped_fraction),
                "B0NormalizationScale": float(normalised.scale),
            },
        )

    def encode(self, prepared: DropeInput) -> ScanFeatures:
        """Compute the features of a scan, its OOD score, and the error of masked directions."""
        config, index = self._config, prepared.tokens.index
        encoded = encode_tokens(self._network, prepared.tokens, region=prepared.region)
        n_patches = int(np.prod(config.patch_grid))
        tokens = np.zeros((n_patches, config.dim), dtype=np.float32)
        tokens[index] = encoded.patches
        valid = np.zeros(n_patches, dtype=bool)
        valid[index] = True
        error = np.full(n_patches, np.nan, dtype=np.float32)
        error[index] = encoded.error
        ood = score_scan(encoded.summary, self.reference)
        return ScanFeatures(
            vectors={"cls": encoded.cls, "pooled": encoded.pooled},
            model=identity(self.name).label,
            patches=PatchFeatures(
                tokens=tokens,
                valid=valid,
                error=error,
                grid_shape=config.patch_grid,
                affine=patch_affine(config.grid, config.patch),
            ),
            n_directions=len(prepared.gtab),
            max_bval=float(prepared.gtab.bvals.max()),
            weights_sha256=self.weights.sha256,
            ood_score=ood.score,
            ood_percentile=ood.percentile,
            metadata={"OODIndicators": dict(ood.indicators), **prepared.metadata},
        )


def _describe_extraction(region: Region, directions: str) -> dict[str, Any]:
    slices = {"RegionSlices": list(PUBLISHED_SLICES)} if region == "published" else {}
    return {"Region": region, **slices, "DirectionChoice": directions}
