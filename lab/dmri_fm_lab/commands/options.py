"""Options that several commands share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmri_fm import __version__
from dmri_fm.errors import ConfigError
from dmri_fm.gradient_options import B_SCALINGS

if TYPE_CHECKING:
    from dmri_fm.encoders.drope.mae import MaskedAutoencoder
    from dmri_fm.series import Dwi
    from dmri_fm_lab.grid_scans import ScanSources

Subparsers = Any


def print_left_out(counts: Mapping[str, int]) -> None:
    """Print how many scans and participants are left out for each reason."""
    for reason, number in counts.items():
        print(f"left out: {number} ({reason})")


def add_series(parser: argparse.ArgumentParser) -> None:
    """Add a diffusion series with its gradient files, and the stem of the outputs' names."""
    parser.add_argument("dwi", type=Path, metavar="DWI", help="series, a 4-D NIfTI image")
    parser.add_argument(
        "stem", type=Path, metavar="STEM", help="folder and stem of the outputs' names"
    )
    parser.add_argument(
        "--bval", type=Path, metavar="FILE", help="b-values; default: beside the image"
    )
    parser.add_argument(
        "--bvec", type=Path, metavar="FILE", help="b-vectors; default: beside the image"
    )
    parser.add_argument("--mask", type=Path, metavar="FILE", help="brain mask on the same grid")
    parser.add_argument(
        "--b-scaling",
        choices=B_SCALINGS,
        default="auto",
        help="b-vectors whose length is not 1: `length` multiplies b by the squared length, "
        "`none` does not, `auto` (default) does where lengths vary within a shell, and refuses "
        "a common length",
    )
    parser.add_argument(
        "--b0-threshold",
        type=float,
        metavar="B",
        help="volumes with a b-value below this count as b=0, s/mm^2; default: automatic",
    )


def read_series(options: argparse.Namespace) -> Dwi:
    """Read the series that :func:`add_series` names."""
    from dmri_fm.series import Dwi

    name = options.dwi.name.removesuffix(".gz").removesuffix(".nii")
    return Dwi.from_files(
        options.dwi,
        options.bval or options.dwi.with_name(f"{name}.bval"),
        options.bvec or options.dwi.with_name(f"{name}.bvec"),
        options.mask,
        b_scaling=options.b_scaling,
        b0_threshold=options.b0_threshold,
    )


def print_paths(paths: dict[str, Path]) -> None:
    """Print the files that were written, one a line."""
    for path in paths.values():
        print(path)


