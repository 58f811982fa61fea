"""`dmri-fm compare`: methods over one set of splits, as a table."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm compare`."""
    parser = subparsers.add_parser(
        "compare",
        help="compare probes, fine-tuning and image networks over the same splits",
        description="Run all methods that a TOML file lists over the same splits of the same "
        "participants, and print one table. Research only.",
    )
    parser.add_argument("file", type=Path, metavar="TOML", help="the comparison")
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="for results; rows that are done are kept"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare, and print the table."""
    from dmri_fm_lab.prediction.compare import compare, format_comparison
    from dmri_fm_lab.prediction.compare_request import read_comparison

    logging.getLogger("dmri_fm_lab.prediction").setLevel(logging.INFO)
    print(format_comparison(compare(read_comparison(options.file), options.folder)))
    print(f"\n{options.folder}")
