"""Representations of a scan as one vector: an encoder's features, and baselines of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.encoders.drope.encoder import run_network
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.pooling import pool_tokens
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.series import Dwi
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.normalised_fit import fit_normalised
from dmri_fm_lab.smoothing import smooth_within
from dmri_fm_lab.train.initial_weights import start_encoder

logger = logging.getLogger(__name__)

#: An encoder and its untrained twins, by the prefix of their features' names.
ENCODERS = {
    "": "encoder",
    "start_": "encoder at the start of training",
    "untrained_": "encoder of random weights",
}

#: Every representation, in the order of tables.
FEATURES = {
    **{
        f"{prefix}{name}": f"{title}, {words}"
        for prefix, title in ENCODERS.items()
        for name, words in {"both": "cls + pooled", "cls": "cls", "pooled": "pooled"}.items()
    },
    "mean": "blurred mean DWI",
    "maps": "blurred FA and MD maps",
}

#: Width of the blur of maps and mean images, voxels, and the step between the voxels kept.
BLUR_VOXELS, STEP = 2.0, 4

_Array = NDArray[np.float64]


def with_untrained(encoder: Drope, *, seed: int = 0) -> dict[str, Drope]:
    """Return an encoder and its untrained twins, by prefix of :data:`ENCODERS`.

    Twins have its architecture: one has random weights, the other those from which pretraining
    starts unless told otherwise (:mod:`dmri_fm_lab.train.initial_weights`).
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        random = Drope(encoder.config).eval().requires_grad_(False)
    start = deepcopy(random)
    start_encoder(start)
    return {"": encoder, "start_": start, "untrained_": random}


def encode(encoder: Drope, scan: GridScan) -> dict[str, _Array]:
    """Return "cls", the class token, "pooled", see :func:`pool_tokens`, and "both" of a scan."""
    tokens = tokenise(scan.signal, scan.gtab, scan.mask, encoder.config)
    cls, patches = run_network(encoder, tokens)
    rows = {"cls": cls, "pooled": pool_tokens(patches, tokens.qspace)}
    vectors = {name: row.double().cpu().numpy() for name, row in rows.items()}
    return {"both": np.concatenate([vectors["cls"], vectors["pooled"]]), **vectors}


def compared_features(encoders: Mapping[str, Drope], scan: GridScan) -> dict[str, _Array]:
    """Return the features of a scan by each encoder, see :func:`with_untrained`."""
    return {
        f"{prefix}{name}": row
        for prefix, encoder in encoders.items()
        for name, row in encode(encoder, scan).items()
    }


def baseline_features(
    scan: GridScan, *, where: NDArray[np.bool_] | None = None
) -> dict[str, _Array]:
    """Return baselines of features: blurred mean weighted volumes, and FA and MD maps.

    Parameters
    ----------
    scan
        The scan.
    where
        Shape (X, Y, Z): voxels of which one in :data:`STEP` along each axis is kept; those of the
        scan's brain if None. Scans of different brains need common ones.

    Returns
    -------
    dict
        "mean": the mean of each shell. "maps": FA and MD.
    """
    maps = fit_normalised(Dwi.from_arrays(scan.signal, scan.affine, scan.gtab, mask=scan.mask))
    means = [scan.signal[..., shell.index].mean(axis=3) for shell in scan.gtab.shells]
    # MD in um^2/ms has about the range of FA.
    images = np.stack([maps.fa, 1e3 * maps.md, *means], axis=3)
    blurred = smooth_within(images, scan.mask, BLUR_VOXELS)[::STEP, ::STEP, ::STEP]
    kept = (scan.mask if where is None else where)[::STEP, ::STEP, ::STEP]
    rows = blurred[kept].astype(np.float64).T
    return {"mean": rows[2:].ravel(), "maps": rows[:2].ravel()}


def known_columns(name: str, rows: Sequence[_Array]) -> NDArray[np.bool_]:
    """Return which features are known in all scans, and log how many are not.

    The deviation over directions is unknown where a scan has few directions, see
    :func:`dmri_fm.encoders.drope.pooling.direction_deviation`.

    Parameters
    ----------
    name
        Key of :data:`FEATURES`.
    rows
        Features of each scan, shape (D,).

    Examples
    --------
    >>> known_columns("pooled", [np.array([1.0, np.nan]), np.array([2.0, 3.0])]).tolist()
    [True, False]
    """
    known: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(np.stack(rows)))
    if not known.all():
        logger.warning(
            "%s: %d of %d features are left out; they are unknown in scans of so few directions",
            FEATURES.get(name, name),
            int((~known).sum()),
            known.size,
        )
    return known


def stack_known(name: str, sets: Mapping[str, Sequence[_Array]]) -> dict[str, _Array]:
    """Stack the features of scans by protocol, (N, D) each, without those unknown in any scan."""
    known = known_columns(name, [row for rows in sets.values() for row in rows])
    return {protocol: np.stack(rows)[:, known] for protocol, rows in sets.items()}
