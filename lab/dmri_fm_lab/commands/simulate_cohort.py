"""`dmri-fm simulate-cohort`: a simulated cohort as the app's derivatives, with its truth."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm simulate-cohort`."""
    parser = subparsers.add_parser(
        "simulate-cohort",
        help="make derivatives of a simulated cohort, without scanner and preprocessing",
        description="Writes series, tensor maps, features and tables of a simulated cohort in MNI "
        "space, under the app's names. The same command goes on where it stopped, adds "
        "participants, and computes features by other weights anew.",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder")
    parser.add_argument("--participants", type=int, default=20, metavar="N", help="default 20")
    parser.add_argument("--sites", type=int, default=3, metavar="M", help="scanners; default 3")
    parser.add_argument(
        "--effect",
        choices=("fa-md", "compensated", "none"),
        default="fa-md",
        help="what age, sex, group and score change: FA and MD; tissue at the same FA and MD; "
        "nothing. Default fa-md",
    )
    parser.add_argument(
        "--protocols",
        nargs="+",
        choices=("shells", "random", "b1000", "b2500"),
        default=["shells"],
        metavar="P",
        help="each participant is scanned once with each: shells (of the site), random (12 random "
        "b-values and directions, another draw each time), b1000, b2500; default shells",
    )
    parser.add_argument(
        "--directions", type=int, default=16, metavar="N", help="of each shell; default 16"
    )
    parser.add_argument("--sessions", type=int, default=1, metavar="N", help="default 1")
    parser.add_argument(
        "--family-size", type=int, default=1, metavar="N", help="participants of one; default 1"
    )
    parser.add_argument(
        "--site-age", type=float, default=0.0, metavar="YEARS",
        help="difference in mean age between neighbouring sites; default 0",
    )  # fmt: skip
    parser.add_argument(
        "--fibres", type=int, default=4, metavar="N",
        help="courses of fibres, which participants share in turn; default 4",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.add_argument("--model", default="drope", help="the encoder; default drope")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="weights; default: those of the package"
    )
    parser.add_argument("--device", default="cpu", help="torch device; default cpu")
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="courses of fibres, for several cohorts"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Simulate a cohort, and say what a participant costs."""
    from dmri_fm_lab.simulate.derivatives import Features, simulate_derivatives
    from dmri_fm_lab.simulate.mni_cohort import CohortRequest

    logging.getLogger("dmri_fm_lab.simulate").setLevel(logging.INFO)
    cost = simulate_derivatives(
        options.out,
        CohortRequest(
            options.participants,
            options.sites,
            options.effect,
            tuple(options.protocols),
            n_directions=options.directions,
            n_sessions=options.sessions,
            family_size=options.family_size,
            site_age_years=options.site_age,
            n_fibres=options.fibres,
            seed=options.seed,
        ),
        Features(options.model, options.weights, options.device),
        cache=options.cache,
    )
    print(f"{options.out}: {cost}")
