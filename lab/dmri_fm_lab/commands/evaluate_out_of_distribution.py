"""`dmri-fm evaluate out-of-distribution`: does the score tell corrupted scans from intact ones?"""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers, add_sources, read_sources


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm evaluate out-of-distribution`."""
    parser = subparsers.add_parser(
        "out-of-distribution", help="does ood_score tell corrupted scans from intact ones?"
    )
    add_sources(parser, other="scans of the other generator (trxscan)")
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="weights to use; default: the packaged ones"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Score intact scans, and the same scans corrupted in several ways."""
    from dmri_fm.registry import load_weights
    from dmri_fm_lab.evaluate.out_of_distribution import (
        N_DIRECTIONS,
        format_corruptions,
        score_corruptions,
    )
    from dmri_fm_lab.evaluate.records import write_json
    from dmri_fm_lab.train.drope import find_drope

    grid = find_drope(options.model).grid
    weights = load_weights(options.weights or options.model, model=options.model)
    scans = read_sources(options).scans(grid, n_directions=N_DIRECTIONS)
    record = score_corruptions(weights, scans, seed=options.seed)
    print(format_corruptions(record))
    if options.json:
        print(write_json(record, options.json))
