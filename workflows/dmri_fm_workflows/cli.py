"""The command line of the BIDS App: `drope-bidsapp BIDS_DIR OUTPUT_DIR {participant,group}`.

Importing this module is quick: the libraries that do the work are imported after the options
are known to be good and the environment is set up for them.
"""

from __future__ import annotations

import argparse
import logging
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
)
from dmri_fm_workflows.cwd import current_folder, empty_folder
from dmri_fm_workflows.request import make_config

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
