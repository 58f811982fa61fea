"""The command line of the BIDS App: `drope-bidsapp BIDS_DIR OUTPUT_DIR {participant,group}`.

Importing this module is quick: the libraries that do the work are imported after the options
are known to be good and the environment is set up for them.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmri_fm import __version__
from dmri_fm.errors import ConfigError, DmriError, InputError, WeightsError
from dmri_fm.extras import require_extra
from dmri_fm.gradient_options import B_SCALINGS
from dmri_fm.identity import DEFAULT_MODELS, explain_retired
from dmri_fm_workflows.config import (
    ANALYSIS_LEVELS,
    DENOISE,
    DEVICES,
    HMC,
    MODELS,
    NORMALISATIONS,
    OUTPUT_SPACES,
    SDC,
    RunConfig,
    read_options,
)
from dmri_fm_workflows.cwd import absolute, current_folder, empty_folder
from dmri_fm_workflows.links import refuse_links

__all__ = ["build_parser", "main", "parse_args"]

LOGGER = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

_EPILOG = """\
exit codes:
  0    every requested output and report was written
  1    at least one scan failed, or an output could not be written; reports and logs say why
  2    wrong usage or input: nothing was started
  130  interrupted; the same command goes on where this run stopped

Options can also come from a file (--config-file); the command line wins. Every run writes its
options to OUTPUT_DIR/logs/<run>/config.toml, which can be given back to --config-file.
"""

#: Units of --mem, GB; a bare number is in megabytes.
_MEMORY_UNITS = {"T": 1e3, "G": 1.0, "M": 1e-3, "K": 1e-6, "": 1e-3}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options that are not given leave no trace in the namespace."""
    parser = argparse.ArgumentParser(
        prog="drope-bidsapp",
        description="Diffusion MRI from raw BIDS to corrected images, tensor maps, network "
        "features, reports and group tables.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("bids_dir", type=Path, help="raw BIDS dataset (not read by `group`)")
    parser.add_argument("output_dir", type=Path, help="derivatives dataset to write")
    parser.add_argument(
        "analysis_level",
        choices=ANALYSIS_LEVELS,
        help="`participant` processes scans; `group` collects tables from OUTPUT_DIR",
    )
    parser.add_argument("--version", action="version", version=f"drope-bidsapp {__version__}")
    parser.add_argument(
        "-v",
        "--verbose",
        action="count",
        help="say more: -v what each step logs, -vv everything",
    )
    _add_selection(parser.add_argument_group("what to process"))
    _add_resources(parser.add_argument_group("resources and execution"))
    _add_outputs(parser.add_argument_group("outputs"))
    _add_preprocessing(parser.add_argument_group("preprocessing and normalisation"))
    _add_networks(parser.add_argument_group("networks"))
    return parser


def _add_selection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--participant-label",
        nargs="+",
        type=_bare("sub-"),
        metavar="LABEL",
        help="participants, with or without `sub-` (default: all)",
    )
    group.add_argument(
        "--session-label",
        "--session-id",
        dest="session_label",
        nargs="+",
        type=_bare("ses-"),
        metavar="LABEL",
        help="sessions, with or without `ses-` (default: all)",
    )
    group.add_argument(
        "--bids-filter-file",
        type=Path,
        metavar="FILE",
        help='JSON of entities by kind of image, such as {"dwi": {"acquisition": "b1000"}}',
    )
    group.add_argument(
        "--bids-database-dir",
        type=Path,
        metavar="DIR",
        help="pybids index to take the images from; made there if there is none "
        "(default: folders are listed)",
    )
    group.add_argument(
        "--skip-bids-validation",
        action="store_true",
        help="do not check the dataset with bids-validator-deno, which happens where that "
        "program is installed and all participants are asked for",
    )


