"""`dmri-fm evaluate tensor`: six-direction tensors by a network and the baselines."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm evaluate tensor`."""
    parser = subparsers.add_parser(
        "tensor", help="tensors from one b=0 and six directions, by a network and baselines"
    )
    parser.add_argument(
        "bids", type=Path, metavar="BIDS", help="a raw dataset, or the app's output folder"
    )
    parser.add_argument(
        "--subsets", type=int, default=6, metavar="N", help="subsets per shell; default 6"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.add_argument(
        "--participant-label", nargs="+", metavar="LABEL", help="participants; default: all"
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="methods; default: all")
    parser.add_argument(
        "--model", default="tensor-refiner", help="the network; default tensor-refiner"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="weights to use; default: the packaged ones"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="random seed; default 0")
    parser.add_argument(
        "--replicates", type=int, default=40, metavar="N", help="bootstrap replicates; default 40"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare methods on every series of a dataset."""
    from dmri_fm_lab.evaluate.comparison import (
        METHOD_TITLES,
        Request,
        compare_dataset,
        format_series,
    )
    from dmri_fm_lab.evaluate.records import write_json

    # A series takes minutes: say which one it is.
    logging.getLogger("dmri_fm_lab.evaluate").setLevel(logging.INFO)
    scores = compare_dataset(
        options.bids,
        Request(
            methods=tuple(options.methods or METHOD_TITLES),
            n_subsets=options.subsets,
            model=options.model,
            weights=options.weights,
            seed=options.seed,
            n_replicates=options.replicates,
        ),
        participant_labels=options.participant_label,
        report=lambda record: print(format_series(record), end="\n\n", flush=True),
    )
    if options.json:
        print(write_json(scores, options.json))
