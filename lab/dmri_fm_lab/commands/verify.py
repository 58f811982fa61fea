"""`dmri-fm verify`: outputs of the app against their checksums."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm verify`."""
    parser = subparsers.add_parser(
        "verify",
        help="compare outputs of drope-bidsapp with the checksums that it wrote",
        description="Name every file of a participant that is missing, changed or additional, "
        "by sub-*/log/sha256sums.txt; exit code 1 if there is one. Files at the root, in group/ "
        "and in logs/ have no checksums.",
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="output folder of drope-bidsapp")
    parser.add_argument(
        "--participant-label",
        nargs="+",
        default=[],
        metavar="LABEL",
        help="participants, with or without `sub-` (default: all)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print a line for each finding and one for all; return 1 if there is a finding."""
    from dmri_fm_workflows.outputs.manifest import verify_outputs

    n_files, findings = verify_outputs(options.folder, options.participant_label)
    for finding in findings:
        print(f"{finding.state}\t{finding.path}")
    counted = Counter(finding.state for finding in findings)
    said = ", ".join(f"{n} {state}" for state, n in counted.items()) or "all as written"
    print(f"{n_files} files with a checksum: {said}")
    return 1 if findings else 0
