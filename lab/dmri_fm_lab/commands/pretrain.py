"""`dmri-fm pretrain`: pretrain an encoder.

D-RoPE by masking, SSDiff by input dropout, the U-Net by removing artefacts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dmri_fm_lab.commands.options import Subparsers, add_training, read_training_options

if TYPE_CHECKING:
    from dmri_fm_lab.train.config import EncoderPretraining


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm pretrain`."""
    parser = add_training(
        subparsers, "pretrain", "pretrain an encoder (drope, ssdiff, artefact-unet)"
    )
    parser.add_argument(
        "--start",
        metavar="RUN",
        help="train further: folder of a run, a .safetensors file, or drope: the shipped weights",
    )
    parser.add_argument(
        "--brains",
        type=Path,
        metavar="FOLDER",
        help="simulated brains, which runs can share; default: in the run's folder",
    )
    parser.add_argument(
        "--objective",
        choices=("artefacts", "autoencoder"),
        help="artefact-unet: remove added artefacts (default), or reproduce the input",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Pretrain an encoder."""
    from dmri_fm.registry import feature_grid
    from dmri_fm_lab.train.artefact_unet import pretrain_unet
    from dmri_fm_lab.train.config import (
        DropePretraining,
        SsdiffPretraining,
        UnetPretraining,
        read_pretraining,
    )
    from dmri_fm_lab.train.dataset_cache import SCANS, cache_scans
    from dmri_fm_lab.train.drope import pretrain_drope
    from dmri_fm_lab.train.runs import load_start
    from dmri_fm_lab.train.ssdiff import pretrain_ssdiff

    changes = read_training_options(options)
    config = read_pretraining(options.config, **changes.settings)
    _check_options(options, config)
    if isinstance(config, UnetPretraining) and options.objective:
        config = replace(config, objective=options.objective)
    scans = (
        cache_scans(
            options.scans,
            options.folder / SCANS,
            feature_grid(config.model),
            participant_labels=options.participant_label,
        )
        if options.scans
        else []
    )
    data = {"scans": scans, "brains": options.brains, **changes.run}
    if isinstance(config, DropePretraining):
        start = load_start(options.start, model=config.model) if options.start else None
        pretrain_drope(config, options.folder, start=start, **data)
    elif isinstance(config, SsdiffPretraining):
        pretrain_ssdiff(config, options.folder, **data)
    else:
        pretrain_unet(config, options.folder, **data)
    print(options.weights or options.folder)


def _check_options(options: argparse.Namespace, config: EncoderPretraining) -> None:
    """Raise ConfigError for an option that the pretraining of a model does not have."""
    from dmri_fm.errors import ConfigError
    from dmri_fm_lab.train.config import DropePretraining, UnetPretraining

    if options.start and not isinstance(config, DropePretraining):
        raise ConfigError(
            f"--start with {config.model}", expected="D-RoPE encoders, which can be trained on"
        )
    if options.objective and not isinstance(config, UnetPretraining):
        raise ConfigError(f"--objective with {config.model}", expected="artefact-unet")
