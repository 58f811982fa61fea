"""Prediction error of masked directions: a map of a scan's quality.

The error is large where measurements contradict each other or the training data: motion, dropped
slices, wrong gradients, lesions never seen.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.encoders.drope.guided_mae import GuidedAutoencoder
from dmri_fm.encoders.drope.mae import Mask
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import choose_spread
from dmri_fm.tensor_design import FEWEST_DIRECTIONS


def direction_errors(
    network: GuidedAutoencoder, tokens: ScanTokens, gtab: GradientTable, *, seed: int
) -> NDArray[np.float32]:
    """Mask either half of the directions, and compare its reconstruction with the measurements.

    Parameters
    ----------
    network
        On the device of `tokens`, evaluation mode.
    tokens
        A scan of T weighted measurements and S patches.
    gtab
        Gradient table of the T measurements, RAS+.
    seed
        Seed of the halves, both spread over q-space.

    Returns
    -------
    ndarray
        Shape (S,): root mean squared error of S/S0 over masked directions and the brain's voxels
        of each patch; it holds the noise of the measurements. NaN if there are fewer than
        :data:`~dmri_fm.tensor_design.FEWEST_DIRECTIONS`.
    """
    n = len(gtab)
    if n < FEWEST_DIRECTIONS:
        return np.full(len(tokens.index), np.nan, dtype=np.float32)
    gamma = network.config.encoder.gamma
    first = choose_spread(gtab, n // 2, seed=seed, gamma=gamma)
    total = torch.zeros_like(tokens.brain[:, 0])
    for kept in (np.sort(first), np.setdiff1d(np.arange(n), first)):
        mask = Mask("diffusion", torch.from_numpy(kept)[None].to(tokens.patches.device))
        args = (tokens.patches[None], tokens.qspace[None], tokens.positions[None], mask)
        with torch.inference_mode():
            found = network.reconstruct(*args, tokens.brain[None])[0]
        masked = np.setdiff1d(np.arange(n), kept)
        missing = (found - tokens.patches)[masked] * tokens.brain
        total += missing.square().sum(dim=(0, 2))
    error: NDArray[np.float32] = (total / (n * tokens.brain.sum(dim=1))).sqrt().cpu().numpy()
    return error
