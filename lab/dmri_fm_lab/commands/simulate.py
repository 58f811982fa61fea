"""`dmri-fm simulate`: a raw BIDS dataset of simulated scans, with its truth."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm simulate`."""
    parser = subparsers.add_parser(
        "simulate", help="make a raw BIDS dataset of simulated scans, with its truth"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to create")
    parser.add_argument("--participants", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument(
        "--sites",
        type=int,
        default=1,
        metavar="M",
        help="scanners, each with a protocol: reverse-phase b=0 at the first, a fieldmap at the "
        "second, neither at the third, and so on; default 1",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.add_argument(
        "--voxel-size", type=float, default=3.0, metavar="MM", help="voxels of the dwi; default 3"
    )
    parser.add_argument(
        "--directions", type=int, default=16, metavar="N", help="weighted volumes; default 16"
    )
    parser.add_argument(
        "--bval", type=float, default=1000.0, metavar="B", help="b-value, s/mm^2; default 1000"
    )
    parser.add_argument(
        "--b-table",
        type=Path,
        nargs=2,
        metavar=("BVAL", "BVEC"),
        help="FSL gradient files of a RAS image, in place of --directions and --bval",
    )
    parser.add_argument(
        "--at-rest",
        action="store_true",
        help="no head motion and no eddy currents: the truth's field alone brings a series to its "
        "truth, for dmri-fm evaluate tensor",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Simulate a dataset."""
    from dmri_fm_lab.simulate import read_protocol, simulate_dataset

    # A participant takes half a minute: say which one it is.
    logging.getLogger("dmri_fm_lab.simulate").setLevel(logging.INFO)
    print(
        simulate_dataset(
            options.out,
            n_participants=options.participants,
            n_sites=options.sites,
            seed=options.seed,
            gtab=read_protocol(*options.b_table) if options.b_table else None,
            voxel_size_mm=options.voxel_size,
            n_directions=options.directions,
            bval=options.bval,
            is_at_rest=options.at_rest,
        )
    )
