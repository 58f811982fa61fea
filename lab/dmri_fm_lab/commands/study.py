"""`dmri-fm study`: experiments that answer a question of the literature, with their numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm study`."""
    study = subparsers.add_parser("study", help="experiments of the literature, run anew")
    studies = study.add_subparsers(required=True, metavar="STUDY")
    parser = studies.add_parser(
        "review",
        help="experiments of a review of machine learning in diffusion MRI",
        description="1: an MLP from six directions against least squares. 2: context against "
        "voxels and smoothing, Rician noise. 3: losses at low SNR. 4: fibre orientations by an "
        "MLP against spherical deconvolution. 5: a learned harmonisation against linear RISH "
        "scaling. On simulated voxels whose truth is known; each takes some minutes a seed.",
    )
    parser.add_argument("folder", type=Path, metavar="RUNS", help="keeps what is trained")
    parser.add_argument(
        "--which",
        type=int,
        nargs="+",
        default=[1, 2, 3, 4, 5],
        metavar="N",
        help="default: all five",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="S")
    parser.add_argument(
        "--steps", type=int, default=1500, metavar="N", help="of a training; default 1500"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the experiments of the review and print their tables."""
    from dmri_fm_lab.evaluate.records import json_ready, versions, write_json
    from dmri_fm_lab.review.experiments import run_review
    from dmri_fm_lab.review.outcomes import Setting
    from dmri_fm_lab.review.report import format_review

    setting = Setting(n_steps=options.steps)
    record = run_review(options.which, options.folder, seeds=options.seeds, setting=setting)
    print(format_review(record))
    if options.json:
        write_json(json_ready({"experiments": record, "versions": versions()}), options.json)
