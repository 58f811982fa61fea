"""Pretrain a D-RoPE encoder as a masked autoencoder of brains, simulated and real.

Patches and directions are masked in turn, epoch by epoch: see
:mod:`dmri_fm_lab.train.masked_steps`.
The pooling (:mod:`dmri_fm_lab.train.readout`) and the statistics of the out-of-distribution score
are fitted afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dmri_fm.encoders.drope.encoder import encode_tokens
from dmri_fm.encoders.drope.guided_mae import (
    SMALL_MAE,
    Autoencoder,
    GuidedAutoencoder,
    GuidedConfig,
    split_autoencoder,
)
from dmri_fm.encoders.drope.mae import (
    ABLATION_MAE,
    PAPER_MAE,
    MaeConfig,
    MaskedAutoencoder,
    draw_mask,
)
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.errors import ConfigError
from dmri_fm.out_of_distribution import ScanSummary, fit_scan_reference
from dmri_fm.qspace import FEATURE_DIRECTIONS
from dmri_fm.registry import find_model
from dmri_fm.weights import save_weights
from dmri_fm_lab.train.config import DropePretraining
from dmri_fm_lab.train.description import describe_recipe, describe_run
from dmri_fm_lab.train.loop import (
    CHECKPOINT,
    CPU,
    HELD_OUT,
    REFERENCE,
    Hardware,
    Run,
    run_training,
)
from dmri_fm_lab.train.masked_steps import HOLD_OUT, ScanSource, masks_patches, step_losses
from dmri_fm_lab.train.readout import fit_scan_readout, load_readout, save_readout
from dmri_fm_lab.train.scan_cache import CachedScan

#: Decoder and masks for each encoder of the registry.
MAE_CONFIGS: dict[str, MaeConfig] = {
    "drope": SMALL_MAE,
    "drope-paper": PAPER_MAE,
    "drope-ablation": ABLATION_MAE,
    "drope-ablation-plain": ABLATION_MAE,
}

#: Parts of an autoencoder that can be trained: both, or the decoder behind a frozen encoder.
PARTS = ("all", "decoder")

#: Missing-brain threshold: largest share of an octant of the brain that a reference scan lacks.
MOST_MISSING = 0.25

#: Directions of the scans from which the first readout is made.
FEW_DIRECTIONS = 8


@dataclass(frozen=True, eq=False)
class Start:
    """Network that a run starts from.

    Attributes
    ----------
    network
        Encoder and decoder.
    origin
        Description, written beside the weights: model or run, and the `scans` that it has seen.
    """

    network: Autoencoder
    origin: Mapping[str, Any]


def build_autoencoder(model: str = "drope") -> Autoencoder:
    """Return the autoencoder that pretrains an encoder, with random weights.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder.
    """
    encoder = find_model(model, family="encoder").config
    config = replace(MAE_CONFIGS[model], encoder=encoder)
    if isinstance(config, GuidedConfig):
        return GuidedAutoencoder(config)
    return MaskedAutoencoder(config)


def check_part(config: DropePretraining, *, has_start: bool) -> None:
    """Raise ConfigError if a decoder is to be trained without a trained encoder."""
    if config.part not in PARTS or (config.part == "decoder" and not has_start):
        raise ConfigError(
            f"part {config.part!r} of a {'trained' if has_start else 'new'} network",
            expected=f"one of {', '.join(PARTS)}; the decoder alone only of a trained one",
            advice="name weights or a run with --start",
        )


def pretrain_drope(
    config: DropePretraining,
    folder: str | Path,
    *,
    hardware: Hardware = CPU,
    weights: str | Path | None = None,
    version: str = "0.1.0",
    scans: Sequence[CachedScan] = (),
    start: Start | None = None,
    draw: Callable[[int], ScanTokens] | None = None,
) -> Run:
    """Pretrain an encoder on simulation, drawn on the fly, and on real scans.

    Parameters
    ----------
    config, folder, hardware, version
        See :func:`~dmri_fm_lab.train.tensor_training.train_tensor_network`.
    weights
        Where to write the encoder's weights (.safetensors) afterwards, with the statistics of
        its features on further draws of simulated and real scans.
    scans
        Real scans, see :func:`dmri_fm_lab.train.scan_cache.cache_scans`.
    start
        Network to train further, see :func:`dmri_fm_lab.train.runs.load_start`; it is changed.
    draw
        Other training scans by step, in place of all these.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder, or its decoder is to be trained without one.
    """
    masks_patches(config, 0)
    torch.manual_seed(config.optimisation.seed)
    check_part(config, has_start=start is not None)
    model = build_autoencoder(config.model) if start is None else start.network.train()
    _choose_trained(model, config.part)
    origin = None if start is None else dict(start.origin)
    held_out = hold_out(scans, config)
    scans = [scan for scan in scans if scan not in held_out]
    names = [scan.name for scan in scans]
    draw = draw or ScanSource(model.encoder.config, config, scans=scans).get
    is_new = start is None and not (Path(folder) / CHECKPOINT).exists()
    if isinstance(model, GuidedAutoencoder) and is_new:
        _start_readout(model, [draw(step) for step in range(config.n_starting)])
    run = run_training(
        model,
        draw,
        partial(step_losses, model, config),
        settings=config.optimisation,
        folder=folder,
        hardware=hardware,
        data={"scans": names, "recipe": describe_recipe(config), "start": origin},
    )
    if weights is not None and run.is_main:
        statistics = _describe_features(run, config, folder, scans, held_out)
        training = _describe_scans(config, run, names, origin)
        training["held_out"] = [scan.name for scan in held_out]
        _save(weights, version, model, config.model, training, statistics)
    return run


def _save(
    path: str | Path,
    version: str,
    model: Autoencoder,
    name: str,
    training: dict[str, Any],
    statistics: dict[str, Tensor],
) -> None:
    save_weights(
        path,
        model.encoder,
        name=name,
        version=version,
        training=training,
        statistics=statistics,
        pretraining=split_autoencoder(model) if isinstance(model, GuidedAutoencoder) else None,
    )


def _describe_scans(
    config: DropePretraining, run: Run, names: Sequence[str], origin: dict[str, Any] | None
) -> dict[str, Any]:
    """Describe a run and the scans that it has seen, those of its start included."""
    drawn = names if config.scan_share > 0 else ()
    seen = {*drawn, *(origin or {}).get("scans", ())}
    share = config.scan_share if drawn else 0.0
    described = describe_run(config, run, scans=sorted(seen), scan_share=share, noun="scan")
    return {**described, "start": origin}


def _choose_trained(model: Autoencoder, part: str) -> None:
    """Let gradients reach the part that is trained; an encoder's old readout goes with it."""
    model.requires_grad_(True)
    model.encoder.requires_grad_(part == "all")
    if part == "all" and model.encoder.readout is not None:
        model.encoder.readout.reset()


