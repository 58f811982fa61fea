"""`dmri-fm diff`: two output folders of the app, file by file."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm diff`."""
    parser = subparsers.add_parser(
        "diff",
        help="compare two output folders of drope-bidsapp, file by file",
        description="Print each file that is not identical in both folders: equal but for named "
        "entries of a run (paths, times, command), numerically different with the largest "
        "difference, different, or in one folder only; exit code 1 unless all are equal. "
        "Records of runs (logs, sub-*/log) and working files are not compared.",
    )
    for name, words in (("one", "first"), ("two", "second")):
        parser.add_argument(name, type=Path, metavar=f"OUT_{name.upper()}", help=f"{words} folder")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="accept numbers that differ by this share of the largest in the same column or "
        "image (default: 0)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a line for each file that is not identical; return 1 unless all are equal."""
    from dmri_fm_workflows.outputs.differences import EQUAL, STATES, compare_outputs

    found = compare_outputs(options.one, options.two, tolerance=options.tolerance)
    for difference in found:
        if difference.state != STATES[0]:
            print(difference.state, difference.path, difference.detail, sep="\t")
    counted = Counter(difference.state for difference in found)
    said = ", ".join(f"{counted[state]} {state}" for state in STATES if counted[state])
    print(f"{len(found)} files: {said or 'nothing to compare'}")
    return 0 if found and {d.state for d in found} <= set(EQUAL) else 1
