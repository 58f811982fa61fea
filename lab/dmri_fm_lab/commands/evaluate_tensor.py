"""`dmri-fm evaluate tensor`: six-direction tensors by networks and the baselines."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmri_fm_lab.commands.options import Subparsers

if TYPE_CHECKING:
    from dmri_fm_lab.evaluate.comparison import Request


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm evaluate tensor`."""
    parser = subparsers.add_parser(
        "tensor", help="tensors from one b=0 and six directions, by networks and baselines"
    )
    parser.add_argument(
        "bids",
        type=Path,
        nargs="*",
        metavar="BIDS",
        help="raw datasets, simulated ones with their truth among them, or output folders of the "
        "app",
    )
    parser.add_argument(
        "--subsets", type=int, default=6, metavar="N", help="subsets per shell; default 6"
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="OUT",
        help="file for all numbers, written again after each series; it serves as --scores, and "
        "as --simulation where conditions were computed for --gate",
    )
    parser.add_argument(
        "--scores",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="files of --json in place of datasets: verdicts, and --gate, without computing again",
    )
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
        help="find for which scans each map of each network is primary, from these datasets, one "
        "of them simulated (dmri-fm simulate --at-rest), and the other generator, and write that "
        "into the description (JSON) beside its weights, or into FILE",
    )
    parser.add_argument(
        "--simulation",
        type=Path,
        metavar="JSON",
        help="for --gate: numbers of benchmarks/tensor_on_simulation.py --json, of the same "
        "weights; default: computed",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare methods on every series of the datasets, or read such comparisons."""
    from dmri_fm.errors import ConfigError
    from dmri_fm.identity import RESEARCH_ONLY
    from dmri_fm_lab.evaluate.comparison import METHOD_TITLES, PACKAGED, Request
    from dmri_fm_lab.evaluate.comparison_text import format_scanners
    from dmri_fm_lab.evaluate.dataset_comparison import summarise_scanners
    from dmri_fm_lab.evaluate.gating import (
        check_scanners,
        find_gates,
        format_gates,
        save_gates,
    )
    from dmri_fm_lab.evaluate.records import json_ready, write_json
    from dmri_fm_lab.evaluate.saved_scores import (
        describe_networks,
        read_conditions,
        read_scores,
    )

    # A series takes minutes: say which one it is.
    logging.getLogger("dmri_fm_lab.evaluate").setLevel(logging.INFO)
    if bool(options.bids) == bool(options.scores):
        raise ConfigError(
            "datasets and --scores" if options.bids else "neither datasets nor --scores",
            expected="datasets to compare methods on, or files of numbers that were saved",
        )
    request = Request(
        methods=tuple(options.methods or METHOD_TITLES),
        n_subsets=options.subsets,
        models=tuple(options.model or PACKAGED),
        weights=parse_weights(options.weights),
        seed=options.seed,
        n_replicates=options.replicates,
    )
    networks = describe_networks(request.networks, request.weights)
    conditions = read_conditions(options.simulation, networks) if options.simulation else None
    scores: dict[str, Any]
    if options.scores:
        series = read_scores(options.scores, networks)
        scores = {
            "networks": networks,
            "series": series,
            "scanners": summarise_scanners(series),
        }
    else:
        scores = _compare(options, request)
    print(f"{format_scanners(scores['scanners'])}\n\n{RESEARCH_ONLY}")
    if options.gate is not None and conditions is None:
        check_scanners(scores["scanners"], request.networks)
        conditions = _simulate(request)
        scores |= {"conditions": conditions}
    if options.json:
        print(write_json(json_ready(scores), options.json))
    if options.gate is not None and conditions is not None:
        gates = find_gates(scores["scanners"], conditions, request.networks)
        print(format_gates(gates))
        path = Path(options.gate) if options.gate else None
        for written in save_gates(gates, request.weights, path):
            print(written)


def _compare(options: argparse.Namespace, request: Request) -> dict[str, Any]:
    """Compare methods on datasets, and save the numbers after each series."""
    from dmri_fm_lab.evaluate.comparison_text import format_series
    from dmri_fm_lab.evaluate.dataset_comparison import check_evidence, compare_datasets
    from dmri_fm_lab.evaluate.records import write_json

    labels = options.participant_label
    if options.gate is not None:
        check_evidence(options.bids, request, participant_labels=labels)
    return compare_datasets(
        options.bids,
        request,
        participant_labels=labels,
        report=lambda record: print(format_series(record), end="\n\n", flush=True),
        save=lambda so_far: write_json(so_far, options.json) if options.json else None,
    )


def _simulate(request: Request) -> list[dict[str, Any]]:
    from dmri_fm_lab.evaluate.conditions import compare_conditions

    return compare_conditions(request, report=lambda line: print(line, flush=True))


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
