"""`dmri-fm evaluate reconstruction`: masked parts of scans by a pretrained autoencoder."""

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
    """Add the parser of `dmri-fm evaluate reconstruction`."""
    parser = subparsers.add_parser(
        "reconstruction",
        help="masked directions and patches, by a pretrained autoencoder and baselines",
    )
    add_autoencoder(parser)
    parser.add_argument(
        "--directions",
        type=int,
        nargs="+",
        default=[12, 30],
        metavar="T",
        help="distinct directions; scans with fewer are skipped; default 12 30",
    )
    parser.add_argument(
        "--masks", type=int, default=2, metavar="N", help="masks of each type; default 2"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Score reconstructions of every scan."""
    from dmri_fm_lab.evaluate.reconstruction import (
        ReconstructionRequest,
        format_scan,
        score_scans,
    )

    request = ReconstructionRequest(tuple(options.directions), options.masks, options.seed)
    network = load_autoencoder(options)
    grid = network.config.encoder.grid
    record = score_scans(
        network,
        read_sources(options).scans(grid, n_directions=max(request.directions)),
        request,
        report=lambda scan: print(format_scan(scan), end="\n\n", flush=True),
    )
    write_autoencoder_record(options, record)
