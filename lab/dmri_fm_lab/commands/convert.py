"""`dmri-fm convert`: a checkpoint of the D-RoPE authors' code as weights of this package."""

from __future__ import annotations

import argparse
from pathlib import Path

from dmri_fm_lab.commands.options import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    """Add the parser of `dmri-fm convert`."""
    parser = subparsers.add_parser(
        "convert", help="convert a checkpoint of the D-RoPE authors' code to weights for --weights"
    )
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="PyTorch file of the authors' code"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="safetensors file to write")
    # Defaults are those of PAPER, whose module imports torch.
    parser.add_argument(
        "--heads",
        type=int,
        default=3,
        metavar="N",
        help="attention heads, which the checkpoint does not tell; default 3",
    )
    parser.add_argument(
        "--patch",
        type=int,
        nargs=3,
        default=(8, 8, 4),
        metavar=("I", "J", "K"),
        help="voxels of a patch along each axis; default 8 8 4",
    )
    parser.add_argument(
        "--pos-scale",
        type=float,
        default=1.0,
        metavar="S",
        help="factor on patch positions: 1/300 in the authors' pretraining, 1 (default) in their "
        "feature extraction",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Convert a checkpoint."""
    from dmri_fm.encoders.drope.authors_checkpoint import convert_authors_checkpoint

    path = convert_authors_checkpoint(
        options.checkpoint,
        options.out,
        num_heads=options.heads,
        patch_size=tuple(options.patch),
        pos_scale=options.pos_scale,
    )
    print(path)
