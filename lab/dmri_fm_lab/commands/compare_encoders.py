"""`dmri-fm compare-encoders`: encoders and classical measures on one cohort."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from dmri_fm.errors import ConfigError
from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm compare-encoders`."""
    parser = subparsers.add_parser(
        "compare-encoders",
        help="encoders, tensor, RISH, NODDI and a connectome on one simulated cohort",
        description="Compare encoders, each with its weights and untrained, with regional FA and "
        "MD, RISH, NODDI and a connectome on one simulated cohort: probes of known factors, other "
        "protocols, site leakage, cost; and on real scans by retrieval. Research only.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="for heads and vectors; a comparison goes on"
    )
    parser.add_argument(
        "--scans", type=Path, metavar="BIDS", help="real scans, or the app's output"
    )
    parser.add_argument("--participant-label", nargs="+", metavar="LABEL", help="of --scans")
    parser.add_argument(
        "--models", nargs="+", metavar="NAME", help="encoders; default: drope ssdiff artefact-unet"
    )
    parser.add_argument(
        "--baselines",
        nargs="+",
        metavar="NAME",
        help="default: tensor rish noddi connectome",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help="weights of encoders in place of the packaged ones",
    )
    parser.add_argument(
        "--participants", type=int, default=60, metavar="N", help="of the cohort; default 60"
    )
    parser.add_argument("--heads", type=int, default=12, metavar="N", help="default 12")
    parser.add_argument("--sites", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument(
        "--directions", type=int, default=20, metavar="N", help="of each shell; default 20"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.add_argument("--device", default="cpu", help="device of the networks; default cpu")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="file for the tables")
    parser.add_argument(
        "--figure", type=Path, metavar="OUT", help="figure of the cohort's numbers"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare, print the tables, and write what is asked for."""
    from dmri_fm_lab.encoder_comparison.encoders import ENCODERS
    from dmri_fm_lab.encoder_comparison.report import draw_comparison, write_markdown
    from dmri_fm_lab.encoder_comparison.run import RunRequest, run_comparison
    from dmri_fm_lab.encoder_comparison.study import BASELINES
    from dmri_fm_lab.evaluate.records import write_json

    logging.getLogger("dmri_fm_lab.encoder_comparison").setLevel(logging.INFO)
    request = RunRequest(
        models=tuple(options.models or ENCODERS),
        weights=dict(map(_split, options.weights)),
        baselines=tuple(options.baselines or BASELINES),
        n_participants=options.participants,
        n_heads=options.heads,
        n_sites=options.sites,
        n_directions=options.directions,
        seed=options.seed,
        device=options.device,
        scans=options.scans,
        participant_labels=options.participant_label,
    )
    record, text = run_comparison(request, options.folder)
    print(text)
    if options.markdown:
        print(write_markdown(text, options.markdown))
    if options.figure:
        print(draw_comparison(record["cohort"], options.figure))
    if options.json:
        print(write_json(record, options.json))


def _split(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ConfigError(
            f"weights {text!r}", expected="NAME=PATH, such as ssdiff=mine.safetensors"
        )
    return name, Path(path).expanduser().absolute()
