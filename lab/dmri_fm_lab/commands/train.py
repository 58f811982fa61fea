"""`dmri-fm train`: train a tensor network on simulation, and on scans."""

from __future__ import annotations

import argparse

from dmri_fm_lab.commands.options import Subparsers, add_training, read_training_options


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm train`."""
    from dmri_fm.identity import TENSOR_NETWORKS

    parser = add_training(
        subparsers, "train", f"train a tensor network ({', '.join(TENSOR_NETWORKS)})"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train a network."""
    from dmri_fm_lab.train.config import TensorTraining, read_training
    from dmri_fm_lab.train.scan_patches import read_training_scans
    from dmri_fm_lab.train.tensor_training import train_tensor_network

    changes = read_training_options(options)
    train_tensor_network(
        read_training(TensorTraining, options.config, **changes.settings),
        options.folder,
        scans=(
            read_training_scans(options.scans, participant_labels=options.participant_label)
            if options.scans
            else []
        ),
        **changes.run,
    )
    print(options.weights or options.folder)
