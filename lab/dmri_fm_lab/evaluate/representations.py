"""Representations of a scan as one vector: an encoder's features, and baselines of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.pooling import pool_tokens
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.series import Dwi
from dmri_fm_lab.evaluate.reconstruction_baselines import fit_normalised
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.smoothing import smooth_within

#: Every representation, in the order of tables.
FEATURES = {
    "encoder": "encoder",
    "pooled": "its tokens, pooled without the filter",
    "cls": "its class tokens",
    "untrained": "untrained encoder",
    "mean": "blurred mean DWI",
    "maps": "blurred FA and MD maps",
}

#: Width of the blur of maps and mean images, voxels, and the step between the voxels kept.
BLUR_VOXELS, STEP = 2.0, 4

_Array = NDArray[np.float64]


def untrained(encoder: Drope, *, seed: int = 0) -> Drope:
    """Return an encoder of the same architecture with random initial weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Drope(encoder.config).eval().requires_grad_(False)


def encode(encoder: Drope, scan: GridScan) -> dict[str, _Array]:
    """Return class token and pooled tokens of a scan, keys of :data:`FEATURES`."""
    device = next(encoder.parameters()).device
    tokens = tokenise(scan.signal, scan.gtab, scan.mask, encoder.config).to(device)
    with torch.inference_mode():
        cls, patches = encoder(tokens.patches[None], tokens.qspace[None], tokens.positions[None])
        rows = {"cls": cls[0], "pooled": pool_tokens(patches[0], tokens.qspace)}
    return {name: row.double().cpu().numpy() for name, row in rows.items()}


def baseline_features(scan: GridScan) -> dict[str, _Array]:
    """Return baselines of features: the blurred mean weighted volume, and FA and MD maps."""
    maps = fit_normalised(Dwi.from_arrays(scan.signal, scan.affine, scan.gtab, mask=scan.mask))
    # MD in um^2/ms has about the range of FA.
    images = np.stack([scan.signal.mean(axis=3), maps.fa, 1e3 * maps.md], axis=3)
    blurred = smooth_within(images, scan.mask, BLUR_VOXELS)[::STEP, ::STEP, ::STEP]
    mean, fa, md = blurred[scan.mask[::STEP, ::STEP, ::STEP]].astype(np.float64).T
    return {"mean": mean, "maps": np.concatenate([fa, md])}