def hold_out(scans: Sequence[CachedScan], config: DropePretraining) -> list[CachedScan]:
    """Return the scans of the participants that are held out."""
    participants = sorted({scan.participant for scan in scans})
    rng = np.random.default_rng([config.optimisation.seed, HOLD_OUT])
    n = int(config.held_out_share * len(participants))
    chosen = set(rng.permutation(participants)[:n].tolist())
    return [scan for scan in scans if scan.participant in chosen]


def _describe_features(
    run: Run,
    config: DropePretraining,
    folder: str | Path,
    scans: Sequence[CachedScan],
    held_out: Sequence[CachedScan],
) -> dict[str, Tensor]:
    """Fit the pooling, if need be; return the reference statistics of the features."""
    assert isinstance(run.model, MaskedAutoencoder | GuidedAutoencoder)
    encoder = run.model.encoder.cpu()
    if encoder.readout is not None:
        load_readout(folder, encoder.readout, step=run.steps)
        if not encoder.readout.is_fitted:
            fit_scan_readout(encoder, n_brains=config.n_readout, seed=config.optimisation.seed)
            save_readout(folder, encoder.readout, step=run.steps)
    return fit_scan_reference(
        _encode_scans(encoder, config, scans, REFERENCE, config.n_reference),
        _encode_scans(encoder, config, held_out or scans, HELD_OUT, config.n_held_out),
    )


def _start_readout(model: GuidedAutoencoder, scans: Sequence[ScanTokens]) -> None:
    """Start from the linear readout that gives visible patches back best, with random blocks."""
    rows: list[tuple[Tensor, Tensor]] = []
    rng = np.random.default_rng(0)
    for number, whole in enumerate(scans):
        scan = whole.select(np.arange(min(FEW_DIRECTIONS, len(whole.qspace))))
        n, n_places = len(scan.qspace), len(scan.index)
        kind: Literal["spatial", "diffusion"] = "diffusion" if number % 2 else "spatial"
        mask = draw_mask(rng, model.config, kind=kind, n_directions=n, n_places=n_places)
        args = (scan.patches[None], scan.qspace[None], scan.positions[None], mask)
        with torch.no_grad():
            tokens, _, _ = model.decode(*args, scan.brain[None])
        shown = ~mask.hidden(n, n_places)[0]
        rows.append((tokens[0][shown], scan.patches[shown]))
    if rows:
        model.start_readout(torch.cat([t for t, _ in rows]), torch.cat([p for _, p in rows]))


def _encode_scans(
    encoder: Drope,
    config: DropePretraining,
    scans: Sequence[CachedScan],
    purpose: int,
    n_scans: int,
) -> list[ScanSummary]:
    """Encode scans as training draws them, with the app's number of directions.

    Scans that miss much of the brain are drawn again, up to a limit.
    """
    config = replace(config, scan_directions=FEATURE_DIRECTIONS)
    source = ScanSource(encoder.config, config, purpose, scans)
    summaries: list[ScanSummary] = []
    for number in itertools.count():
        tokens = source.draw(number)
        summary = encode_tokens(encoder, tokens).summary
        if not summary.indicators["missing"] > MOST_MISSING or number >= 2 * n_scans:
            summaries.append(summary)
        if len(summaries) == n_scans:
            break
    return summaries
