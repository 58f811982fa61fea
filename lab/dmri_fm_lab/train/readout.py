"""Features of a scan that change with its tissue, and little with how it was scanned."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.pooling import ScanReadout, pool_tokens
from dmri_fm.encoders.drope.tokens import tokenise_series
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate import draw_protocol
from dmri_fm_lab.simulate.brains import draw_brains
from dmri_fm_lab.simulate.fields import uniform
from dmri_fm_lab.simulate.retest import draw_test_retest

logger = logging.getLogger(__name__)

#: Beside the purposes of :mod:`dmri_fm_lab.train.masked_steps`: seeds are [seed, purpose, number].
READOUT = 5

#: In a run's folder.
READOUT_FILE = "readout.pt"

#: Tissues that are drawn for each brain.
N_TISSUES = 4

#: Directions and b-values of the protocols; the share of them that have two shells.
DIRECTIONS, BVALS, MULTISHELL_SHARE = (8, 16), (700.0, 3000.0), 0.3


def fit_scan_readout(encoder: Drope, *, n_brains: int, seed: int) -> None:
    """Fit what pools an encoder's tokens to simulated tissues that were scanned twice each.

    Parameters
    ----------
    encoder
        On the CPU, with such a readout; it stays as it is without a head.
    n_brains
        Simulated brains, each with :data:`N_TISSUES`.
    seed
        Of all that is drawn.
    """
    if n_brains < 1:
        return
    assert encoder.readout is not None
    pairs = []
    for number in range(n_brains):
        pairs.append(draw_pairs(np.random.default_rng([seed, READOUT, number]), encoder))
        logger.info("readout: brain %d of %d", number + 1, n_brains)
    first, second = torch.cat(pairs).unbind(dim=1)
    encoder.readout.fit(first, second)


def save_readout(folder: str | Path, readout: ScanReadout, *, step: int) -> None:
    """Keep a readout beside a run's checkpoint, and the step whose encoder it was made for."""
    path = Path(folder) / READOUT_FILE
    partial = path.with_suffix(".part")
    torch.save({"step": step, "readout": readout.state_dict()}, partial)
    partial.replace(path)


def load_readout(folder: str | Path, readout: ScanReadout, *, step: int) -> None:
    """Set a readout to what was kept of a run's, if it was made for the encoder of that step."""
    path = Path(folder) / READOUT_FILE
    if path.exists():
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["step"] == step:
            readout.load_state_dict(state["readout"])


def draw_pairs(rng: np.random.Generator, encoder: Drope) -> Tensor:
    """Scan tissues of one simulated brain twice, by directions and noise of their own.

    Returns
    -------
    Tensor
        Shape (:data:`N_TISSUES`, 2, 2 d): pooled tokens.
    """
    grid = encoder.config.grid
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    affine = torch.tensor(grid.affine, dtype=torch.float32)[None]
    weight = uniform(generator, 0.0, 1.0, 1)
    brains = draw_brains(generator, grid.shape, affine, rotation=None, atlas_weight=weight)
    gtabs = _draw_protocols(rng)
    inside = brains.mask[0]
    voxels = inside.flatten().nonzero()[:, 0]
    signals = draw_test_retest(generator, brains, gtabs, voxels, n=N_TISSUES)
    mask = inside.numpy()
    found = []
    for tissue in signals:
        for signal, gtab in zip(tissue, gtabs, strict=True):
            images = np.zeros((*mask.shape, len(gtab)), dtype=np.float32)
            images[mask] = signal.T.numpy()
            scan = tokenise_series(images, gtab, mask, encoder.config)
            with torch.inference_mode():
                _, tokens = encoder(scan.patches[None], scan.qspace[None], scan.positions[None])
            found.append(pool_tokens(tokens)[0].clone())
    pairs: Tensor = torch.stack(found).unflatten(0, (N_TISSUES, 2))
    return pairs


def _draw_protocols(rng: np.random.Generator) -> list[GradientTable]:
    """Draw two tables of the same b-values, with directions of their own."""
    n = int(rng.integers(DIRECTIONS[0], DIRECTIONS[1] + 1))
    n_shells = 2 if rng.uniform() < MULTISHELL_SHARE else 1
    bvals = np.sort(rng.uniform(*BVALS, n_shells)).tolist()
    counts = [n // 2, n - n // 2] if n_shells == 2 else [n]
    return [
        draw_protocol(rng, scheme="multishell", n_directions=counts, bvals=bvals, n_b0=2)
        for _ in range(2)
    ]
