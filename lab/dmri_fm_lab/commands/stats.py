"""`dmri-fm stats`: test features, regional scalars and maps of a cohort, on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers, print_left_out


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm stats`."""
    parser = subparsers.add_parser(
        "stats", help="test features, regional scalars and maps of a cohort"
    )
    parser.add_argument("design", type=Path, metavar="DESIGN.toml", help="the analysis")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for the page and its files"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the analysis, print scans used and left out and what to know, and write its page."""
    from dmri_fm_lab.scan_tables import count_reasons
    from dmri_fm_lab.statistics.analysis import analyse
    from dmri_fm_lab.statistics.files import write_analysis
    from dmri_fm_lab.statistics.request import read_request

    analysis = analyse(read_request(options.design))
    page = write_analysis(analysis, options.out)
    sample = analysis.sample
    print(f"{len(sample.cohort)} scans of {sample.n_participants} participants")
    print_left_out(count_reasons(sample.cohort.left_out))
    for warning in analysis.warnings:
        print(f"{warning.level}: {warning.text}")
    print(page)
