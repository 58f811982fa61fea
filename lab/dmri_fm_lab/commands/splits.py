"""`dmri-fm splits`: draw training, validation and test sets of participants, and write them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmri_fm_lab.commands.options import Subparsers

if TYPE_CHECKING:
    from dmri_fm_lab.prediction.draw_splits import SplitRequest


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm splits`."""
    parser = subparsers.add_parser(
        "splits", help="draw training, validation and test sets of participants"
    )
    parser.add_argument("participants", type=Path, metavar="PARTICIPANTS", help="participants.tsv")
    parser.add_argument("out", type=Path, metavar="OUT", help="file of the splits (.tsv)")
    add_drawing(parser)
    parser.add_argument("--site", default="", metavar="COLUMN", help="site, for --draw sites")
    parser.add_argument(
        "--family", default="", metavar="COLUMN", help="members are never in two sets of a fold"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.set_defaults(run=run)


def add_drawing(parser: Any) -> None:
    """Add how splits are drawn."""
    parser.add_argument(
        "--draw",
        default="folds",
        metavar="HOW",
        help="folds (default); sites: one is left out; or hold-outs by percent of training, "
        "validation and test, published: 50/25/25 (released), 70/15/15, 30/35/35, 60/20/20",
    )
    parser.add_argument("--folds", type=int, default=5, metavar="N", help="default 5")
    parser.add_argument(
        "--repeats", type=int, metavar="N", help="of folds, default 1; of hold-outs, default 5"
    )
    parser.add_argument(
        "--stratify",
        nargs="+",
        default=[],
        metavar="COLUMN",
        help="columns with the same shares in all sets; numbers by their quantiles",
    )
    parser.add_argument(
        "--validation",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of each training set that becomes a validation set; default 0",
    )


def read_drawing(options: argparse.Namespace) -> SplitRequest:
    """Read what :func:`add_drawing` added, and site, family and seed."""
    from dmri_fm_lab.prediction.draw_splits import SplitRequest

    return SplitRequest(
        how=options.draw,
        n_folds=options.folds,
        n_repeats=options.repeats,
        stratify=tuple(options.stratify),
        site=options.site,
        family=options.family,
        validation=options.validation,
        seed=options.seed,
    )


def run(options: argparse.Namespace) -> None:
    """Draw splits, write them, and print their sizes."""
    from dmri_fm_lab.markdown_tables import markdown
    from dmri_fm_lab.prediction.draw_splits import draw_splits
    from dmri_fm_lab.prediction.splits import find_overlap, write_splits
    from dmri_fm_lab.scan_tables import read_people

    request = read_drawing(options)
    people = read_people(options.participants)
    needed = [c for c in (*request.stratify, request.site) if c in people]
    known = people.dropna(subset=needed)
    folds, notes = draw_splits(known, request)
    lines = [["fold", "train", "val", "test"]]
    lines += [[f.name, *(str(len(own)) for own in (f.train, f.val, f.test))] for f in folds]
    print(markdown(lines))
    print(f"\n{find_overlap(folds)}.")
    if len(known) < len(people):
        print(f"Not used: {len(people) - len(known)} (no value of {', '.join(needed)}).")
    for note in notes:
        print(f"Note: {note}.")
    print(write_splits(folds, options.out))