def _add_resources(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-w",
        "--work-dir",
        type=Path,
        metavar="DIR",
        help="working files (default: OUTPUT_DIR/work), removed after success",
    )
    group.add_argument("--keep-work", action="store_true", help="keep the working files")
    group.add_argument(
        "--nprocs", type=int, metavar="N", help="processors to use (default: all that are allowed)"
    )
    group.add_argument(
        "--omp-nthreads",
        type=int,
        metavar="N",
        help="threads of one step, results do not depend on it (default: --nprocs, at most 8)",
    )
    group.add_argument(
        "--mem",
        dest="mem_gb",
        type=_memory_gb,
        metavar="SIZE",
        help="memory for steps that run together, in MB or with a unit as in 16G "
        "(default: 90%% of what there is)",
    )
    group.add_argument(
        "--use-plugin",
        type=Path,
        metavar="FILE",
        help="YAML with nipype's `plugin` and `plugin_args`",
    )
    group.add_argument(
        "--config-file", type=Path, metavar="FILE", help="TOML with options, see below"
    )
    group.add_argument(
        "--dry-run", action="store_true", help="show what would be done; write nothing"
    )
    group.add_argument(
        "--stop-on-first-crash",
        action="store_true",
        help="stop at the first error (default: other scans go on)",
    )
    group.add_argument(
        "--sloppy",
        action="store_true",
        help="coarse and quick, for trying out only: results are not for use",
    )
    group.add_argument(
        "--notrack", action="store_true", help="accepted for compatibility: there is no telemetry"
    )


def _add_outputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output-resolution",
        type=float,
        metavar="MM",
        help="voxel size in ACPC space (default: the smallest edge of the input's voxels)",
    )
    group.add_argument(
        "--output-spaces",
        nargs="+",
        choices=OUTPUT_SPACES,
        help="spaces of images and maps (default: both; ACPC is always written)",
    )


def _add_preprocessing(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--b-scaling",
        choices=B_SCALINGS,
        help="b-vectors whose length is not 1: `length` multiplies the b-value by the squared "
        "length, `none` does not (default: auto, by the squared length where lengths vary within "
        "a shell; a length that all share is refused)",
    )
    group.add_argument(
        "--b0-threshold",
        type=float,
        metavar="B",
        help="volumes with a b-value below this, in s/mm^2, count as b=0 (default: 50; or 150, "
        "where none lies below 50 and the lowest, up to 100, are followed by a gap of 200 or "
        "more)",
    )
    group.add_argument(
        "--denoise", choices=DENOISE, help="default: auto, MRtrix3's dwidenoise or else MP-PCA"
    )
    group.add_argument("--unring", action="store_true", help="remove Gibbs ringing")
    group.add_argument(
        "--sdc",
        choices=SDC,
        help="susceptibility distortion (default: auto, with reverse-phase images topup or else "
        "the built-in pepolar)",
    )
    group.add_argument(
        "--hmc",
        choices=HMC,
        help="head motion and eddy currents (default: auto, FSL's eddy or else the built-in)",
    )
    group.add_argument(
        "--normalisation",
        choices=NORMALISATIONS,
        help="registration to the template (default: affine)",
    )


def _add_networks(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--models",
        nargs="+",
        type=_model_name,
        choices=(*MODELS, "none"),
        help=f"tensor networks and encoders to run (default: {' '.join(DEFAULT_MODELS)}); those "
        "without packaged weights need --weights",
    )
    group.add_argument(
        "--weights",
        nargs="+",
        action="extend",
        type=_name_and_path,
        metavar="NAME=PATH",
        help="weights file (.safetensors, with its .json) of your own for a model",
    )
    group.add_argument("--device", choices=DEVICES, help="default: auto, CUDA if there is any")
    group.add_argument(
        "--random-seed", type=int, metavar="N", help="start of every random sequence (default: 0)"
    )


def _model_name(text: str) -> str:
    if retired := explain_retired(text):
        raise argparse.ArgumentTypeError(f"{retired.found}: {retired.advice}")
    return text


def _bare(prefix: str) -> Any:
    def label(text: str) -> str:
        return text.removeprefix(prefix)

    return label


def _memory_gb(text: str) -> float:
    number = text.upper().removesuffix("B")
    unit = number[-1:] if number[-1:] in _MEMORY_UNITS else ""
    try:
        return float(number.removesuffix(unit)) * _MEMORY_UNITS[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 16G or 16000") from None


def _name_and_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not path or name not in MODELS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=PATH with NAME one of {', '.join(MODELS)}"
        )
    return name, Path(path)


