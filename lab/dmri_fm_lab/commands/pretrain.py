"""`dmri-fm pretrain`: pretrain the D-RoPE encoder as a masked autoencoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers, add_training, read_training_options


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm pretrain`."""
    parser = add_training(subparsers, "pretrain", "pretrain the D-RoPE encoder")
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
    from dmri_fm.registry import find_model
    from dmri_fm_lab.train.config import DropePretraining, read_training
    from dmri_fm_lab.train.drope import pretrain_drope
    from dmri_fm_lab.train.runs import load_start
    from dmri_fm_lab.train.scan_cache import SCANS, cache_scans

    changes = read_training_options(options)
    config = read_training(DropePretraining, options.config, **changes.settings)
    start = load_start(options.start, model=config.model) if options.start else None
    scans = (
        cache_scans(
            options.scans,
            options.folder / SCANS,
            find_model(config.model, family="encoder").config,
            participant_labels=options.participant_label,
        )
        if options.scans
        else []
    )
    pretrain_drope(
        config, options.folder, scans=scans, brains=options.brains, start=start, **changes.run
    )
    print(options.weights or options.folder)
