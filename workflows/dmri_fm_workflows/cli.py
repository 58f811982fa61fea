"""The command line of the BIDS App: `drope-bidsapp BIDS_DIR OUTPUT_DIR {participant,group}`.

Importing this module is quick: the libraries that do the work are imported after the options
are known to be good and the environment is set up for them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dmri_fm import __version__
from dmri_fm.errors import ConfigError, DmriError, InputError, WeightsError
from dmri_fm.extras import require_extra
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.cwd import current_folder, empty_folder
from dmri_fm_workflows.options import GROUPS, add_argument
from dmri_fm_workflows.request import make_config
from dmri_fm_workflows.spellings import translate

LOGGER = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

EXIT_CODES = {
    EXIT_OK: "every requested output and report was written",
    EXIT_FAILED: "at least one scan failed, or an output could not be written; reports and logs "
    "have the messages",
    EXIT_USAGE: "wrong usage or input: nothing was started",
    EXIT_INTERRUPTED: "interrupted; the same command goes on where this run stopped",
}

_EPILOG = """\
exit codes:
{codes}

Options can also come from a file (--config-file); the command line wins. Every run writes its
options to OUTPUT_DIR/logs/<run>/config.toml, which can be given back to --config-file.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; options that are not given leave no trace in the namespace."""
    codes = "\n".join(f"  {code:<5}{meaning}" for code, meaning in EXIT_CODES.items())
    parser = argparse.ArgumentParser(
        prog="drope-bidsapp",
        description="Diffusion MRI from raw BIDS to corrected images, tensor maps, network "
        "features, reports and group tables.",
        epilog=_EPILOG.format(codes=codes),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    groups: dict[str, argparse._ActionsContainer] = {"": parser}
    groups |= {title: parser.add_argument_group(title) for title in GROUPS}
    given = [f for f in fields(RunConfig) if f.metadata]
    for f in sorted(given, key=lambda f: [*groups].index(f.metadata["group"])):
        add_argument(groups[f.metadata["group"]], f)
    files = parser.add_argument_group("files that hold options")
    files.add_argument(
        "--config-file", type=Path, metavar="FILE", help="TOML with options, see below"
    )
    files.add_argument(
        "--bids-filter-file",
        type=Path,
        metavar="FILE",
        help='JSON of entities by query, such as {"dwi": {"acquisition": "b1000"}}',
    )
    files.add_argument(
        "--eddy-config",
        type=Path,
        metavar="FILE",
        help="JSON with options of FSL's eddy, as QSIPrep takes them; see docs/fsl.md",
    )
    files.add_argument(
        "--fix-gradients",
        type=Path,
        metavar="FILE",
        help="TOML with the order and signs that b-vectors of a scanner and its protocol should "
        "have, where its converter got them wrong; see docs/inputs.md",
    )
    files.add_argument(
        "--use-plugin",
        type=Path,
        metavar="FILE",
        help="YAML with nipype's `plugin` and `plugin_args`",
    )
    parser.add_argument(
        "-v", "--verbose", action="count", help="more messages: -v of each step, -vv everything"
    )
    parser.add_argument("--version", action="version", version=f"drope-bidsapp {__version__}")
    return parser


def _parse(argv: Sequence[str] | None) -> dict[str, Any]:
    parser = build_parser()
    known = {flag for action in parser._actions for flag in action.option_strings}
    translated, notices = translate(sys.argv[1:] if argv is None else argv, known)
    given = vars(parser.parse_args(translated))
    for notice in notices:
        print(f"drope-bidsapp: {notice}", file=sys.stderr)
    return given


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
    return make_config(_parse(argv), current_folder())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app; return the exit code that `--help` documents.

    Parameters
    ----------
    argv
        Arguments after the program's name; those of this process by default.
    """
    from dmri_fm_workflows.execution.stopping import STOP

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
    try:
        given = _parse(argv)
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
    is_rendered = True
    if config.reports_only:
        from dmri_fm_workflows.execution.pages import render_pages

        is_rendered = render_pages(config)
        if config.analysis_level == "participant":
            return EXIT_OK if is_rendered else EXIT_FAILED
    if config.analysis_level == "group":
        from dmri_fm_workflows.run_group import run_group

        code = run_group(
            config.output_dir,
            participant_labels=config.participant_label,
            dry_run=config.dry_run,
            bids_dir=config.bids_dir,
            qc_exclude=config.qc_exclude,
            ratings=config.ratings,
            atlases=config.atlas,
            bundles=config.bundles,
        )
        return code if is_rendered else EXIT_FAILED
    is_checked = not config.skip_bids_validation and not config.is_preprocessed
    if is_checked and not config.participant_label:
        from dmri_fm_workflows.validation import report_validation

        report_validation(config.bids_dir)
    from dmri_fm_workflows.run import run_participants

    return run_participants(config)


if __name__ == "__main__":
    sys.exit(main())