def parse_args(argv: Sequence[str] | None = None) -> RunConfig:
    """Turn a command line into a request and check the paths in it.

    Parameters
    ----------
    argv
        Arguments after the program's name; those of this process by default.

    Returns
    -------
    RunConfig
        The request, all paths absolute.

    Raises
    ------
    SystemExit
        With code 2, if the command line itself is wrong.
    DmriError
        If a file or folder that it names cannot be used, or options contradict each other.
    """
    return make_config(vars(build_parser().parse_args(argv)), current_folder())


def make_config(given: dict[str, Any], folder: Path) -> RunConfig:
    """Turn parsed options into a request; see :func:`parse_args`.

    Parameters
    ----------
    given
        Options by destination, of :func:`build_parser`; emptied.
    folder
        Folder that relative paths start from.
    """
    values: dict[str, Any] = {}
    for name in ("config_file", "bids_filter_file", "use_plugin"):
        if name in given:
            given[name] = absolute(given[name], folder)
    if path := given.pop("config_file", None):
        values = read_options(_read_text(path), path=path)
        values.pop("run_uuid", None)
    if path := given.pop("bids_filter_file", None):
        from dmri_fm_workflows.bids.filters import read_filter_file

        values["bids_filters"] = read_filter_file(path)
    if path := given.pop("use_plugin", None):
        values["plugin"], values["plugin_args"] = read_plugin(path)
    if pairs := given.pop("weights", None):
        values["weights"] = {**values.get("weights", {}), **dict(pairs)}
    if models := given.pop("models", None):
        if "none" in models and len(models) > 1:
            raise ConfigError(f"--models {' '.join(models)}", expected="`none` alone, or names")
        values["models"] = tuple(dict.fromkeys(m for m in models if m != "none"))
    if spaces := given.pop("output_spaces", None):
        values["output_spaces"] = tuple(s for s in OUTPUT_SPACES if s == "ACPC" or s in spaces)
    for name in ("participant_label", "session_label"):
        if labels := given.pop(name, None):
            values[name] = tuple(dict.fromkeys(labels))
    given.pop("notrack", None)
    if "nprocs" in given and "omp_nthreads" in values:
        # A file's number of threads may come from a larger machine.
        values["omp_nthreads"] = min(values["omp_nthreads"], given["nprocs"])
    values |= given
    for name in ("bids_dir", "output_dir", "work_dir", "bids_database_dir"):
        if name in values:
            values[name] = absolute(values[name], folder)
    values["weights"] = {n: absolute(p, folder) for n, p in values.get("weights", {}).items()}
    config = RunConfig(**values)
    check_paths(config)
    return config


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror})", path=path, expected="a readable file"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError("is not text", path=path, expected="UTF-8") from None


