"""Command line of the library: `dmri-fm SUBCOMMAND`, or `python -m dmri_fm SUBCOMMAND`.

A thin parser over public functions. Each subcommand is a pair of functions here: one adds its
parser, the other reads the options, calls one function of the library and prints what it made.
Libraries that take seconds to import are imported by the subcommand that needs them.

Exit codes: 0 done; 1 the request could not be carried out, the reason is on stderr; 2 the
command line is wrong.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmri_fm import __version__
from dmri_fm.errors import ConfigError, DmriError
from dmri_fm.gradient_options import B_SCALINGS
from dmri_fm_workflows.cwd import empty_folder

if TYPE_CHECKING:
    from dmri_fm.series import Dwi

Subparsers = Any


def _add_simulate(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "simulate", help="make a raw BIDS dataset of simulated scans, with its truth"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to create")
    parser.add_argument("--participants", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument(
        "--sites",
        type=int,
        default=1,
        metavar="M",
        help="scanners with protocols of their own: reverse-phase b=0 at the first, a fieldmap at "
        "the second, neither at the third, and so on; default 1",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.add_argument(
        "--voxel-size", type=float, default=3.0, metavar="MM", help="of the dwi; default 3"
    )
    parser.add_argument(
        "--directions", type=int, default=16, metavar="N", help="weighted volumes; default 16"
    )
    parser.add_argument(
        "--bval", type=float, default=1000.0, metavar="B", help="s/mm^2; default 1000"
    )
    parser.add_argument(
        "--b-table",
        type=Path,
        nargs=2,
        metavar=("BVAL", "BVEC"),
        help="FSL gradient files of a RAS image, in place of --directions and --bval",
    )
    parser.set_defaults(run=_run_simulate)


def _run_simulate(options: argparse.Namespace) -> None:
    from dmri_fm_lab.simulate import read_protocol, simulate_dataset

    # A participant takes half a minute: say which one it is.
    logging.getLogger("dmri_fm_lab.simulate").setLevel(logging.INFO)
    print(
        simulate_dataset(
            options.out,
            n_participants=options.participants,
            n_sites=options.sites,
            seed=options.seed,
            gtab=read_protocol(*options.b_table) if options.b_table else None,
            voxel_size_mm=options.voxel_size,
            n_directions=options.directions,
            bval=options.bval,
        )
    )


def _add_training(
    subparsers: Subparsers, name: str, summary: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser(name, help=summary)
    parser.add_argument(
        "config", metavar="CONFIG", help="a model with shipped settings, or a TOML file"
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="for log and checkpoint; a run is continued"
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
    parser.set_defaults(run=run)
    return parser


def _changes(options: argparse.Namespace) -> dict[str, Any]:
    changes = {
        "max_minutes": options.minutes,
        "n_steps": options.steps,
        "seed": options.seed,
    }
    return {name: value for name, value in changes.items() if value is not None}


def _check_scans(options: argparse.Namespace) -> None:
    if options.participant_label and not options.scans:
        raise ConfigError(
            "participants without a dataset", expected="--scans BIDS with --participant-label"
        )


def _add_train(subparsers: Subparsers) -> None:
    _add_training(
        subparsers,
        "train",
        "train a tensor network (tensor-refiner, qcg-dti-paper)",
        _run_train,
    )


def _run_train(options: argparse.Namespace) -> None:
    from dmri_fm_lab.train.config import TensorTraining, read_training
    from dmri_fm_lab.train.scan_patches import read_training_scans
    from dmri_fm_lab.train.tensor_training import train_tensor_network

    _check_scans(options)
    scans = (
        read_training_scans(options.scans, participant_labels=options.participant_label)
        if options.scans
        else []
    )
    train_tensor_network(
        read_training(TensorTraining, options.config, optimisation=_changes(options)),
        options.folder,
        scans=scans,
        accelerator=options.accelerator,
        devices=options.devices,
        weights=options.weights,
        version=options.weights_version,
    )
    print(options.weights or options.folder)


def _add_pretrain(subparsers: Subparsers) -> None:
    parser = _add_training(subparsers, "pretrain", "pretrain the D-RoPE encoder", _run_pretrain)
    parser.add_argument(
        "--start",
        type=Path,
        metavar="RUN",
        help="train further: folder of a run, a .safetensors file, or drope: the shipped weights",
    )


def _run_pretrain(options: argparse.Namespace) -> None:
    from dmri_fm.registry import find_model
    from dmri_fm_lab.train.config import DropePretraining, read_training
    from dmri_fm_lab.train.drope import check_part, pretrain_drope
    from dmri_fm_lab.train.runs import load_start
    from dmri_fm_lab.train.scan_cache import cache_scans

    _check_scans(options)
    config = read_training(DropePretraining, options.config, optimisation=_changes(options))
    check_part(config, has_start=options.start is not None)
    start, origin = (
        load_start(options.start, model=config.model) if options.start else (None, None)
    )
    scans = (
        cache_scans(
            options.scans,
            options.folder / "scans",
            find_model(config.model, family="encoder").config,
            participant_labels=options.participant_label,
        )
        if options.scans
        else []
    )
    pretrain_drope(
        config,
        options.folder,
        scans=scans,
        start=start,
        origin=origin,
        accelerator=options.accelerator,
        devices=options.devices,
        weights=options.weights,
        version=options.weights_version,
    )
    print(options.weights or options.folder)


def _add_series(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dwi", type=Path, metavar="DWI", help="4-D NIfTI image")
    parser.add_argument("stem", type=Path, metavar="STEM", help="folder and start of the names")
    parser.add_argument("--bval", type=Path, metavar="FILE", help="default: beside the image")
    parser.add_argument("--bvec", type=Path, metavar="FILE", help="default: beside the image")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="brain, on the same grid")
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


def _read_series(options: argparse.Namespace) -> Dwi:
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


def _print_paths(paths: dict[str, Path]) -> None:
    for path in paths.values():
        print(path)


def _add_tensor(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("tensor", help="estimate tensor maps of a corrected series")
    _add_series(parser)
    parser.add_argument(
        "--model", default="tensor", help="tensor (least squares, the default) or a network"
    )
    parser.add_argument("--shell", default="auto", help="auto, all, or a b-value; of the fit")
    parser.add_argument("--weights", type=Path, metavar="PATH", help="of the network")
    parser.add_argument("--device", default="cpu", help="of the network; default cpu")
    parser.set_defaults(run=_run_tensor)


def _run_tensor(options: argparse.Namespace) -> None:
    dwi = _read_series(options)
    if options.model == "tensor":
        from dmri_fm.tensor import fit_tensor

        maps = fit_tensor(dwi, shell=_parse_shell(options.shell))
    else:
        from dmri_fm import predict_tensor

        maps = predict_tensor(
            dwi, model=options.model, weights=options.weights, device=options.device
        )
    _print_paths(maps.save(options.stem))


def _parse_shell(text: str) -> Any:
    if text in ("auto", "all"):
        return text
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"shell {text!r}", expected="'auto', 'all' or a b-value in s/mm^2"
        ) from None


def _add_features(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "features", help="compute latent features of a series in MNI152NLin2009aSym"
    )
    _add_series(parser)
    parser.add_argument(
        "--resample", action="store_true", help="to the encoder's grid; without, it must be on it"
    )
    parser.add_argument("--model", default="drope", help="default drope")
    parser.add_argument("--weights", type=Path, metavar="PATH", help="in place of the shipped")
    parser.add_argument("--device", default="cpu", help="default cpu")
    parser.add_argument("--directions", type=int, default=12, metavar="N", help="default 12")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.set_defaults(run=_run_features)


def _run_features(options: argparse.Namespace) -> None:
    from dmri_fm import extract_features, feature_grid, resample_series

    dwi = _read_series(options)
    features = extract_features(
        resample_series(dwi, feature_grid(options.model)) if options.resample else dwi,
        model=options.model,
        weights=options.weights,
        device=options.device,
        n_directions=options.directions,
        seed=options.seed,
    )
    _print_paths(features.save(options.stem))


def _add_models(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("models", help="list the networks and their parameters")
    parser.set_defaults(run=_run_models)


def _run_models(options: argparse.Namespace) -> None:
    from dmri_fm.identity import identity
    from dmri_fm.registry import MODELS

    for name, model in MODELS.items():
        n_parameters = sum(p.numel() for p in model.network(model.config).parameters())
        print(f"{name:28s} {n_parameters / 1e6:6.2f}M parameters  {identity(name).title}")


def _add_evaluate(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("evaluate", help="score estimates against references")
    kinds = parser.add_subparsers(required=True, metavar="WHAT")
    _add_evaluate_tensor(kinds)
    _add_evaluate_reconstruction(kinds)
    _add_evaluate_protocols(kinds)
    _add_evaluate_unusual(kinds)


def _add_evaluate_tensor(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "tensor", help="tensors from one b=0 and six directions, by a network and plain methods"
    )
    parser.add_argument(
        "bids", type=Path, metavar="BIDS", help="a raw dataset, or the app's output folder"
    )
    parser.add_argument("--subsets", type=int, default=6, metavar="N", help="per shell; default 6")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.add_argument("--participant-label", nargs="+", metavar="LABEL", help="default: all")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="default: all")
    parser.add_argument(
        "--model", default="tensor-refiner", help="the network; default tensor-refiner"
    )
    parser.add_argument("--weights", type=Path, metavar="PATH", help="in place of the shipped")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.add_argument(
        "--replicates", type=int, default=40, metavar="N", help="of the bootstrap; default 40"
    )
    parser.set_defaults(run=_run_evaluate_tensor)


def _run_evaluate_tensor(options: argparse.Namespace) -> None:
    from dmri_fm_lab.evaluate.comparison import METHOD_TITLES, Request, compare_dataset
    from dmri_fm_lab.evaluate.tables import format_series, write_json

    # A series takes minutes: say which one it is.
    logging.getLogger("dmri_fm_lab.evaluate").setLevel(logging.INFO)
    found = compare_dataset(
        options.bids,
        Request(
            methods=tuple(options.methods or METHOD_TITLES),
            n_subsets=options.subsets,
            model=options.model,
            weights=options.weights,
            seed=options.seed,
            n_replicates=options.replicates,
        ),
        participant_labels=options.participant_label,
        report=lambda record: print(format_series(record), end="\n\n", flush=True),
    )
    if options.json:
        print(write_json(found, options.json))


def _add_evaluate_reconstruction(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "reconstruction",
        help="hidden directions and places, by a pretrained autoencoder and plain methods",
    )
    parser.add_argument(
        "pretraining",
        type=Path,
        metavar="RUN",
        help="folder of `dmri-fm pretrain`, a .safetensors file, or drope: the shipped weights",
    )
    parser.add_argument(
        "bids", type=Path, nargs="?", metavar="BIDS", help="a raw dataset, or the app's output"
    )
    parser.add_argument(
        "--simulated", type=int, default=0, metavar="N", help="held-out scans of the training data"
    )
    parser.add_argument(
        "--heads", type=int, default=0, metavar="N", help="scans of the other generator (trxscan)"
    )
    parser.add_argument(
        "--directions", type=int, nargs="+", default=[12, 30], metavar="T", help="default 12 30"
    )
    parser.add_argument("--masks", type=int, default=2, metavar="N", help="per kind; default 2")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.add_argument("--participant-label", nargs="+", metavar="LABEL", help="default: all")
    parser.add_argument("--model", default="drope", help="the encoder; default drope")
    parser.add_argument("--device", default="cpu", help="of the network; default cpu")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.set_defaults(run=_run_evaluate_reconstruction)


def _run_evaluate_reconstruction(options: argparse.Namespace) -> None:
    from itertools import chain

    from dmri_fm_lab.evaluate.grid_scans import dataset_scans, head_scans, simulated_scans
    from dmri_fm_lab.evaluate.reconstruction import ReconstructionRequest, score_scans
    from dmri_fm_lab.evaluate.reconstruction_tables import format_scan
    from dmri_fm_lab.evaluate.tables import write_json
    from dmri_fm_lab.train.runs import load_autoencoder

    logging.getLogger("dmri_fm_lab.evaluate").setLevel(logging.INFO)
    request = ReconstructionRequest(tuple(options.directions), options.masks, options.seed)
    network = load_autoencoder(options.pretraining, model=options.model).to(options.device)
    grid, most = network.config.encoder.grid, max(options.directions)
    scans = chain(
        simulated_scans(grid, options.simulated, n_directions=most, seed=options.seed),
        head_scans(grid, options.heads, n_directions=most, seed=options.seed),
        dataset_scans(options.bids, grid, participant_labels=options.participant_label)
        if options.bids
        else (),
    )
    found = score_scans(
        network,
        scans,
        request,
        report=lambda record: print(format_scan(record), end="\n\n", flush=True),
    )
    if options.json:
        source = {"run": str(options.pretraining), "model": options.model}
        print(write_json({**source, **found}, options.json))


def _add_evaluate_protocols(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "protocols", help="do an encoder's features tell heads apart, whatever the protocol?"
    )
    parser.add_argument(
        "bids",
        type=Path,
        nargs="?",
        metavar="BIDS",
        help="scans to cut into two sets of directions",
    )
    parser.add_argument(
        "--simulated", type=int, default=0, metavar="N", help="held-out simulated scans likewise"
    )
    parser.add_argument(
        "--gallery",
        type=int,
        default=200,
        metavar="N",
        help="heads that differ in microstructure only; 0: none; default 200",
    )
    parser.add_argument(
        "--directions",
        type=int,
        default=12,
        metavar="T",
        help="of the gallery's protocols, and of each set (half of a scan's at most); default 12",
    )
    parser.add_argument("--snr", type=float, default=25.0, help="of the gallery; default 25")
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.add_argument("--participant-label", nargs="+", metavar="LABEL", help="default: all")
    parser.add_argument("--model", default="drope", help="the encoder; default drope")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--weights", type=Path, metavar="PATH", help="in place of the shipped")
    weights.add_argument("--pretraining", type=Path, metavar="RUN", help="a run's encoder")
    parser.add_argument("--device", default="cpu", help="of the network; default cpu")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.set_defaults(run=_run_evaluate_protocols)


def _run_evaluate_protocols(options: argparse.Namespace) -> None:
    from itertools import chain

    from dmri_fm_lab.evaluate.galleries import head_geometry
    from dmri_fm_lab.evaluate.grid_scans import dataset_scans, simulated_scans
    from dmri_fm_lab.evaluate.protocols import (
        ProtocolRequest,
        compare_directions,
        evaluate_gallery,
        format_agreement,
        format_gallery,
    )
    from dmri_fm_lab.evaluate.tables import write_json
    from dmri_fm_lab.train.runs import load_encoder

    logging.getLogger("dmri_fm_lab.evaluate").setLevel(logging.INFO)
    if not (options.bids or options.simulated or options.gallery):
        raise ConfigError("nothing to evaluate", expected="BIDS, --simulated or --gallery")
    request = (
        ProtocolRequest(options.gallery, options.directions, options.snr, options.seed)
        if options.gallery
        else None
    )
    encoder, source = load_encoder(
        options.model, weights=options.weights, folder=options.pretraining
    )
    encoder, grid = encoder.to(options.device), encoder.config.grid
    found: dict[str, Any] = {"encoder": source}
    if options.bids or options.simulated:
        scans = chain(
            simulated_scans(grid, options.simulated, seed=options.seed),
            dataset_scans(options.bids, grid, participant_labels=options.participant_label)
            if options.bids
            else (),
        )
        found["directions"] = compare_directions(
            encoder, scans, n_directions=options.directions, seed=options.seed
        )
        print(format_agreement(found["directions"]), end="\n\n", flush=True)
    if request:
        geometry = head_geometry(grid, seed=options.seed)
        found["gallery"] = evaluate_gallery(encoder, geometry, request)
        print(format_gallery(found["gallery"]))
    if options.json:
        print(write_json(found, options.json))


def _add_evaluate_unusual(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "unusual", help="does the score of unusual scans tell spoilt scans from sound ones?"
    )
    parser.add_argument(
        "bids", type=Path, nargs="?", metavar="BIDS", help="sound scans of other scanners"
    )
    parser.add_argument(
        "--heads", type=int, default=0, metavar="N", help="scans of the other generator (trxscan)"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="file for all numbers")
    parser.add_argument("--participant-label", nargs="+", metavar="LABEL", help="default: all")
    parser.add_argument("--model", default="drope", help="the encoder; default drope")
    parser.add_argument("--weights", type=Path, metavar="PATH", help="in place of the shipped")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    parser.set_defaults(run=_run_evaluate_unusual)


def _run_evaluate_unusual(options: argparse.Namespace) -> None:
    from itertools import chain

    from dmri_fm.registry import feature_grid, load_weights
    from dmri_fm_lab.evaluate.grid_scans import dataset_scans, head_scans
    from dmri_fm_lab.evaluate.tables import write_json
    from dmri_fm_lab.evaluate.unusual import format_unusual, score_unusual

    grid = feature_grid(options.model)
    loaded = load_weights(options.weights or options.model, model=options.model)
    scans = chain(
        head_scans(grid, options.heads, n_directions=12, seed=options.seed),
        dataset_scans(options.bids, grid, participant_labels=options.participant_label)
        if options.bids
        else (),
    )
    found = score_unusual(loaded, scans, seed=options.seed)
    print(format_unusual(found))
    if options.json:
        print(write_json(found, options.json))


#: In the order in which they are listed.
_SUBCOMMANDS = (
    _add_simulate,
    _add_train,
    _add_pretrain,
    _add_tensor,
    _add_features,
    _add_evaluate,
    _add_models,
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of `dmri-fm`, all subcommands included."""
    parser = argparse.ArgumentParser(
        prog="dmri-fm", description="Diffusion MRI: simulation, networks, tensors, features."
    )
    parser.add_argument("--version", action="version", version=f"dmri-fm {__version__}")
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more")
    subparsers = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    for add in _SUBCOMMANDS:
        add(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = build_parser().parse_args(argv)
    try:
        with empty_folder() as folder:
            _make_absolute(options, folder)
            _run(options)
    except DmriError as error:
        print(f"dmri-fm: error: {error}", file=sys.stderr)
        return 1
    return 0


def _make_absolute(options: argparse.Namespace, folder: Path) -> None:
    """Let paths start from a folder."""
    for name, value in vars(options).items():
        if isinstance(value, Path):
            setattr(options, name, folder / value.expanduser())
        elif isinstance(value, list) and all(isinstance(v, Path) for v in value):
            setattr(options, name, [folder / v.expanduser() for v in value])
    # Settings are those that ship under a name, or a file.
    config = getattr(options, "config", None)
    shipped = Path(__file__).parent / "configs" / f"{config}.toml"
    if config is not None and not shipped.is_file():
        options.config = str(folder / config)


def _run(options: argparse.Namespace) -> None:
    levels = (logging.WARNING, logging.INFO, logging.DEBUG)
    logging.basicConfig(
        level=levels[min(options.verbose, 2)], format="%(asctime)s %(name)s: %(message)s"
    )
    options.run(options)


if __name__ == "__main__":
    raise SystemExit(main())
