"""Command line of the project beside the app: `dmri-fm COMMAND`.

Exit codes: 0 done; 1 the request could not be carried out, the reason is on stderr, or outputs
that were compared are not equal; 2 the command line is wrong, or packages that the command needs
are not installed.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from dmri_fm import __version__
from dmri_fm.errors import DmriError, MissingToolError
from dmri_fm.extras import require_extra
from dmri_fm_lab.commands import (
    compare,
    compare_encoders,
    convert,
    diff,
    evaluate_cohorts,
    evaluate_out_of_distribution,
    evaluate_protocols,
    evaluate_reconstruction,
    evaluate_rotation,
    evaluate_slabs,
    evaluate_tensor,
    evaluate_transfer,
    explain,
    export,
    features,
    finetune,
    models,
    pretrain,
    probe,
    simulate,
    simulate_cohort,
    splits,
    stats,
    study,
    tensor,
    train,
    verify,
)
from dmri_fm_workflows.cwd import empty_folder

#: Commands, in the order in which they are listed.
COMMANDS = (
    simulate,
    simulate_cohort,
    train,
    pretrain,
    tensor,
    features,
    models,
    convert,
    stats,
    splits,
    probe,
    finetune,
    compare,
    compare_encoders,
    explain,
    export,
    study,
    verify,
    diff,
)

#: Commands that need the core alone, and the app; the others need the extra `lab`.
CORE_COMMANDS = ("tensor", "features", "models", "convert")
APP_COMMANDS = ("verify", "diff")

#: Options that take the name of something that ships with the package, or else a path.
_NAME_OR_PATH = ("config", "start", "source")

#: What `dmri-fm evaluate` scores.
EVALUATIONS = (
    evaluate_tensor,
    evaluate_transfer,
    evaluate_reconstruction,
    evaluate_rotation,
    evaluate_slabs,
    evaluate_protocols,
    evaluate_cohorts,
    evaluate_out_of_distribution,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dmri-fm`, all commands included."""
    parser = argparse.ArgumentParser(
        prog="dmri-fm", description="Diffusion MRI: simulation, networks, tensors, features."
    )
    parser.add_argument("--version", action="version", version=f"dmri-fm {__version__}")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    evaluate = subparsers.add_parser("evaluate", help="score estimates against references")
    evaluations = evaluate.add_subparsers(required=True, metavar="WHAT")
    for command in EVALUATIONS:
        command.add_parser(evaluations)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = build_parser().parse_args(argv)
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    try:
        if options.command not in CORE_COMMANDS:
            require_extra("app" if options.command in APP_COMMANDS else "lab")
        with empty_folder() as folder:
            _make_absolute(options, folder)
            logging.basicConfig(
                level=levels[min(options.verbose, 2)], format="%(asctime)s %(name)s: %(message)s"
            )
            # Commands that compare return 1 where they find a difference, the others nothing.
            code: int | None = options.run(options)
    except MissingToolError as error:
        print(f"dmri-fm: error: {error}", file=sys.stderr)
        return 2
    except DmriError as error:
        print(f"dmri-fm: error: {error}", file=sys.stderr)
        return 1
    return code or 0


def _make_absolute(options: argparse.Namespace, folder: Path) -> None:
    """Let paths start from a folder."""
    for name, value in vars(options).items():
        if isinstance(value, Path):
            setattr(options, name, folder / value.expanduser())
        elif isinstance(value, list) and all(isinstance(v, Path) for v in value):
            setattr(options, name, [folder / v.expanduser() for v in value])
        elif name in _NAME_OR_PATH and value is not None and not _is_shipped(value):
            setattr(options, name, str(folder / Path(value).expanduser()))


def _is_shipped(name: str) -> bool:
    """Return whether settings or weights ship under a name."""
    shipped = (
        files("dmri_fm_lab") / "configs" / f"{name}.toml",
        files("dmri_fm") / "data" / "weights" / f"{name}.safetensors",
    )
    return any(path.is_file() for path in shipped)


if __name__ == "__main__":
    raise SystemExit(main())
