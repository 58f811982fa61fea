"""`dmri-fm pretrain`: pretrain an encoder, D-RoPE by masking or SSDiff by input dropout."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers, add_training, read_training_options


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm pretrain`."""
    parser = add_training(subparsers, "pretrain", "pretrain an encoder (drope, ssdiff)")
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
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Pretrain an encoder."""
    from dmri_fm.errors import ConfigError
    from dmri_fm.registry import feature_grid
    from dmri_fm_lab.train.config import SsdiffPretraining, read_pretraining
    from dmri_fm_lab.train.dataset_cache import SCANS, cache_scans
    from dmri_fm_lab.train.drope import pretrain_drope
    from dmri_fm_lab.train.runs import load_start
    from dmri_fm_lab.train.ssdiff import pretrain_ssdiff

    changes = read_training_options(options)
    config = read_pretraining(options.config, **changes.settings)
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
    if isinstance(config, SsdiffPretraining):
        if options.start:
            raise ConfigError(
                f"--start with {config.model}", expected="D-RoPE encoders, which can be trained on"
            )
        pretrain_ssdiff(config, options.folder, **data)
    else:
        start = load_start(options.start, model=config.model) if options.start else None
        pretrain_drope(config, options.folder, start=start, **data)
    print(options.weights or options.folder)
