"""Indicators that a scan is unlike those of the training, which need no network.

See :mod:`dmri_fm.out_of_distribution`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.estimates import predict_by_process
from dmri_fm.encoders.drope.template_patches import template_tissue
from dmri_fm.encoders.drope.tokens import ScanTokens, patch_centres
from dmri_fm.gradients import group_shells
from dmri_fm.tensor_design import FEWEST_DIRECTIONS

#: Share of tissue at which the template's voxels count as brain.
LEAST_TISSUE = 0.3


def scan_indicators(tokens: ScanTokens, config: DropeConfig) -> dict[str, float]:
    """Return the indicators of a scan; NaN where unknown.

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
    volumes, evenness = _contradictions(tokens)
    indicators = {
        "missing": _missing(
            tokens, config, (tissue.sum(dim=2) > LEAST_TISSUE).float().mean(dim=1)
        ),
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
    image = tokens.patches.mean(dim=0)[inside]
    if len(image) < 10 or float(image.var()) == 0.0:
        return float("nan")
    design = torch.stack([torch.ones_like(wm), wm, gm, wm * wm], dim=1).double()
    normal = design.T @ design + 1e-6 * torch.eye(4).to(design)
    fit = design @ torch.linalg.solve(normal, design.T @ image.double())
    return float((image - fit).var() / image.double().var())


def _contradictions(tokens: ScanTokens) -> tuple[float, float]:
    """Return the deviation of whole volumes from their prediction, and the evenness of errors.

    One half of each shell predicts the other; a measurement that is alone in its shell is not
    predicted: what another b-value says of it is off by more than what is looked for.
    """
    shells = group_shells(1000.0 * tokens.qspace[:, 0].cpu().numpy())
    paired = np.array([i for shell in shells if len(shell) > 1 for i in shell], dtype=int)
    if len(paired) < FEWEST_DIRECTIONS:
        return float("nan"), float("nan")
    inside = tokens.brain.any(dim=1)
    patches, brain = tokens.patches[:, inside], tokens.brain[inside]
    voxels = brain.sum(dim=1)
    offsets = []
    total = torch.zeros_like(voxels)
    for masked in (paired[::2], paired[1::2]):
        kept = np.setdiff1d(np.arange(len(tokens.qspace)), masked)
        found = predict_by_process(
            patches[kept], brain, tokens.qspace[kept], tokens.qspace[masked]
        )
        missing = (found - patches[masked]) * brain
        offsets.append((missing.sum(dim=2) / voxels).mean(dim=1))
        total += missing.square().sum(dim=(0, 2))
    errors = (total / (len(paired) * voxels)).sqrt()
    tail = torch.quantile(errors, 0.95) / errors.median().clamp(min=1e-9)
    return float(torch.cat(offsets).std(correction=0).clamp(min=1e-9).log()), -float(tail.log())
