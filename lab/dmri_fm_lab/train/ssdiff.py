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
from dmri_fm.errors import InputError
from dmri_fm.out_of_distribution import ScanSummary
from dmri_fm.registry import find_model
from dmri_fm.weights import save_weights
from dmri_fm_lab.train.brain_source import (
    BRAINS,
    STEP,
    BrainSource,
    fit_reference,
)
from dmri_fm_lab.train.config import SsdiffPretraining
from dmri_fm_lab.train.description import describe_recipe
from dmri_fm_lab.train.loop import CPU, Hardware, Run, run_training
from dmri_fm_lab.train.random_warp import draw_warp, source_voxels, warp_rotations
from dmri_fm_lab.train.scan_cache import CachedScan
from dmri_fm_lab.train.scan_split import describe_pretraining, split_scans

#: Share of the samples that a random warp moves; the others are as they were registered.
WARPED_SHARE = 0.5

#: Largest number of b=0 volumes of a sample, for encoders that read them.
MOST_B0 = 4


class ScanBatch(NamedTuple):
    """Scans of T volumes: signal (B, T, V), directions (B, T, W, 3), b-values (B, T)."""

    signal: Tensor
    directions: Tensor
    bvals: Tensor


def read_scan(
    rng: np.random.Generator,
    scan: CachedScan,
    config: SsdiffConfig,
    *,
    n_directions: int,
    n_b0: int = 0,
) -> SsdiffInput:
    """Draw some volumes of a scan, varied at random, as the network reads them.

    A share :data:`WARPED_SHARE` is warped, as scans are at use with `--normalisation syn`.
    """
    blocks, grid = brain_blocks(config, config.block), config.grid
    voxels, brain, rotations = blocks.voxels(), blocks.mask(), None
    if rng.uniform() < WARPED_SHARE:
        warp = draw_warp(rng, grid)
        voxels, rotations = source_voxels(warp, grid, voxels), warp_rotations(warp, grid, brain)
    values, inside, gtab = scan.draw_voxels(rng, voxels, n_directions=n_directions, n_b0=n_b0)
    with np.errstate(invalid="ignore"):
        share = (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)
    signal = np.einsum("tvk,vk->tv", values, share)
    vectors = directions_at(gtab, rotations, brain, config)
    bvals = torch.from_numpy(gtab.bvals.astype(np.float32))
    return SsdiffInput(torch.from_numpy(signal), torch.from_numpy(vectors), bvals, {})


def draw_step(encoder: SsdiffConfig, source: BrainSource, number: int) -> ScanBatch:
    """Return the scans of a step, all of as many volumes, that depend on its number alone."""
    training, step = source.training, number // source.devices
    assert isinstance(training, SsdiffPretraining)
    rng = np.random.default_rng([training.optimisation.seed, STEP, number, 0])
    scans = [source.choose(rng, source.newest(step)) for _ in range(training.batch)]
    n, n_b0 = _count_volumes(rng, encoder, source, scans)
    rows = [read_scan(rng, scan, encoder, n_directions=n, n_b0=n_b0) for scan in scans]
    return ScanBatch(*(torch.stack([row[i] for row in rows]) for i in range(3)))  # type: ignore[misc]


def _count_volumes(
    rng: np.random.Generator,
    encoder: SsdiffConfig,
    source: BrainSource,
    scans: Sequence[CachedScan],
) -> tuple[int, int]:
    """Draw how many directions and b=0 volumes scans give; none gives more than another has."""
    training = source.training
    assert isinstance(training, SsdiffPretraining)
    n = int(rng.integers(training.min_directions, training.max_directions + 1))
    n = min(n, *(scan.count_directions() for scan in scans))
    if not encoder.reads_b0:
        return n, 0
    n_b0 = int(rng.integers(1, MOST_B0 + 1))
    return n, min(n_b0, *(max(1, len(scan.b0_bvals)) for scan in scans))


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


def require_b0_volumes(scans: Sequence[CachedScan]) -> None:
    """Raise InputError that lists the scans whose folders hold no b=0 volumes, if any."""
    if lacking := [scan for scan in scans if not scan.b0_bvals]:
        raise InputError(
            f"{len(lacking)} of {len(scans)} scans without b=0 volumes: "
            + ", ".join(scan.name for scan in lacking),
            path=lacking[0].folder.parent,
            expected="b0.npy in the folder of each scan: this encoder reads b=0 volumes",
            advice="remove the folders of these scans, which an earlier version wrote, and run "
            "again",
        )


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
        If a dataset that scans come from has no name, or scans lack the b=0 volumes that the
        encoder reads.
    """
    encoder: SsdiffConfig = find_model(config.model, family="encoder").config
    if encoder.reads_b0 and config.scan_share > 0:
        require_b0_volumes(scans)
    torch.manual_seed(config.optimisation.seed)
    model = SsdiffAutoencoder(encoder)
    split = split_scans(scans, config)
    home = Path(folder) / BRAINS if brains is None else Path(brains)
    source = BrainSource(encoder, config, home, scans=split.scans, devices=hardware.devices)
    run = run_training(
        model,
        draw or partial(draw_step, encoder, source),
        partial(dropout_losses, model),
        settings=config.optimisation,
        folder=folder,
        hardware=hardware,
        data={**split.data, "recipe": describe_recipe(config)},
    )
    if weights is not None and run.is_main:
        save_weights(
            weights,
            model.encoder,
            name=config.model,
            version=version,
            training=describe_pretraining(config, run, split),
            statistics=fit_reference(
                source, split.held_out, partial(_summarise_scan, model.encoder)
            ),
        )
    return run


def _summarise_scan(
    encoder: Ssdiff, source: BrainSource, rng: np.random.Generator, n_brains: int
) -> ScanSummary:
    """Encode a scan in as many directions as a step may have."""
    chosen = source.choose(rng, n_brains)
    n, n_b0 = _count_volumes(rng, encoder.config, source, [chosen])
    scan = read_scan(rng, chosen, encoder.config, n_directions=n, n_b0=n_b0)
    scan = scan.to(encoder.cls_token.device)
    with torch.inference_mode():
        cls, tokens = encoder(scan.signal[None], scan.directions[None], scan.bvals[None])
    return summarise(cls[0], tokens[0], scan)
