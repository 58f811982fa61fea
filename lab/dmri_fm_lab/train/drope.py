"""Pretrain a D-RoPE encoder as a masked autoencoder of brains, simulated and real.

Patches and directions are masked in turn, epoch by epoch: see
:mod:`dmri_fm_lab.train.masked_steps`. The statistics of the out-of-distribution score are fitted
afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.encoder import encode_tokens
from dmri_fm.encoders.drope.extraction import Region, check_region, select_region
from dmri_fm.encoders.drope.mae import (
    ABLATION_MAE,
    PAPER_MAE,
    SMALL_MAE,
    MaeConfig,
    MaskedAutoencoder,
    split_autoencoder,
)
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.errors import ConfigError
from dmri_fm.identity import identity
from dmri_fm.out_of_distribution import ScanSummary
from dmri_fm.participants import PARTICIPANTS
from dmri_fm.qspace import FEATURE_DIRECTIONS
from dmri_fm.registry import find_model
from dmri_fm.weights import save_weights
from dmri_fm_lab.train.brain_source import BRAINS, fit_reference, hold_out
from dmri_fm_lab.train.config import DropePretraining
from dmri_fm_lab.train.dataset_cache import hash_participants
from dmri_fm_lab.train.description import describe_recipe, describe_run
from dmri_fm_lab.train.initial_weights import start_near_identity
from dmri_fm_lab.train.loop import CPU, Hardware, Run, run_training
from dmri_fm_lab.train.masked_steps import ScanSource, masks_patches, step_losses
from dmri_fm_lab.train.scan_cache import CachedScan

#: Decoder and masks for each encoder of the registry.
MAE_CONFIGS: dict[str, MaeConfig] = {
    "drope": SMALL_MAE,
    "drope-paper": PAPER_MAE,
    "drope-ablation": ABLATION_MAE,
    "drope-ablation-plain": ABLATION_MAE,
}


@dataclass(frozen=True, eq=False)
class Start:
    """Network that a run starts from.

    Attributes
    ----------
    network
        Encoder and decoder.
    origin
        Description, written beside the weights: model or run, and the `scans` and hashed
        `participants` that it has seen.
    """

    network: MaskedAutoencoder
    origin: Mapping[str, Any]


def find_drope(model: str) -> DropeConfig:
    """Return the configuration of a D-RoPE encoder.

    Raises
    ------
    ConfigError
        If the model is unknown, or is no D-RoPE encoder.
    """
    config = find_model(model, family="encoder").config
    if not isinstance(config, DropeConfig):
        raise ConfigError(
            f"{model} is no D-RoPE encoder",
            expected=f"one of {', '.join(MAE_CONFIGS)}",
            advice="dmri-fm probe, stats, export and explain features work with every encoder",
        )
    return config


def build_autoencoder(
    model: str = "drope", *, patch: tuple[int, int, int] | None = None
) -> MaskedAutoencoder:
    """Return the autoencoder that pretrains an encoder, with random weights.

    `patch` replaces the model's voxels of a patch.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder.
    """
    encoder = find_drope(model)
    encoder = replace(encoder, patch=patch or encoder.patch)
    return MaskedAutoencoder(replace(MAE_CONFIGS[model], encoder=encoder))


def start_autoencoder(
    model: str,
    *,
    seed: int,
    near_identity: bool = True,
    patch: tuple[int, int, int] | None = None,
) -> MaskedAutoencoder:
    """Return an autoencoder as its training starts; see :func:`build_autoencoder`."""
    torch.manual_seed(seed)
    network = build_autoencoder(model, patch=patch)
    if near_identity:
        start_near_identity(network)
    return network


def pretrain_drope(
    config: DropePretraining,
    folder: str | Path,
    *,
    hardware: Hardware = CPU,
    weights: str | Path | None = None,
    version: str = "0.1.0",
    scans: Sequence[CachedScan] = (),
    brains: str | Path | None = None,
    start: Start | None = None,
    draw: Callable[[int], Sequence[ScanTokens]] | None = None,
) -> Run:
    """Pretrain an encoder on simulated brains and on real scans.

    Parameters
    ----------
    config, folder, hardware, version
        See :func:`~dmri_fm_lab.train.tensor_training.train_tensor_network`.
    weights
        Where to write the weights of encoder and decoder (.safetensors) afterwards, with the
        statistics of the encoder's features on further draws of simulated and real scans.
    scans
        Real scans, see :func:`dmri_fm_lab.train.dataset_cache.cache_scans`.
    brains
        Folder of the simulated brains, which runs can share; in that of the run if None.
    start
        Network to train further, see :func:`dmri_fm_lab.train.runs.load_start`; it is changed.
    draw
        Other training scans by step, in place of all these.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder, or the settings name no way of masking.
    InputError
        If a dataset that scans come from has no name.
    """
    masks_patches(config, 0)
    if start is None:
        model = start_autoencoder(
            config.model,
            seed=config.optimisation.seed,
            near_identity=config.starts_near_identity,
        )
    else:
        model = start.network.train()
    model.requires_grad_(True)
    model.checkpoint_blocks(config.checkpoint_blocks)
    origin = None if start is None else dict(start.origin)
    held_out = hold_out(scans, config)
    scans = [scan for scan in scans if scan not in held_out]
    names = [scan.name for scan in scans]
    participants = hash_participants(scans) if config.scan_share > 0 else []
    source = ScanSource(
        model.encoder.config,
        config,
        Path(folder) / BRAINS if brains is None else Path(brains),
        scans=scans,
        devices=hardware.devices,
    )
    run = run_training(
        model,
        draw or source.get,
        partial(step_losses, model, config),
        settings=config.optimisation,
        folder=folder,
        hardware=hardware,
        data={
            "scans": names,
            PARTICIPANTS: participants,
            "recipe": describe_recipe(config),
            "start": origin,
        },
    )
    if weights is not None and run.is_main:
        training = _describe_scans(config, run, names, participants, origin)
        training["held_out"] = [scan.name for scan in held_out]
        region = check_region(identity(config.model).extraction.region)
        summarise = partial(_summarise_scan, model.encoder, region)
        save_weights(
            weights,
            model.encoder,
            name=config.model,
            version=version,
            training=training,
            statistics=fit_reference(source, held_out, summarise),
            pretraining=split_autoencoder(model),
        )
    return run


def _describe_scans(
    config: DropePretraining,
    run: Run,
    names: Sequence[str],
    participants: Sequence[str],
    origin: dict[str, Any] | None,
) -> dict[str, Any]:
    """Describe a run and the scans and participants that it has seen, with those of its start."""
    is_drawn, before = config.scan_share > 0, origin or {}
    seen = sorted({*(names if is_drawn else ()), *before.get("scans", ())})
    hashes = sorted({*(participants if is_drawn else ()), *before.get(PARTICIPANTS, ())})
    share = config.scan_share if is_drawn and names else 0.0
    described = describe_run(config, run, scans=seen, scan_share=share, noun="scan")
    return {**described, PARTICIPANTS: hashes, "start": origin}


def _summarise_scan(
    encoder: Drope, region: Region, source: ScanSource, rng: np.random.Generator, n_brains: int
) -> ScanSummary:
    """Encode a scan, with the app's number of directions and the region that it reads."""
    tokens = source.draw(rng, n_brains, FEATURE_DIRECTIONS)
    tokens = select_region(tokens, encoder.config, region).to(encoder.cls_token.device)
    return encode_tokens(encoder, tokens, region=region).summary
