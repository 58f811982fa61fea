"""Representations of a scan as one vector: an encoder's features, and baselines of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.pooling import pool_tokens
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm_lab.evaluate.reconstruction_baselines import Kept, fit_normalised
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.smoothing import smooth_within

__all__ = ["FEATURES", "encode", "encode_in_parts", "plain_features", "untrained"]

#: Every representation, in the order of tables.
FEATURES = {
    "encoder": "encoder",
    "pooled": "its tokens, pooled as they are",
    "cls": "its class tokens",
    "untrained": "untrained encoder",
    "mean": "blurred mean DWI",
    "maps": "blurred FA and MD maps",
}


#: Maps and mean images are blurred by this much, voxels, and every fourth voxel is kept.
BLUR_VOXELS, STEP = 2.0, 4


_Array = NDArray[np.float64]


def untrained(encoder: Drope, *, seed: int = 0) -> Drope:
    """Return an encoder of the same architecture with weights as they are drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Drope(encoder.config).eval().requires_grad_(False)


def encode(encoder: Drope, scan: GridScan) -> _Array:
    """Return the features of a scan, all of its directions read."""
    return encode_in_parts(encoder, scan)["encoder"]


def encode_in_parts(encoder: Drope, scan: GridScan) -> dict[str, _Array]:
    """Return the features of a scan, and what else could serve as such; see :data:`FEATURES`."""
    device = next(encoder.parameters()).device
    tokens = tokenise(scan.signal, scan.gtab, scan.mask, encoder.config).to(device)
    with torch.inference_mode():
        cls, found = encoder(tokens.patches[None], tokens.qspace[None], tokens.positions[None])
        features = encoder.read_out(cls, found)
        rows = {"encoder": features, "pooled": pool_tokens(found), "cls": cls}
    return {name: row[0].double().cpu().numpy() for name, row in rows.items()}


def plain_features(scan: GridScan) -> dict[str, _Array]:
    """Return baselines of features: the blurred mean weighted volume, and FA and MD maps."""
    maps = fit_normalised(Kept(scan.signal, scan.gtab, scan.mask, scan.affine))
    # MD in um^2/ms has about the range of FA.
    images = np.stack([scan.signal.mean(axis=3), maps.fa, 1e3 * maps.md], axis=3)
    blurred = smooth_within(images, scan.mask, BLUR_VOXELS)[::STEP, ::STEP, ::STEP]
    mean, fa, md = blurred[scan.mask[::STEP, ::STEP, ::STEP]].astype(np.float64).T
    return {"mean": mean, "maps": np.concatenate([fa, md])}
