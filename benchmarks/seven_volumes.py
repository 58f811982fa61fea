"""Methods from seven volumes as rows of tables, and their errors beside the published ones.

A method is a baseline, a network of the package, or the network of a training run. The published
errors and ours are of different scans: only the order of rows within one source can be compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from published_tables import Errors

from dmri_fm import predict_tensor
from dmri_fm.identity import TENSOR_NETWORKS, identity
from dmri_fm.series import Dwi
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.commands.evaluate_tensor import parse_weights
from dmri_fm_lab.evaluate.baselines import BASELINES
from dmri_fm_lab.evaluate.comparison import Request
from dmri_fm_lab.evaluate.comparison_text import say_trained
from dmri_fm_lab.evaluate.dataset_comparison import find_judged_scans
from dmri_fm_lab.evaluate.network_runs import estimate_tensors, load_tensor_run
from dmri_fm_lab.evaluate.reference import Reference
from dmri_fm_lab.evaluate.saved_scores import describe_networks
from dmri_fm_lab.evaluate.scores import Row, mean_rows, score
from dmri_fm_lab.markdown_tables import Column, markdown
from dmri_fm_lab.scans import Scan, list_participants

Method = Callable[[Dwi], TensorMaps]

#: Networks whose weights ship with the package.
PACKAGED = tuple(name for name in TENSOR_NETWORKS if identity(name).is_packaged)

#: Participants of held-out scanners, which are looked at once, at the end: by name alone.
HELD_OUT = ("prismad13", "ds114")

#: Columns of the published tables; diffusivities in 1e-3 mm^2/s, the angle in all tissue but CSF.
COLUMNS = {
    "tensor": Column("tensor", ".3f", 1e3),
    "fa": Column("FA", ".4f"),
    "md": Column("MD", ".4f", 1e3),
    "ad": Column("AD", ".4f", 1e3),
    "rd": Column("RD", ".4f", 1e3),
    "v1_deg": Column("V1, degrees", ".2f"),
}


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`read_methods` reads."""
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="NAME=FILE",
        help="weights in place of the packaged ones, or of a network that ships without",
    )
    parser.add_argument(
        "--runs",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="folders of `dmri-fm train`, a row each, such as those of DeepDTI and FlexDTI",
    )


def read_methods(options: argparse.Namespace, baselines: Sequence[str]) -> dict[str, Method]:
    """Return baselines, the networks of the package, and those of runs, by the row's title."""
    methods: dict[str, Method] = {BASELINES[n].title: BASELINES[n].apply for n in baselines}
    networks = _read_networks(options)
    for name in networks.models:
        weights = networks.weights.get(name)
        methods[name] = partial(predict_tensor, model=name, weights=weights)
    for folder in options.runs:
        methods[f"{folder.name} (run)"] = partial(estimate_tensors, load_tensor_run(folder))
    return methods


def _read_networks(options: argparse.Namespace) -> Request:
    """Return the request for the networks that ship, and those of `options.weights`."""
    files = parse_weights(list(options.weights))
    return Request(models=tuple(dict.fromkeys((*PACKAGED, *files))), weights=files)


def find_series(options: argparse.Namespace) -> Iterator[tuple[Scan, str]]:
    """Yield the series of `options.bids`, each with a title.

    The title says which networks were trained on the brain. Participants of :data:`HELD_OUT` are
    left out, and named, unless `options.participant_label` asks for them.
    """
    request = _read_networks(options)
    labels = options.participant_label
    if labels is None:
        known = list_participants(options.bids)
        labels = [label for label in known if label not in HELD_OUT]
        for label in (label for label in known if label in HELD_OUT):
            print(f"sub-{label} is left out: held out, read where --participant-label names it")
    if options.runs:
        print("Brains that the networks of --runs were trained on are not marked.")
    networks = describe_networks(request.models, request.weights)
    for scan, _, trained_on in find_judged_scans([options.bids], labels, request, networks):
        title = f"sub-{scan.participant}, {scan.scanner}, {scan.name}"
        yield scan, ", ".join([title, *say_trained(trained_on)])


def score_methods(
    methods: Mapping[str, Method],
    scans: Sequence[tuple[Dwi, Reference]],
    region: str = "tissue",
) -> dict[str, Row]:
    """Return errors in a region, averaged over scans, by method."""
    return {
        name: mean_rows([score(method(scan), reference)[region] for scan, reference in scans])
        for name, method in methods.items()
    }


def error_table(theirs: Errors, ours: Mapping[str, Row], source: str = "simulation") -> str:
    """Return a table of published errors, if any, and of ours."""
    lines = [["source", "method", *(column.title for column in COLUMNS.values())]]
    for name, numbers in theirs.items():
        lines.append(["published", name, *("-" if n is None else f"{n:g}" for n in numbers)])
    for name, row in ours.items():
        cells = (column.cell(row.get(key)) for key, column in COLUMNS.items())
        lines.append([source, name, *cells])
    return markdown(lines)
