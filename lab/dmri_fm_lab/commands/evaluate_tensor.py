"""`dmri-fm evaluate tensor`: six-direction tensors by networks and the baselines."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm evaluate tensor`."""
    parser = subparsers.add_parser(
        "tensor", help="tensors from one b=0 and six directions, by networks and baselines"
    )
    parser.add_argument(
        "bids",
        type=Path,
        nargs="+",
        metavar="BIDS",
        help="raw datasets, simulated ones with their truth among them, or output folders of the "
        "app",
    )
    parser.add_argument(
        "--subsets", type=int, default=6, metavar="N", help="subsets per shell; default 6"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.add_argument(
        "--participant-label", nargs="+", metavar="LABEL", help="participants; default: all"
    )
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="methods; default: all")
    parser.add_argument(
        "--model",
        nargs="+",
        metavar="NAME",
        help="networks, a row each; default: those whose weights ship with the package",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="MODEL=FILE",
        help="weights to use in place of the packaged ones",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="random seed; default 0")
    parser.add_argument(
        "--replicates", type=int, default=40, metavar="N", help="bootstrap replicates; default 40"
    )
    parser.add_argument(
        "--gate",
        nargs="?",
        const="",
        metavar="FILE",
        help="find the scans and maps for which each network is primary, from these datasets and "
        "the other generator, and write that into the description (JSON) beside its weights, or "
        "into FILE",
    )
    parser.add_argument(
        "--simulation",
        type=Path,
        metavar="JSON",
        help="for --gate: numbers of benchmarks/tensor_on_simulation.py --json; default: computed",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare methods on every series of the datasets."""
    from dmri_fm_lab.evaluate.comparison import METHOD_TITLES, PACKAGED, Request
    from dmri_fm_lab.evaluate.comparison_text import format_scanners, format_series
    from dmri_fm_lab.evaluate.dataset_comparison import compare_datasets
    from dmri_fm_lab.evaluate.gating import find_gates, format_gates, save_gates
    from dmri_fm_lab.evaluate.records import write_json

    # A series takes minutes: say which one it is.
    logging.getLogger("dmri_fm_lab.evaluate").setLevel(logging.INFO)
    request = Request(
        methods=tuple(options.methods or METHOD_TITLES),
        n_subsets=options.subsets,
        models=tuple(options.model or PACKAGED),
        weights=parse_weights(options.weights),
        seed=options.seed,
        n_replicates=options.replicates,
    )
    scores = compare_datasets(
        options.bids,
        request,
        participant_labels=options.participant_label,
        report=lambda record: print(format_series(record), end="\n\n", flush=True),
    )
    print(format_scanners(scores["scanners"]))
    if options.json:
        print(write_json(scores, options.json))
    if options.gate is not None:
        gates = find_gates(scores["scanners"], request, simulation=options.simulation)
        print(format_gates(gates))
        for path in save_gates(gates, request, Path(options.gate) if options.gate else None):
            print(path)


def parse_weights(pairs: list[str]) -> dict[str, Path]:
    """Return files of weights by model from `MODEL=FILE`."""
    from dmri_fm.errors import ConfigError

    weights = {}
    for pair in pairs:
        model, equals, path = pair.partition("=")
        if not (model and equals and path):
            raise ConfigError(f"weights {pair!r}", expected="MODEL=FILE")
        weights[model] = Path(path)
    return weights
