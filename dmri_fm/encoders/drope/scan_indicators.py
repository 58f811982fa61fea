"""Indicators that a scan is unlike those of the training, which need no network.

See :mod:`dmri_fm.out_of_distribution`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.extraction import Region, patches_of_region
from dmri_fm.encoders.drope.masked_directions import PredictionErrors
from dmri_fm.encoders.drope.template_patches import template_tissue
from dmri_fm.encoders.drope.tokens import ScanTokens, patch_centres

#: Share of tissue at which the template's voxels count as brain.
LEAST_TISSUE = 0.3


def scan_indicators(
    tokens: ScanTokens,
    config: DropeConfig,
    errors: PredictionErrors | None,
    *,
    region: Region = "whole",
) -> dict[str, float]:
    """Return the indicators of a scan; NaN where unknown.

    Parameters
    ----------
    tokens
        The scan.
    config
        Of the encoder.
    errors
        Of the scan, see :func:`dmri_fm.encoders.drope.masked_directions.prediction_errors`.
    region
        Part of the grid that the tokens fill; brain beyond it is not missed.

    Returns
    -------
    dict
        `missing`: share of the template's brain that is missing, in the octant that lacks most.
        `anatomy`: share of the mean image's variance that the template's tissue does not explain.
        `volumes`: deviation of volumes, darker or brighter as a whole, from what the others
        predict (logarithm).
        `evenness`: minus the logarithm of how much the prediction error varies over patches; high
        where the error does not follow the anatomy.
    """
    tissue = template_tissue(config).to(tokens.brain.device)
    own = tissue[torch.from_numpy(tokens.index)]
    volumes, evenness = _contradictions(errors)
    inside = torch.from_numpy(patches_of_region(config, region)).to(tissue)
    expected = (tissue.sum(dim=2) > LEAST_TISSUE).float().mean(dim=1) * inside
    indicators = {
        "missing": _missing(tokens, config, expected),
        "anatomy": _unexplained(tokens, own),
        "volumes": volumes,
        "evenness": evenness,
    }
    # Single precision: that of the reference that ships.
    return {name: float(np.float32(value)) for name, value in indicators.items()}


def _missing(tokens: ScanTokens, config: DropeConfig, expected: Tensor) -> float:
    """Return the largest share of the template's brain that is missing in an octant."""
    have = torch.zeros_like(expected)
    have[torch.from_numpy(tokens.index)] = tokens.brain.mean(dim=1)
    centres = torch.from_numpy(patch_centres(config)).to(expected)
    if not expected.any():
        return float("nan")
    middle = (centres * expected[:, None]).sum(dim=0) / expected.sum()
    octants = ((centres > middle).long() * torch.tensor([1, 2, 4], device=centres.device)).sum(1)
    lacks = [
        1.0 - float(have[octants == o].sum() / expected[octants == o].sum().clamp(min=1e-6))
        for o in range(8)
        if expected[octants == o].any()
    ]
    return max(lacks)


def _unexplained(tokens: ScanTokens, tissue: Tensor) -> float:
    """Return the share of the mean image's variance that tissue does not explain."""
    inside = tokens.brain > 0
    wm, gm = tissue[inside].unbind(-1)
    image = tokens.patches.mean(dim=0)[inside].double()
    if len(image) < 10 or float(image.var()) == 0.0:
        return float("nan")
    design = torch.stack([torch.ones_like(wm), wm, gm, wm * wm], dim=1).double()
    normal = design.T @ design + 1e-6 * torch.eye(4).to(design)
    fit = design @ torch.linalg.solve(normal, design.T @ image)
    return float((image - fit).var() / image.var())


def _contradictions(errors: PredictionErrors | None) -> tuple[float, float]:
    """Return the deviation of whole volumes from their prediction, and the evenness of errors."""
    if errors is None:
        return float("nan"), float("nan")
    of_patches = errors.patches[~errors.patches.isnan()]
    tail = torch.quantile(of_patches, 0.95) / of_patches.median().clamp(min=1e-9)
    spread = errors.volumes.std(correction=0).clamp(min=1e-9)
    return float(spread.log()), -float(tail.clamp(min=1e-9).log())
