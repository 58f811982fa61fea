"""D-RoPE networks as encoders: from a series to its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.brain import find_brain
from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.guided_mae import restore_autoencoder
from dmri_fm.encoders.drope.masked_directions import direction_errors
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.pooling import pool_tokens
from dmri_fm.encoders.drope.scan_indicators import scan_indicators
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.encoders.features import ScanFeatures
from dmri_fm.encoders.patches import patch_affine
from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import identity
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.out_of_distribution import SCAN_STATISTICS, Reference, ScanSummary, score_scan
from dmri_fm.qspace import choose_spread
from dmri_fm.series import Dwi
from dmri_fm.weights import Weights


class EncodedTokens(NamedTuple):
    """Output of the network for a scan with S patches.

    Attributes
    ----------
    features
        Shape (D,): features of the scan.
    patches
        Shape (S, d): features of the patches, mean over directions.
    summary
        Input of the out-of-distribution score. Its code, shape (3 d,), is the pooled tokens and
        the deviation of `patches` over patch positions; before them come the features, where
        they are no function of the pooled tokens. Its indicators: :func:`scan_indicators`.
    """

    features: NDArray[np.float32]
    patches: NDArray[np.float32]
    summary: ScanSummary


def encode_tokens(network: Drope, tokens: ScanTokens) -> EncodedTokens:
    """Encode a scan on the device of its tokens."""
    with torch.inference_mode():
        features, encoded = network.describe(
            tokens.patches[None], tokens.qspace[None], tokens.positions[None]
        )
        patches = encoded[0].mean(dim=0)
        parts = [pool_tokens(encoded)[0], patches.std(dim=0, correction=0)]
        # Features that are pooled from the tokens add nothing to them.
        code = torch.cat(parts if network.readout is not None else [features[0], *parts])
    vector, means, numbers = (t.float().cpu().numpy() for t in (features[0], patches, code))
    return EncodedTokens(
        vector, means, ScanSummary(numbers, scan_indicators(tokens, network.config))
    )


@dataclass(frozen=True, eq=False)
class DropeInput:
    """A scan as :class:`DropeEncoder` reads it.

    Attributes
    ----------
    tokens
        Tokens of the chosen directions.
    gtab
        Gradient table of these directions.
    seed
        Seed of the choice, and of the halves of directions that are masked.
    metadata
        Description of the preparation.
    """

    tokens: ScanTokens
    gtab: GradientTable
    seed: int
    metadata: dict[str, Any]


class DropeEncoder:
    """Encoder by a :class:`~dmri_fm.encoders.drope.network.Drope` network."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.name = weights.name
        has_reference = weights.statistics.keys() >= {*SCAN_STATISTICS}
        self.reference: Reference | None = weights.statistics if has_reference else None
        self._network = cast(Drope, weights.model)
        self._config: DropeConfig = self._network.config
        self._autoencoder = restore_autoencoder(weights) if weights.pretraining else None

    @property
    def grid(self) -> Grid:
        """Grid in MNI152NLin2009aSym that the encoder reads."""
        return self._config.grid

    def prepare(self, dwi: Dwi, *, n_directions: int, seed: int) -> DropeInput:
        """Choose directions, divide them by the mean b=0 and cut them into patches.

        See :meth:`dmri_fm.encoders.base.Encoder.prepare`.
        """
        dwi.gtab.require_b0()
        chosen = choose_spread(dwi.gtab, n_directions, seed=seed, gamma=self._config.gamma)
        volumes = np.concatenate([np.flatnonzero(dwi.gtab.is_b0), chosen])
        table = dwi.gtab.select(volumes)
        mask = find_brain(dwi)
        normalised = normalise_b0(dwi.data[..., volumes], table, mask=mask)
        signal = normalised.signal[..., ~table.is_b0]
        gtab = dwi.gtab.select(chosen)
        tokens = tokenise(signal, gtab, mask, self._config)
        if not tokens.index.size:
            raise ImageError("no patch holds brain", expected="a brain mask on the model's grid")
        return DropeInput(
            tokens=tokens.to(self._network.cls_token.device),
            gtab=gtab,
            seed=seed,
            metadata={
                "Volumes": [int(i) for i in chosen],
                "ClippedFraction": float(normalised.clipped_fraction),
                "B0NormalizationScale": float(normalised.scale),
            },
        )

    def encode(self, prepared: DropeInput) -> ScanFeatures:
        """Compute the features of a scan, its OOD score, and the error of masked directions."""
        config, index = self._config, prepared.tokens.index
        encoded = encode_tokens(self._network, prepared.tokens)
        n_patches = int(np.prod(config.patch_grid))
        tokens = np.zeros((n_patches, config.dim), dtype=np.float32)
        tokens[index] = encoded.patches
        valid = np.zeros(n_patches, dtype=bool)
        valid[index] = True
        error = np.full(n_patches, np.nan, dtype=np.float32)
        if self._autoencoder is not None:
            error[index] = direction_errors(
                self._autoencoder, prepared.tokens, prepared.gtab, seed=prepared.seed
            )
        ood = score_scan(encoded.summary, self.reference)
        return ScanFeatures(
            vector=encoded.features,
            feature_type=config.features,
            model=identity(self.name).label,
            tokens=tokens,
            valid=valid,
            error=error,
            grid_shape=config.patch_grid,
            affine=patch_affine(config.grid, config.patch),
            n_directions=len(prepared.gtab),
            max_bval=float(prepared.gtab.bvals.max()),
            weights_sha256=self.weights.sha256,
            ood_score=ood.score,
            ood_percentile=ood.percentile,
            metadata={"OODIndicators": dict(ood.indicators), **prepared.metadata},
        )
