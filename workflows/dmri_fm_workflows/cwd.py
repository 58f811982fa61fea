"""Current folder: paths on the command line are relative to it, and nothing in it is imported.

Libraries read settings from the current folder when they are imported: nipype `nipype.cfg`,
matplotlib `matplotlibrc`, numba `.numba_config.yaml`, pybids `bids_config.json`. Python itself
imports from it, first of all places, in every helper process that `multiprocessing` starts. A
dataset's folder, or one that everybody may write to, must not decide what is run. One measure
holds for all of them, and for those that future versions read: the commands do their work from
an empty folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from dmri_fm.errors import ConfigError

#: Environment variables that hold one path.
_PATH_VARIABLES = (
    "HOME",
    "MPLCONFIGDIR",
    "NIPYPE_CONFIG_DIR",
    "NUMBA_CACHE_DIR",
    "TEMPLATEFLOW_HOME",
    "TMPDIR",
)

#: Set for processes that a command starts by its own command line, as training on several
#: devices does: their paths start from the same folder.
_START_VARIABLE = "DMRI_FM_START_FOLDER"


def current_folder() -> Path:
    """Return the folder that relative paths start from; the root if it has been removed."""
    if started := os.environ.get(_START_VARIABLE):
        return Path(started)
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path("/")


def absolute(path: str | Path, folder: Path) -> Path:
    """Return a path that a user gave in a folder, links resolved, `~` expanded."""
    return (folder / Path(path).expanduser()).resolve()


def import_paths(paths: Sequence[str], *, folder: Path, pythonpath: str) -> list[str]:
    """Return where modules may come from: not from the current folder, unless it was asked for.

    Parameters
    ----------
    paths
        `sys.path`.
    folder
        The current folder.
    pythonpath
        The environment's PYTHONPATH. A folder that it names stays; an empty element, as in
        `PYTHONPATH=$PYTHONPATH:/tools`, means the current folder to Python, though hardly to
        its author.

    Examples
    --------
    >>> here = Path("/data")
    >>> import_paths(["", "/data", "/tools"], folder=here, pythonpath=":/tools")
    ['/tools']
    >>> import_paths(["/data", "/tools"], folder=here, pythonpath="/data:/tools")
    ['/data', '/tools']
    """
    elements = pythonpath.split(os.pathsep) if pythonpath else []
    named = {str(absolute(p, folder)) for p in elements if p}
    unsafe = {"", str(folder)} if "" in elements else {""}
    # An editable installation adds its folder after Python's own library: that one is meant.
    library = os.path.dirname(os.__file__)
    n_first = paths.index(library) if library in paths else len(paths)
    return [
        p for i, p in enumerate(paths) if p and (p not in unsafe or p in named or i >= n_first)
    ]


@contextmanager
def empty_folder() -> Iterator[Path]:
    """Work in an empty folder; yield the one that was left.

    Processes that are started meanwhile do not import from their current folder either
    (PYTHONSAFEPATH), and paths in environment variables are absolute for them. All of this ends
    with the context.

    Raises
    ------
    ConfigError
        If there is nowhere to make one.
    """
    before = current_folder()
    environment, paths, arguments = dict(os.environ), list(sys.path), list(sys.argv)
    pythonpath = os.environ.get("PYTHONPATH", "")
    try:
        scratch = TemporaryDirectory(prefix="drope-")
    except OSError as error:
        raise ConfigError(
            f"no folder for temporary files ({error.strerror})",
            expected="TMPDIR or /tmp that can be written",
            advice="set TMPDIR; in a container, mount a tmpfs at /tmp",
        ) from None
    with scratch as folder:
        sys.path[:] = import_paths(paths, folder=before, pythonpath=pythonpath)
        if os.path.exists(sys.argv[0]):
            sys.argv[0] = os.path.abspath(sys.argv[0])
        os.environ |= {"PYTHONSAFEPATH": "1", _START_VARIABLE: str(before)}
        for name in _PATH_VARIABLES:
            if os.environ.get(name):
                os.environ[name] = os.path.join(before, os.environ[name])
        if pythonpath:
            named = [os.path.join(before, p) for p in pythonpath.split(os.pathsep) if p]
            os.environ["PYTHONPATH"] = os.pathsep.join(named)
        os.chdir(folder)
        try:
            yield before
        finally:
            sys.path[:], sys.argv[:] = paths, arguments
            with suppress(OSError):  # removed in the meantime
                os.chdir(before)
            for name in ("PYTHONSAFEPATH", "PYTHONPATH", _START_VARIABLE, *_PATH_VARIABLES):
                if name in environment:
                    os.environ[name] = environment[name]
                else:
                    os.environ.pop(name, None)
