"""`dmri-fm models`: the networks of the registry."""

from __future__ import annotations

import argparse

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm models`."""
    parser = subparsers.add_parser("models", help="list the networks: size, cost, licence, paper")
    parser.add_argument(
        "--count",
        action="store_true",
        help="count multiply-adds again (seconds) in place of the recorded numbers",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print a line of each network, in columns that tabs part; cost as of `network_cost`."""
    import torch

    from dmri_fm.identity import identity
    from dmri_fm.json_files import read_object
    from dmri_fm.registry import MODELS
    from dmri_fm.weights import find_weights
    from dmri_fm_lab.network_cost import SCAN_GMACS, scan_gmacs

    about = ("weights", "licence", "paper", "card", "title")
    print("model", "parameters", "GMAC a scan", *about, sep="\t")
    for name, model in MODELS.items():
        record = identity(name)
        with torch.device("meta"):
            n_parameters = sum(p.numel() for p in model.network(model.config).parameters())
        gmacs = float(f"{scan_gmacs(name):.4g}") if options.count else SCAN_GMACS[name]
        weights, licence = f"--weights {name}=FILE", "that of the weights"
        if record.is_packaged:
            weights = "packaged"
            licence = read_object(find_weights(name).with_suffix(".json"))["license"]
        print(
            name,
            f"{n_parameters / 1e6:.2f}M",
            f"{gmacs:g}",
            weights,
            licence,
            record.url or "-",
            record.card,
            record.title,
            sep="\t",
        )
