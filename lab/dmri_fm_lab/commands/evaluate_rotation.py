"""`dmri-fm evaluate rotation`: does a pretrained autoencoder use the directions it is told?"""

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
    """Add the parser of `dmri-fm evaluate rotation`."""
    parser = subparsers.add_parser(
        "rotation",
        help="masked directions, when visible ones are permuted: is their rotation needed?",
    )
    add_autoencoder(parser)
    parser.add_argument(
        "--directions",
        type=int,
        default=12,
        metavar="T",
        help="distinct directions; scans with fewer are skipped; default 12",
    )
    parser.add_argument(
        "--masks", type=int, default=3, metavar="N", help="masks of directions; default 3"
    )
    parser.add_argument(
        "--permutations", type=int, default=5, metavar="N", help="of each mask; default 5"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Score predictions of masked directions with permutations and without."""
    from dmri_fm_lab.evaluate.rotation import (
        RotationRequest,
        format_rotation,
        format_rows,
        score_rotations,
    )
    from dmri_fm_lab.evaluate.rotation_verdicts import judge_run

    request = RotationRequest(
        options.directions, options.masks, options.permutations, options.seed
    )
    network = load_autoencoder(options)
    record = score_rotations(
        network,
        read_sources(options).scans(network.config.encoder.grid),
        request,
        report=lambda scan: print(format_rotation(scan), end="\n\n", flush=True),
    )
    for origin, rows in record["means"].items():
        print(f"mean of scans, {origin}\n\n{format_rows(rows)}\n")
    print(f"{judge_run(record['means'])}\n")
    write_autoencoder_record(options, record)
