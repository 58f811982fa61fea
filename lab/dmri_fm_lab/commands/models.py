"""`dmri-fm models`: the networks of the registry."""

from __future__ import annotations

import argparse

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm models`."""
    parser = subparsers.add_parser("models", help="list the networks and their parameters")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print name, number of parameters and title of each network."""
    from dmri_fm.identity import identity
    from dmri_fm.registry import MODELS

    for name, model in MODELS.items():
        n_parameters = sum(p.numel() for p in model.network(model.config).parameters())
        print(f"{name:28s} {n_parameters / 1e6:6.2f}M parameters  {identity(name).title}")
