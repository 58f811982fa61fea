"""`dmri-fm evaluate protocols`: do features depend on the brain, and not on the protocol?"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers, add_encoder, add_sources, read_sources


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm evaluate protocols`."""
    parser = subparsers.add_parser(
        "protocols", help="do an encoder's features tell brains apart, whatever the protocol?"
    )
    add_sources(parser, simulated="held-out scans of the training generator")
    parser.add_argument(
        "--gallery",
        type=int,
        default=100,
        metavar="N",
        help="brains that differ in microstructure only; 0: none; default 100",
    )
    parser.add_argument(
        "--directions",
        type=int,
        default=12,
        metavar="T",
        help="directions of each protocol of the gallery, and of each of the two sets that a scan "
        "of BIDS is cut into (half of a scan's at most); default 12",
    )
    parser.add_argument(
        "--drawn",
        type=int,
        default=20,
        metavar="N",
        help="brains of the gallery whose directions are drawn again and again; default 20",
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=4,
        metavar="K",
        help="draws of T directions from each of them, and from each scan; default 4",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="FOLDER", help="folder of features, to go on from there"
    )
    parser.add_argument("--snr", type=float, default=25.0, help="SNR of the gallery; default 25")
    add_encoder(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare features across sets of directions, and retrieve the members of a gallery."""
    from dmri_fm_lab.evaluate.protocols import ProtocolRequest, evaluate_protocols
    from dmri_fm_lab.evaluate.records import write_json
    from dmri_fm_lab.train.runs import load_encoder

    logging.getLogger("dmri_fm_lab.evaluate").setLevel(logging.INFO)
    gallery, n_directions = options.gallery, options.directions
    request = (
        ProtocolRequest(
            gallery,
            n_directions,
            options.snr,
            options.seed,
            n_drawn=min(options.drawn, gallery),
            n_draws=options.draws,
        )
        if gallery
        else None
    )
    encoder, description = load_encoder(
        options.model, weights=options.weights, folder=options.pretraining
    )
    scores = evaluate_protocols(
        encoder.to(options.device),
        read_sources(options),
        request,
        n_directions=n_directions,
        n_draws=options.draws,
        cache=options.cache,
        report=lambda text: print(text, end="\n\n", flush=True),
    )
    if options.json:
        print(write_json({"encoder": description, **scores}, options.json))
