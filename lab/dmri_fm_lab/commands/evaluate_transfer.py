"""`dmri-fm evaluate transfer`: heads that are trained on one protocol and tested on others."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm evaluate transfer`."""
    parser = subparsers.add_parser(
        "transfer",
        help="train on one protocol, test on others: features, regional FA and MD",
        description="Participants were scanned by several protocols, told apart by acq. A head is "
        "trained on scans by one, and tested on scans of other participants by each. "
        "Research only.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="OUT", help="output folder with group/ and participants.tsv"
    )
    parser.add_argument(
        "--targets", nargs="+", default=["age", "sex"], metavar="COLUMN", help="default age sex"
    )
    parser.add_argument(
        "--train", default="", metavar="ACQ", help="label of acq; default: the first"
    )
    parser.add_argument(
        "--test", nargs="+", default=[], metavar="ACQ", help="labels of acq; default: all"
    )
    parser.add_argument(
        "--head", nargs="+", default=["tuned", "linear"], help="default tuned linear"
    )
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument(
        "--family", default="", metavar="COLUMN", help="members are never in two sets of a fold"
    )
    parser.add_argument("--model", default="drope", help="label of the encoder; default drope")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print a table for each target."""
    from dmri_fm_lab.evaluate.records import write_json
    from dmri_fm_lab.evaluate.transfer import TransferRequest, evaluate_transfer

    record = evaluate_transfer(
        options.folder,
        TransferRequest(
            tuple(options.targets),
            options.train,
            tuple(options.test),
            tuple(options.head),
            n_folds=options.folds,
            n_repeats=options.repeats,
            seed=options.seed,
            family=options.family,
        ),
        model=options.model,
    )
    print(record["text"])
    if options.json:
        print(write_json(record, options.json))
