"""`dmri-fm features`: latent features of a series in the template's space."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers, add_series, print_paths, read_series


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm features`."""
    parser = subparsers.add_parser(
        "features", help="compute latent features of a series in MNI152NLin2009aSym"
    )
    add_series(parser)
    parser.add_argument(
        "--resample",
        action="store_true",
        help="resample the series to the encoder's grid; without, it must be on it",
    )
    parser.add_argument("--model", default="drope", help="the encoder; default drope")
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="weights to use; default: the packaged ones"
    )
    parser.add_argument("--device", default="cpu", help="device of the encoder; default cpu")
    parser.add_argument(
        "--directions", type=int, default=12, metavar="N", help="directions to read; default 12"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of their choice; default 0"
    )
    parser.add_argument(
        "--region",
        choices=("whole", "published"),
        help="part of the brain to read; default: the encoder's, published for drope-paper "
        "(slices 64 to 119 at 1 mm) and whole for drope",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Extract features, and save them."""
    from dmri_fm import extract_features, feature_grid, resample_series

    dwi = read_series(options)
    features = extract_features(
        resample_series(dwi, feature_grid(options.model)) if options.resample else dwi,
        model=options.model,
        weights=options.weights,
        device=options.device,
        n_directions=options.directions,
        seed=options.seed,
        region=options.region,
    )
    print_paths(features.save(options.stem))
