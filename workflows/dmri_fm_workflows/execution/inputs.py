"""Files that a run reads: their checksums before it, and whether they are the same after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmri_fm.errors import InputError
from dmri_fm_workflows.execution.stopping import STOP
from dmri_fm_workflows.outputs.manifest import digest_file


@dataclass(frozen=True)
class InputFile:
    """A file as it was before the run.

    Attributes
    ----------
    path
        Absolute.
    size, mtime_ns
        Bytes, and time of the last change.
    sha256
        Of its content, hexadecimal.
    """

    path: Path
    size: int
    mtime_ns: int
    sha256: str


def measure_inputs(paths: Iterable[Path]) -> tuple[InputFile, ...]:
    """Return the files with sizes, times and checksums.

    Raises
    ------
    InputError
        If one cannot be read.
    """
    found = []
    for path in sorted(set(paths)):
        STOP.check()
        try:
            status = path.stat()
            found.append(InputFile(path, status.st_size, status.st_mtime_ns, digest_file(path)))
        except OSError as error:
            raise _gone(path, f"cannot be read ({error.strerror})") from None
    return tuple(found)


def check_unchanged(inputs: Sequence[InputFile]) -> None:
    """Refuse inputs that have been changed or removed since they were measured.

    Raises
    ------
    InputError
        With the first of them, and how many there are.
    """
    changed = [(file, state) for file in inputs if (state := _find_change(file))]
    if not changed:
        return
    file, state = changed[0]
    more = f"; so have {len(changed) - 1} more inputs" if len(changed) > 1 else ""
    raise _gone(file.path, f"{state} while the run was at work{more}")


def _find_change(file: InputFile) -> str:
    try:
        status = file.path.stat()
    except OSError:
        return "has vanished"
    is_same = (status.st_size, status.st_mtime_ns) == (file.size, file.mtime_ns)
    return "" if is_same else "has changed"


def _gone(path: Path, found: str) -> InputError:
    return InputError(
        found,
        path=path,
        expected="inputs that stay as they are during a run",
        advice="look for what moves or rewrites files there (a copy or a conversion that is "
        "still going on, a network disk that was cut off), then run the same command again",
    )
