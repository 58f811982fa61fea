"""Measurements of a scan predicted from its others: a map of its quality.

The error is large where measurements contradict each other: motion, dropped slices, wrong
gradients. A Gaussian process predicts, without trained weights
(:mod:`dmri_fm.gaussian_process`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dmri_fm.encoders.drope.rotary import qspace_directions
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.gaussian_process import fit_gaussian_process
from dmri_fm.gradients import GradientTable, group_shells
from dmri_fm.normalise.signal import CLIP
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


def predict_by_process(seen: Tensor, brain: Tensor, kept: Tensor, wanted: Tensor) -> Tensor:
    """Predict directions by a Gaussian process whose hyperparameters are fitted to the scan.

    See :mod:`dmri_fm.gaussian_process`.

    Parameters
    ----------
    seen
        Shape (K, S, P): S/S0 of visible directions, zero outside the brain.
    brain
        Shape (S, P): 1 in the brain, 0 outside.
    kept, wanted
        Shapes (K, 3) and (H, 3): rho, theta, phi.

    Returns
    -------
    Tensor
        Shape (H, S, P), S/S0, clipped as input is, zero outside the brain.
    """
    flat = seen.flatten(1)
    products = (flat @ flat.T / brain.sum().clamp(min=1.0)).double().cpu().numpy()
    visible = to_table(kept)
    weights = fit_gaussian_process(products, visible).weights(visible, to_table(wanted))
    predicted = torch.from_numpy(weights.T).to(seen) @ flat
    return predicted.clamp(*CLIP).reshape(-1, *brain.shape) * brain


def to_table(qspace: Tensor) -> GradientTable:
    """Return the table of measurements (T, 3): rho, theta, phi; all of them weighted."""
    axes = qspace_directions(qspace.double().cpu()).numpy()
    bvals = 1000.0 * qspace[:, 0].double().cpu().numpy()
    # There is no b=0 among them, however low the b-values are.
    return GradientTable(bvals, axes, b0_threshold=0.5)
