"""`dmri-fm tensor`: tensor maps of a corrected series."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm_lab.commands.options import Subparsers, add_series, print_paths, read_series


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm tensor`."""
    parser = subparsers.add_parser("tensor", help="estimate tensor maps of a corrected series")
    add_series(parser)
    parser.add_argument(
        "--model", default="tensor", help="tensor (least squares, the default) or a network"
    )
    parser.add_argument(
        "--shell", default="auto", help="shell of the least-squares fit: auto, all, or a b-value"
    )
    parser.add_argument("--weights", type=Path, metavar="PATH", help="weights of the network")
    parser.add_argument("--device", default="cpu", help="device of the network; default cpu")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Fit or predict a tensor, and save its maps."""
    dwi = read_series(options)
    if options.model == "tensor":
        from dmri_fm.tensor import fit_tensor

        maps = fit_tensor(dwi, shell=_parse_shell(options.shell))
    else:
        from dmri_fm import predict_tensor

        maps = predict_tensor(
            dwi, model=options.model, weights=options.weights, device=options.device
        )
    print_paths(maps.save(options.stem))


def _parse_shell(text: str) -> Any:
    if text in ("auto", "all"):
        return text
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"shell {text!r}", expected="'auto', 'all' or a b-value in s/mm^2"
        ) from None
