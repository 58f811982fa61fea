"""`dmri-fm evaluate cohorts`: is an outcome predicted from features as well as from FA and MD?"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers, add_encoder


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm evaluate cohorts`."""
    parser = subparsers.add_parser(
        "cohorts",
        help="an outcome of simulated cohorts, from features and from FA and MD of regions",
    )
    parser.add_argument(
        "--participants", type=int, default=120, metavar="N", help="of each cohort; default 120"
    )
    parser.add_argument(
        "--heads", type=int, default=12, metavar="N", help="folds are split by head; default 12"
    )
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="folder of features, to go on from there"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.add_argument("--model", default="drope", help="the encoder; default drope")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    add_encoder(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Simulate both cohorts, and predict the outcome by ridge regression."""
    from dmri_fm_lab.evaluate.cohorts import CohortRequest, evaluate_cohorts
    from dmri_fm_lab.evaluate.records import write_json
    from dmri_fm_lab.train.runs import load_encoder

    logging.getLogger("dmri_fm_lab.evaluate").setLevel(logging.INFO)
    request = CohortRequest(options.participants, options.heads, seed=options.seed)
    encoder, description = load_encoder(
        options.model, weights=options.weights, folder=options.pretraining
    )
    scores = evaluate_cohorts(
        encoder.to(options.device),
        request,
        cache=options.cache,
        report=lambda text: print(text, end="\n\n", flush=True),
    )
    if options.json:
        print(write_json({"encoder": description, **scores}, options.json))
