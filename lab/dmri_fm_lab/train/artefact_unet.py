"""Pretrain the artefact-removal U-Net on slabs of brains, simulated and real.

Weninger et al. 2022, doi:10.1007/978-3-658-36932-3_32: the input has artefacts, the target has
not; or, as their control, both have not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dmri_fm.encoders.artefact_unet.encoder import resample_shell, summarise
from dmri_fm.encoders.artefact_unet.network import ArtefactUnet, UnetConfig
from dmri_fm.errors import ConfigError, InputError
from dmri_fm.gradients import GradientTable
from dmri_fm.out_of_distribution import ScanSummary
from dmri_fm.qspace import one_of_each_direction
from dmri_fm.registry import find_model
from dmri_fm.shell_resampling import FEWEST_DIRECTIONS, choose_shell, find_shell, fixed_directions
from dmri_fm.weights import save_weights
from dmri_fm_lab.train.artefacts import add_artefacts, find_strength
from dmri_fm_lab.train.brain_source import (
    BRAIN_VALIDATION,
    BRAINS,
    STEP,
    BrainSource,
    fit_reference,
)
from dmri_fm_lab.train.config import UnetPretraining
from dmri_fm_lab.train.description import describe_recipe
from dmri_fm_lab.train.loop import (
    CPU,
    Hardware,
    Run,
    Validation,
    run_training,
)
from dmri_fm_lab.train.scan_cache import CachedScan, slab_starts
from dmri_fm_lab.train.scan_split import describe_pretraining, split_scans

logger = logging.getLogger(__name__)

#: What pretraining asks of the network.
OBJECTIVES = ("artefacts", "autoencoder")


class UnetBatch(NamedTuple):
    """Slabs: input and target (B, N, X, Y, Z), S/S0, brain (B, X, Y, Z)."""

    signal: Tensor
    target: Tensor
    brain: Tensor


class ShellSlab(NamedTuple):
    """A shell on the fixed directions (N, X, Y, Z), its brain (X, Y, Z), and its b-value."""

    signal: Tensor
    brain: Tensor
    bval: float


def read_shell(
    rng: np.random.Generator, scan: CachedScan, config: UnetConfig, *, n_slices: int | None
) -> ShellSlab:
    """Read a slab of the shell of a scan that the encoder would read; the whole scan if None."""
    mask = scan.read_mask()
    first = 0 if n_slices is None else int(rng.choice(slab_starts(mask, n_slices)))
    slices = slice(first, None if n_slices is None else first + n_slices)
    volumes, gtab = scan.read_volumes(rng, len(scan.gtab), first=first, n_slices=n_slices)
    shell = choose_shell(gtab)
    index = list(shell.index)
    measured = np.moveaxis(volumes[..., index], 3, 0)
    own: NDArray[np.float64] = gtab.bvecs_ras[index]
    inside = mask[:, :, slices]
    signal = resample_shell(measured, own, n_directions=config.n_directions)
    signal = np.where(inside, signal, np.float32(0.0))
    return ShellSlab(torch.from_numpy(signal), torch.from_numpy(inside), shell.bval)


def draw_slabs(
    rng: np.random.Generator, encoder: UnetConfig, source: BrainSource, n_brains: int
) -> UnetBatch:
    """Draw the slabs of a step, with artefacts or without, as the settings say."""
    training = source.training
    assert isinstance(training, UnetPretraining)
    rows = []
    for _ in range(training.batch):
        scan = source.choose(rng, n_brains)
        clean = read_shell(rng, scan, encoder, n_slices=training.slab_slices)
        signal = clean.signal
        if training.objective == "artefacts":
            signal = add_artefacts(
                rng,
                clean.signal,
                fixed_directions(encoder.n_directions),
                bval=clean.bval,
                voxel_size_mm=encoder.voxel_size_mm,
                strength=find_strength(training.strength),
            )
        rows.append(UnetBatch(signal, clean.signal, clean.brain))
    return UnetBatch(*(torch.stack(part) for part in zip(*rows, strict=True)))


def draw_step(encoder: UnetConfig, source: BrainSource, number: int) -> UnetBatch:
    """Return the slabs of a step, which depend on it alone."""
    rng = np.random.default_rng([source.seed, STEP, number, 0])
    return draw_slabs(rng, encoder, source, source.newest(number // source.devices))


def removal_losses(network: nn.Module, batch: UnetBatch, step: int) -> dict[str, Tensor]:
    """Compare the network's output with the target in the brain.

    Returns
    -------
    dict
        `loss`, mean squared error, S/S0; `over_input`, the same over that of the input: below 1
        where artefacts are removed, without a number where there are none.
    """
    device = next(network.parameters()).device
    signal, target, brain = (part.to(device) for part in batch)
    where = brain[:, None].expand_as(target)
    loss = ((network(signal) - target)[where] ** 2).mean()
    left = ((signal - target)[where] ** 2).mean()
    over = (loss / left).detach() if float(left) > 0 else loss.new_tensor(float("nan"))
    return {"loss": loss, "over_input": over}


def validate_on(batches: Callable[[], Sequence[UnetBatch]]) -> Callable[[nn.Module], float]:
    """Return the error by which weights are selected: to the clean target, mean over slabs."""

    def error(network: nn.Module) -> float:
        with torch.inference_mode():
            losses = [removal_losses(network, batch, 0)["loss"] for batch in batches()]
        return float(torch.stack(losses).mean())

    return error


def check_settings(config: UnetPretraining) -> UnetConfig:
    """Return the encoder's configuration.

    Raises
    ------
    ConfigError
        If the model is no U-Net, or a setting is none that there is.
    """
    registered = find_model(config.model, family="encoder")
    if registered.network is not ArtefactUnet:
        raise ConfigError(f"pretraining of {config.model!r}", expected="artefact-unet")
    encoder: UnetConfig = registered.config
    find_strength(config.strength)
    if config.objective not in OBJECTIVES:
        raise ConfigError(f"objective {config.objective!r}", expected=", ".join(OBJECTIVES))
    if config.slab_slices % encoder.stride or not 0 < config.slab_slices <= encoder.grid_shape[2]:
        raise ConfigError(
            f"slabs of {config.slab_slices} slices",
            expected=f"a multiple of {encoder.stride}, {encoder.grid_shape[2]} at most",
        )
    if config.scan_directions < 3 * FEWEST_DIRECTIONS:
        raise ConfigError(
            f"simulated scans of {config.scan_directions} directions",
            expected=f"{3 * FEWEST_DIRECTIONS} or more, which up to three shells share",
        )
    return encoder


def distinct_table(scan: CachedScan) -> GradientTable:
    """Return the table of one volume of each direction of a scan, as steps read it."""
    return scan.gtab.select(one_of_each_direction(scan.gtab))


def select_usable(scans: Sequence[CachedScan]) -> list[CachedScan]:
    """Return the scans with a shell that can be resampled; the others are named in the log.

    Raises InputError if there are scans and none has one.
    """
    usable = [scan for scan in scans if find_shell(distinct_table(scan)) is not None]
    for scan in scans:
        if scan not in usable:
            logger.warning("%s: left out, no shell of %d directions", scan.name, FEWEST_DIRECTIONS)
    if scans and not usable:
        raise InputError(
            f"none of {len(scans)} scans can be resampled",
            path=scans[0].folder.parent,
            expected=f"a shell of {FEWEST_DIRECTIONS} directions, spread over the sphere",
        )
    return usable


def pretrain_unet(
    config: UnetPretraining,
    folder: str | Path,
    *,
    hardware: Hardware = CPU,
    weights: str | Path | None = None,
    version: str = "0.1.0",
    scans: Sequence[CachedScan] = (),
    brains: str | Path | None = None,
) -> Run:
    """Pretrain a U-Net on simulated brains and on real scans.

    Parameters are those of :func:`dmri_fm_lab.train.drope.pretrain_drope`. The weights are those
    of the lowest error to the clean target on slabs of held-out participants and brains.

    Raises
    ------
    ConfigError
        As of :func:`check_settings`.
    InputError
        If no scan can be used, or a dataset that scans come from has no name.
    """
    encoder = check_settings(config)
    torch.manual_seed(config.optimisation.seed)
    model = ArtefactUnet(encoder)
    scans = select_usable(scans)
    # Held-out participants choose the weights.
    split = split_scans(scans, config, selects=True)
    home = Path(folder) / BRAINS if brains is None else Path(brains)
    source = BrainSource(encoder, config, home, scans=split.scans, devices=hardware.devices)
    run = run_training(
        model,
        partial(draw_step, encoder, source),
        removal_losses,
        settings=config.optimisation,
        folder=folder,
        hardware=hardware,
        data={**split.data, "recipe": describe_recipe(config)},
        validation=Validation(
            config.validation_steps,
            validate_on(partial(_validation_slabs, encoder, source, split.held_out)),
        ),
    )
    if weights is not None and run.is_main:
        save_weights(
            weights,
            model,
            name=config.model,
            version=version,
            training=describe_pretraining(config, run, split),
            statistics=fit_reference(source, split.held_out, partial(_summarise_scan, model)),
        )
    return run


def _validation_slabs(
    encoder: UnetConfig, source: BrainSource, held_out: Sequence[CachedScan]
) -> list[UnetBatch]:
    """Draw the slabs of a validation, the same each time."""
    training = source.training
    assert isinstance(training, UnetPretraining)
    others = replace(source, purpose=BRAIN_VALIDATION, scans=held_out)
    return [
        draw_slabs(
            np.random.default_rng([source.seed, BRAIN_VALIDATION, number, 1]),
            encoder,
            others,
            training.n_validation,
        )
        for number in range(training.n_validation)
    ]


def _summarise_scan(
    network: ArtefactUnet, source: BrainSource, rng: np.random.Generator, n_brains: int
) -> ScanSummary:
    """Encode a whole scan, without artefacts."""
    scan = source.choose(rng, n_brains)
    slab = read_shell(rng, scan, network.config, n_slices=None)
    return summarise(network, slab.signal, slab.brain)
