"""`dmri-fm evaluate slabs`: does a network read slabs, its training data, as it reads brains?"""

from __future__ import annotations

import argparse

from dmri_fm_lab.commands.options import (
    Subparsers,
    add_autoencoder,
    load_autoencoder,
    read_sources,
    write_autoencoder_record,
)


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm evaluate slabs`."""
    parser = subparsers.add_parser(
        "slabs", help="slabs, as training reads them, against whole brains"
    )
    add_autoencoder(parser)
    parser.add_argument(
        "--slices", type=int, default=4, metavar="N", help="slices of a slab; default 4"
    )
    parser.add_argument(
        "--directions",
        type=int,
        default=12,
        metavar="T",
        help="distinct directions; scans with fewer are skipped; default 12",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare errors, patch tokens and class tokens of slabs and whole brains."""
    from dmri_fm_lab.evaluate.slabs import compare_slabs, format_slabs

    network = load_autoencoder(options)
    record = compare_slabs(
        network,
        read_sources(options).scans(network.config.encoder.grid),
        n_slices=options.slices,
        n_directions=options.directions,
        seed=options.seed,
    )
    print(format_slabs(record))
    write_autoencoder_record(options, record)
