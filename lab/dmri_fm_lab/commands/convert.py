"""`dmri-fm convert`: a checkpoint of the D-RoPE authors' code as weights of this package."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers

__all__ = ["add_parser"]


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm convert`."""
    parser = subparsers.add_parser(
        "convert", help="convert a checkpoint of the D-RoPE authors' code to weights for --weights"
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="PyTorch file of the authors' code"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="safetensors file to write")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Convert a checkpoint."""
    from dmri_fm.encoders.drope.authors_checkpoint import convert_authors_checkpoint

    print(convert_authors_checkpoint(options.checkpoint, options.out))
