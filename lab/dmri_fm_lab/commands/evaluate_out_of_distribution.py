"""`dmri-fm evaluate out-of-distribution`: does the score tell spoilt scans from sound ones?"""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers, add_sources, read_sources

__all__ = ["add_parser"]


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm evaluate out-of-distribution`."""
    parser = subparsers.add_parser(
        "out-of-distribution", help="does ood_score tell spoilt scans from sound ones?"
    )
    add_sources(parser, other="scans of the other generator (trxscan)")
    parser.add_argument("--weights", type=Path, metavar="PATH", help="in place of the shipped")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Score sound scans, and the same scans spoilt in several ways."""
    from dmri_fm_lab.evaluate.out_of_distribution import (
        evaluate_out_of_distribution,
        format_corruptions,
    )
    from dmri_fm_lab.evaluate.records import write_json

    found = evaluate_out_of_distribution(
        options.weights or options.model, read_sources(options), model=options.model
    )
    print(format_corruptions(found))
    if options.json:
        print(write_json(found, options.json))