def read_plugin(path: Path) -> tuple[str, dict[str, Any]]:
    """Read nipype's plugin and its arguments from a YAML file.

    Raises
    ------
    ConfigError
        If the file is no YAML mapping with a `plugin`.
    """
    import yaml

    try:
        content = yaml.safe_load(_read_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML ({error})", path=path) from None
    is_mapping = isinstance(content, dict) and isinstance(content.get("plugin"), str)
    arguments = (content.get("plugin_args") or {}) if is_mapping else None
    if not isinstance(arguments, dict):
        raise ConfigError(
            "no plugin is named",
            path=path,
            expected="`plugin: SLURM` (or another of nipype's), and `plugin_args` as a mapping",
        )
    # A job template, as nipype's plugins for batch systems have it, is a text or a file.
    if isinstance(template := arguments.get("template"), str):
        file = absolute(template, path.parent)
        arguments = arguments | ({"template": str(file)} if file.is_file() else {})
    return content["plugin"], arguments


def check_paths(config: RunConfig) -> None:
    """Stop before any work if a folder or file of the request cannot be used.

    Raises
    ------
    InputError
        If the dataset is missing.
    ConfigError
        If folders are inside each other in a way that endangers data, the output folder is
        not writable, or a file is missing.
    OutputError
        If something that will be written to is a link that leads elsewhere.
    """
    out, work, bids = config.output_dir, config.work_dir, config.bids_dir
    if config.analysis_level == "participant":
        if not bids.is_dir():
            raise InputError(
                "the dataset is missing" if not bids.exists() else "the dataset is not a folder",
                path=bids,
                expected="a BIDS dataset: dataset_description.json and sub-* folders",
                advice="check the path; in a container, that it is bound (-v or --bind)",
            )
        _check_apart(out, bids, "output folder", "OUTPUT_DIR")
        _check_apart(work, bids, "work folder", "--work-dir")
        if work == out or work in out.parents:
            raise ConfigError(
                "the work folder holds the outputs, and is emptied after success",
                path=work,
                expected="a folder of its own",
                advice="give --work-dir another folder, or leave it out",
            )
        for folder in (out, work):
            _check_writable(folder, make=not config.dry_run)
    elif not out.is_dir():
        raise ConfigError(
            "there are no results to collect",
            path=out,
            expected="the OUTPUT_DIR of `participant` runs",
            advice="run the participant level first",
        )
    else:
        _check_writable(out, make=True)
    # Files at the root are replaced, not written through; folders are entered.
    for name in ("logs", "group") if config.analysis_level == "group" else ("logs",):
        refuse_links(out / name, root=out)
    for name, path in config.weights.items():
        if not path.is_file():
            raise WeightsError(
                f"the checkpoint for {name} is missing",
                path=path,
                expected="a .safetensors file",
            )


def _check_apart(folder: Path, bids_dir: Path, noun: str, option: str) -> None:
    if folder == bids_dir:
        raise ConfigError(
            f"the {noun} is the dataset itself",
            path=folder,
            expected="another folder: raw data are never written to",
            advice=f"set {option} to, for example, {bids_dir / 'derivatives' / 'drope'}",
        )
    derivatives = bids_dir / "derivatives"
    if bids_dir in folder.parents and derivatives not in folder.parents:
        raise ConfigError(
            f"the {noun} is inside the raw dataset",
            path=folder,
            expected=f"a folder outside of it or below {derivatives}",
            advice=f"set {option} to, for example, {derivatives / 'drope'}",
        )


def _check_writable(folder: Path, *, make: bool) -> None:
    from tempfile import TemporaryFile

    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.exists():
            # A dry run leaves no trace: ask the nearest folder that exists.
            parent = next(p for p in folder.parents if p.exists())
            if not os.access(parent, os.W_OK):
                raise PermissionError(13, "Permission denied")
            return
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"cannot be written ({error.strerror})",
            path=folder,
            expected="a writable folder",
            advice="check its permissions and quota; in a container, that it is bound writable "
            "and that the user (-u) owns it",
        ) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app; return the exit code that `--help` documents.

    Parameters
    ----------
    argv
        Arguments after the program's name; those of this process by default.
    """
    from dmri_fm_workflows.stopping import STOP

    # Slurm at its time limit, and `docker stop`: end as after Ctrl-C.
    with STOP.heard(is_last=argv is None):
        try:
            return _main(argv)
        except KeyboardInterrupt:
            print(
                "drope-bidsapp: interrupted; the same command goes on from here", file=sys.stderr
            )
            return EXIT_INTERRUPTED


def _main(argv: Sequence[str] | None) -> int:
    given = vars(build_parser().parse_args(argv))
    try:
        require_extra("app")
        with empty_folder() as folder:
            return _start(make_config(given, folder))
    except DmriError as error:
        print(f"drope-bidsapp: {error}", file=sys.stderr)
        return EXIT_USAGE


def _start(config: RunConfig) -> int:
    from dmri_fm_workflows.environment import configure_logging, prepare_environment

    try:
        prepare_environment(config)
        configure_logging(config)
        return _run(config)
    except DmriError as error:
        LOGGER.debug("Stopped", exc_info=True)
        print(f"drope-bidsapp: {error}", file=sys.stderr)
        is_request = isinstance(error, InputError | ConfigError | WeightsError)
        return EXIT_USAGE if is_request else EXIT_FAILED


def _run(config: RunConfig) -> int:
    if config.analysis_level == "group":
        from dmri_fm_workflows.run_group import run_group

        return run_group(
            config.output_dir,
            participant_labels=config.participant_label,
            dry_run=config.dry_run,
        )
    if not config.skip_bids_validation and not config.participant_label:
        from dmri_fm_workflows.validation import report_validation

        report_validation(config.bids_dir)
    from dmri_fm_workflows.run import run_participants

    return run_participants(config)


if __name__ == "__main__":
    sys.exit(main())
