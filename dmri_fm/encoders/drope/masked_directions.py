"""Measurements of a scan predicted from its others: a map of its quality.

The error is large where measurements contradict each other: motion, dropped slices, wrong
gradients. A Gaussian process predicts, without trained weights
(:mod:`dmri_fm.encoders.drope.gaussian_process`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmri_fm.encoders.drope.estimates import predict_by_process
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.gradients import group_shells
from dmri_fm.tensor_design import FEWEST_DIRECTIONS


class PredictionErrors(NamedTuple):
    """Errors of predicted measurements.

    Attributes
    ----------
    patches
        Shape (S,): root mean squared error of S/S0 over measurements and the brain's voxels of
        each patch, which holds their noise; NaN in patches without brain.
    volumes
        Shape (N,): mean error of each predicted volume.
    """

    patches: Tensor
    volumes: Tensor


def prediction_errors(tokens: ScanTokens) -> PredictionErrors | None:
    """Predict either half of each shell from all other measurements.

    A measurement that is alone in its shell is not predicted: what another b-value says of it is
    off by more than what is looked for. None if fewer than
    :data:`~dmri_fm.tensor_design.FEWEST_DIRECTIONS` can be.
    """
    shells = group_shells(1000.0 * tokens.qspace[:, 0].cpu().numpy())
    paired = np.array([i for shell in shells if len(shell) > 1 for i in shell], dtype=int)
    if len(paired) < FEWEST_DIRECTIONS:
        return None
    inside = tokens.brain.any(dim=1)
    patches, brain = tokens.patches[:, inside], tokens.brain[inside]
    voxels = brain.sum(dim=1)
    volumes = []
    total = torch.zeros_like(voxels)
    for masked in (paired[::2], paired[1::2]):
        kept = np.setdiff1d(np.arange(len(tokens.qspace)), masked)
        found = predict_by_process(
            patches[kept], brain, tokens.qspace[kept], tokens.qspace[masked]
        )
        missing = (found - patches[masked]) * brain
        volumes.append((missing.sum(dim=2) / voxels).mean(dim=1))
        total += missing.square().sum(dim=(0, 2))
    errors = torch.full_like(tokens.brain[:, 0], float("nan"))
    errors[inside] = (total / (len(paired) * voxels)).sqrt()
    return PredictionErrors(errors, torch.cat(volumes))
