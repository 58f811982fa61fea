"""Pretrain an SSDiff encoder by input dropout, on brains, simulated and real.

Most voxels of each volume are set to zero, and the network predicts all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dmri_fm.encoders.ssdiff.blocks import brain_blocks
from dmri_fm.encoders.ssdiff.config import SsdiffConfig
from dmri_fm.encoders.ssdiff.encoder import SsdiffInput, directions_at, summarise
from dmri_fm.encoders.ssdiff.network import Ssdiff, SsdiffAutoencoder
from dmri_fm.out_of_distribution import ScanSummary
from dmri_fm.participants import PARTICIPANTS
from dmri_fm.registry import find_model
from dmri_fm.weights import save_weights
from dmri_fm_lab.train.brain_source import (
    BRAINS,
    STEP,
    BrainSource,
    fit_reference,
    hold_out,
)
from dmri_fm_lab.train.config import SsdiffPretraining
from dmri_fm_lab.train.description import describe_recipe, describe_run
from dmri_fm_lab.train.loop import CPU, Hardware, Run, run_training
from dmri_fm_lab.train.scan_cache import CachedScan, hash_participants


class ScanBatch(NamedTuple):
    """Scans of T volumes: signal (B, T, V), directions (B, T, W, 3), b-values (B, T)."""

    signal: Tensor
    directions: Tensor
    bvals: Tensor


def read_scan(
    rng: np.random.Generator, scan: CachedScan, config: SsdiffConfig, *, n_directions: int
) -> SsdiffInput:
    """Draw some directions of a scan, varied at random, as the network reads them."""
    drawn = scan.draw_volumes(rng, n_directions=n_directions)
    values = brain_blocks(config, config.block).means(drawn.volumes, drawn.mask)
    n_places = len(brain_blocks(config, config.direction_block))
    vectors = directions_at(drawn.gtab, None, n_places, reads_b0=config.reads_b0)
    bvals = torch.from_numpy(drawn.gtab.bvals.astype(np.float32))
    return SsdiffInput(torch.from_numpy(values), torch.from_numpy(vectors), bvals, {})


def draw_step(encoder: SsdiffConfig, source: BrainSource, number: int) -> ScanBatch:
    """Return the scans of a step, all of one number of directions, that depend on it alone."""
    training, step = source.training, number // source.devices
    assert isinstance(training, SsdiffPretraining)
    rng = np.random.default_rng([training.optimisation.seed, STEP, number, 0])
    n = int(rng.integers(training.min_directions, training.max_directions + 1))
    rows: list[SsdiffInput] = []
    while len(rows) < training.batch:
        scan = source.choose(rng, source.newest(step))
        row = read_scan(rng, scan, encoder, n_directions=n)
        # A scan of fewer directions decides how many the others of its step give.
        n = min(n, len(row.bvals))
        rows.append(row)
    parts = [[row[i][:n] for row in rows] for i in range(3)]  # type: ignore[index]
    return ScanBatch(*(torch.stack(part) for part in parts))


def dropout_losses(
    model: SsdiffAutoencoder, network: nn.Module, batch: ScanBatch, step: int
) -> dict[str, Tensor]:
    """Predict the volumes from what dropout leaves of them.

    Returns
    -------
    dict
        `loss`, mean squared error of the scaled signal; `over_mean`, the error over that of the
        mean of each place over the volumes of the scan.
    """
    device = next(network.parameters()).device
    signal, directions, bvals = (part.to(device) for part in batch)
    target = model.encoder.scale(signal)
    known = ~signal.isnan()
    found = network(signal, directions, bvals)
    loss = ((found - target)[known] ** 2).mean()
    level = ((target - target.mean(dim=1, keepdim=True))[known] ** 2).mean()
    return {"loss": loss, "over_mean": (loss / level).detach()}


def pretrain_ssdiff(
    config: SsdiffPretraining,
    folder: str | Path,
    *,
    hardware: Hardware = CPU,
    weights: str | Path | None = None,
    version: str = "0.1.0",
    scans: Sequence[CachedScan] = (),
    brains: str | Path | None = None,
    draw: Callable[[int], ScanBatch] | None = None,
) -> Run:
    """Pretrain an encoder on simulated brains and on real scans.

    Parameters are those of :func:`dmri_fm_lab.train.drope.pretrain_drope`; `draw` returns other
    training scans by step.

    Raises
    ------
    ConfigError
        If the model is no SSDiff encoder.
    InputError
        If a dataset that scans come from has no name.
    """
    encoder: SsdiffConfig = find_model(config.model, family="encoder").config
    torch.manual_seed(config.optimisation.seed)
    model = SsdiffAutoencoder(encoder)
    held_out = hold_out(scans, config)
    scans = [scan for scan in scans if scan not in held_out]
    names = [scan.name for scan in scans] if config.scan_share > 0 else []
    participants = hash_participants(scans) if config.scan_share > 0 else []
    home = Path(folder) / BRAINS if brains is None else Path(brains)
    source = BrainSource(encoder, config, home, scans=scans, devices=hardware.devices)
    run = run_training(
        model,
        draw or partial(draw_step, encoder, source),
        partial(dropout_losses, model),
        settings=config.optimisation,
        folder=folder,
        hardware=hardware,
        data={"scans": names, PARTICIPANTS: participants, "recipe": describe_recipe(config)},
    )
    if weights is not None and run.is_main:
        training = describe_run(
            config, run, scans=names, scan_share=config.scan_share if names else 0.0, noun="scan"
        )
        training |= {PARTICIPANTS: participants, "held_out": [scan.name for scan in held_out]}
        save_weights(
            weights,
            model.encoder,
            name=config.model,
            version=version,
            training=training,
            statistics=fit_reference(source, held_out, partial(_summarise_scan, model.encoder)),
        )
    return run


def _summarise_scan(
    encoder: Ssdiff, source: BrainSource, rng: np.random.Generator, n_brains: int
) -> ScanSummary:
    """Encode a scan in as many directions as a step may have."""
    training = source.training
    assert isinstance(training, SsdiffPretraining)
    n = int(rng.integers(training.min_directions, training.max_directions + 1))
    scan = read_scan(rng, source.choose(rng, n_brains), encoder.config, n_directions=n)
    scan = scan.to(encoder.cls_token.device)
    with torch.inference_mode():
        cls, tokens = encoder(scan.signal[None], scan.directions[None], scan.bvals[None])
    return summarise(cls[0], tokens[0], scan)