def add_training(subparsers: Subparsers, name: str, summary: str) -> argparse.ArgumentParser:
    """Return the parser of a command that trains a network."""
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=summary)
    parser.add_argument(
        "config", metavar="CONFIG", help="shipped settings, by name, or a TOML file"
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="for log and checkpoint; a run is continued"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="network to train, in place of the settings' model"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="safetensors file to write afterwards"
    )
    parser.add_argument("--weights-version", default=__version__, metavar="V")
    parser.add_argument("--accelerator", choices=("auto", "cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--devices", type=int, default=1, metavar="N", help="processors or GPUs; default 1"
    )
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after so many minutes")
    parser.add_argument("--steps", type=int, metavar="N", help="in place of the settings' number")
    parser.add_argument("--seed", type=int, metavar="S", help="in place of the settings' seed")
    parser.add_argument(
        "--scans",
        type=Path,
        metavar="BIDS",
        help="dataset to train on beside the simulation: raw, or the app's output",
    )
    parser.add_argument(
        "--participant-label", nargs="+", metavar="LABEL", help="of --scans; default: all"
    )
    return parser


@dataclass(frozen=True)
class TrainingOptions:
    """Options of :func:`add_training` as the training functions take them.

    Attributes
    ----------
    settings
        Keyword arguments of :func:`~dmri_fm_lab.train.config.read_training`.
    run
        Keyword arguments of a training function: hardware, weights, version.
    """

    settings: dict[str, Any]
    run: dict[str, Any]


def read_training_options(options: argparse.Namespace) -> TrainingOptions:
    """Read what :func:`add_training` added.

    Raises
    ------
    ConfigError
        If participants are named without a dataset.
    """
    from dmri_fm_lab.train.loop import Hardware

    if options.participant_label and not options.scans:
        raise ConfigError(
            "participants without a dataset", expected="--scans BIDS with --participant-label"
        )
    changes = {"max_minutes": options.minutes, "n_steps": options.steps, "seed": options.seed}
    return TrainingOptions(
        settings={
            "model": options.model,
            "optimisation": {k: v for k, v in changes.items() if v is not None},
        },
        run={
            "hardware": Hardware(options.accelerator, options.devices),
            "weights": options.weights,
            "version": options.weights_version,
        },
    )


def add_sources(parser: argparse.ArgumentParser, *, simulated: str = "", other: str = "") -> None:
    """Add the sources of an evaluation's scans.

    Parameters
    ----------
    parser
        Parser of the command.
    simulated, other
        Help of `--simulated` and `--other-generator`; the option is left out where it is empty.
    """
    parser.add_argument(
        "bids", type=Path, nargs="?", metavar="BIDS", help="a raw dataset, or the app's output"
    )
    parser.add_argument("--participant-label", nargs="+", metavar="LABEL", help="default: all")
    for flag, words in (("--simulated", simulated), ("--other-generator", other)):
        if words:
            parser.add_argument(flag, type=int, default=0, metavar="N", help=words)
    parser.add_argument(
        "--allow-seen",
        action="store_true",
        help="evaluate participants that the network was trained on, too, marked as seen",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.add_argument("--model", default="drope", help="the encoder; default drope")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Add the weights of an encoder, or the pretraining run that they come from, and a device."""
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights", type=Path, metavar="PATH", help="weights to use; default: the packaged ones"
    )
    weights.add_argument(
        "--pretraining", type=Path, metavar="RUN", help="pretraining run whose encoder is used"
    )
    parser.add_argument("--device", default="cpu", help="device of the network; default cpu")


def read_sources(options: argparse.Namespace) -> ScanSources:
    """Read what :func:`add_sources` added.

    Raises
    ------
    ConfigError
        If the network was trained on participants of the dataset, unless `--allow-seen`.
    """
    from dmri_fm_lab.grid_scans import ScanSources

    return ScanSources(
        bids=options.bids,
        participant_labels=options.participant_label,
        n_simulated=getattr(options, "simulated", 0),
        n_other=getattr(options, "other_generator", 0),
        seed=options.seed,
        seen=_find_seen(options),
    )


def _find_seen(options: argparse.Namespace) -> frozenset[str]:
    """Return the participants of the dataset that the network was trained on."""
    from dmri_fm_lab.train.seen import find_seen_of_dataset

    if options.bids is None:
        return frozenset()
    run = getattr(options, "pretraining", None)
    source = run or getattr(options, "source", None) or getattr(options, "weights", None)
    seen, unknown = find_seen_of_dataset(
        options.bids,
        source or options.model,
        model=options.model,
        participant_labels=options.participant_label,
    )
    if unknown:
        logging.getLogger(__name__).warning("%s: %s", source or options.model, unknown)
    if seen and not options.allow_seen:
        raise ConfigError(
            f"the network was trained on {', '.join(f'sub-{label}' for label in sorted(seen))}",
            path=options.bids,
            expected="participants that it has not seen",
            advice="choose others by --participant-label, or mark these by --allow-seen",
        )
    return seen


def add_autoencoder(parser: argparse.ArgumentParser) -> None:
    """Add the pretrained autoencoder of an evaluation, the scans' sources, and the device."""
    parser.add_argument(
        "source",
        metavar="RUN",
        help="folder of `dmri-fm pretrain`, a .safetensors file, or drope: the shipped weights",
    )
    add_sources(
        parser,
        simulated="held-out scans of the training generator",
        other="scans of the other generator (trxscan)",
    )
    parser.add_argument("--device", default="cpu", help="device of the network; default cpu")


def load_autoencoder(options: argparse.Namespace) -> MaskedAutoencoder:
    """Load the autoencoder that :func:`add_autoencoder` names; evaluations log their progress."""
    from dmri_fm_lab.train import runs

    logging.getLogger("dmri_fm_lab.evaluate").setLevel(logging.INFO)
    return runs.load_autoencoder(options.source, model=options.model).to(options.device)


def write_autoencoder_record(options: argparse.Namespace, record: Mapping[str, Any]) -> None:
    """Write what an evaluation of an autoencoder found to `--json`, and print the path."""
    from dmri_fm_lab.evaluate.records import write_json

    if options.json:
        print(write_json({"run": options.source, "model": options.model, **record}, options.json))
