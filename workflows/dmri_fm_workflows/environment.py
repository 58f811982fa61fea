"""Environment variables and messages of a process, set before the heavy libraries are imported."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path

from dmri_fm.errors import OutputError
from dmri_fm_workflows.config import RunConfig

#: Variables that set how many threads a numerical library starts: one. A library that shares a
#: sum or a product out among threads rounds it in another way for each number of threads, and a
#: registration that follows ends elsewhere. The threads that `--omp-nthreads` grants are those of
#: our own loops over volumes and voxels, whose results do not depend on how many there are.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)

#: Folders that libraries write into, which may lie on a read-only disk.
CACHE_VARIABLES = ("HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR")

#: Written into only where it is still empty: a filled one may be read-only.
TEMPLATES_VARIABLE = "TEMPLATEFLOW_HOME"

#: Loggers whose INFO messages are for users; those of libraries only with `-v`.
OWN_LOGGERS = ("dmri_fm", "dmri_fm_workflows")

_FILE_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def prepare_environment(
    config: RunConfig, environ: MutableMapping[str, str] | None = None
) -> None:
    """Hold libraries to one thread, forbid look-ups on the network, and find writable caches.

    A folder that a variable names and that cannot be written is replaced by one that lives as
    long as this process: on a read-only root, or for a user without a home.

    Parameters
    ----------
    config
        The request.
    environ
        Environment to change; this process's own by default.
    """
    environ = os.environ if environ is None else environ
    environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    # nipype asks its home page for the newest version; TemplateFlow asks for its newest list.
    environ.update(NO_ET="1", TEMPLATEFLOW_AUTOUPDATE="off", MPLBACKEND="Agg")
    environ.setdefault("HOME", "/nonexistent")
    unusable = [n for n in CACHE_VARIABLES if n in environ and not _is_writable(Path(environ[n]))]
    if templates := environ.get(TEMPLATES_VARIABLE):
        folder = Path(templates)
        if not _has_content(folder) and not _is_writable(folder):
            unusable.append(TEMPLATES_VARIABLE)
    if unusable:
        scratch = Path(tempfile.mkdtemp(prefix="drope-bidsapp-"))
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        for name in unusable:
            folder = scratch / name.lower()
            folder.mkdir()
            environ[name] = str(folder)


def _has_content(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.R_OK | os.X_OK) and any(folder.iterdir())


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


class _ForUsers(logging.Filter):
    """Pass our own messages, and errors of other loggers."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] in OWN_LOGGERS:
            return True
        return record.levelno >= logging.ERROR


class LogFile(logging.FileHandler):
    """A log file on a disk that may be full: that is said once, and the run goes on.

    Outputs that cannot be written are errors where they are written.
    """

    _is_broken = False

    def handleError(self, record: logging.LogRecord) -> None:
        """Say why the log ends here, in place of a traceback for every message."""
        if not self._is_broken:
            self._is_broken = True
            print(
                f"drope-bidsapp: {self.baseFilename}: the log ends here ({sys.exc_info()[1]})",
                file=sys.stderr,
            )

    def close(self) -> None:
        """Close the file; what could not be written is lost."""
        with suppress(OSError):
            super().close()


def configure_logging(config: RunConfig) -> None:
    """Send messages to the terminal and, unless this is a dry run, to a file of this run.

    The file, `logs/<run_uuid>/drope-bidsapp.log` in the output folder, has more than the
    terminal shows, Python's warnings included.

    Raises
    ------
    OutputError
        If the log file cannot be written.
    """
    import rich
    from rich.logging import RichHandler

    # One console for messages and progress: two would draw over each other.
    rich.reconfigure(stderr=True)
    terminal = RichHandler(
        console=rich.get_console(), show_path=False, markup=False, log_time_format="[%X]"
    )
    terminal.setLevel(logging.DEBUG if config.verbose > 1 else logging.INFO)
    if not config.verbose:
        terminal.addFilter(_ForUsers())
    handlers: list[logging.Handler] = [terminal]
    if not config.dry_run:
        path = config.output_dir / "logs" / config.run_uuid / "drope-bidsapp.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = LogFile(path, encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"the log cannot be written ({error.strerror})",
                path=path,
                advice="check permissions, quota and free space of the output folder",
            ) from None
        file.setFormatter(logging.Formatter(_FILE_FORMAT))
        handlers.append(file)
    level = logging.DEBUG if config.verbose > 1 else logging.INFO
    logging.basicConfig(level=level, handlers=handlers, force=True, format="%(message)s")
    logging.captureWarnings(True)
