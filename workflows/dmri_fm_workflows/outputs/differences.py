"""Two output folders, compared file by file."""

from __future__ import annotations

import filecmp
import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, DmriError
from dmri_fm_workflows.outputs.file_content import Content, read_content

#: States of a pair of files, the best first. `same values`: equal but for named fields that differ
#: between runs. `close`: numbers differ by no more than the tolerance.
STATES = ("identical", "same values", "close", "numbers differ", "content differs",
          "unreadable", "only in the first", "only in the second")  # fmt: skip

#: States of folders that count as equal.
EQUAL = STATES[:3]

#: Folders that hold records and working files of runs, which are not compared.
_NOT_COMPARED = ("logs", "work")

#: Entries that differ between runs of the same scans, by ending of the file's name: paths of the
#: dataset; command and folders on a page; names and times of runs, and when maps were written.
_OF_RUN = {
    "dataset_description.json": ("DatasetLinks.", "SourceDatasets.", "GeneratedBy.0.Container."),
    ".html": ("command and configuration",),
    "status.tsv": ("run_uuid", "started", "finished"),
    "status.parquet": ("run_uuid", "started", "finished"),
}

#: Entries that a message names.
_N_NAMED = 3


@dataclass(frozen=True)
class Difference:
    """How a file of one folder relates to that of the other.

    Attributes
    ----------
    path
        Relative to both folders.
    state
        One of :data:`STATES`.
    detail
        What differs, for people; empty if nothing does.
    largest
        Largest absolute difference of two numbers, in the units of the file.
    relative
        The same, over the largest magnitude among the numbers of that entry.
    """

    path: str
    state: str
    detail: str = ""
    largest: float = 0.0
    relative: float = 0.0


@dataclass
class _Tally:
    """What differs between two contents: entries of runs, numbers, everything else."""

    of_run: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    n_values: int = 0
    largest: float = 0.0
    relative: float = 0.0

    def compare(self, name: str, one: NDArray[Any] | str, two: NDArray[Any] | str) -> None:
        """Take note of an entry that both files have."""
        if isinstance(one, str) or isinstance(two, str):
            if not (isinstance(one, str) and isinstance(two, str) and one == two):
                self.others.append(name)
            return
        if one.shape != two.shape:
            self.others.append(f"{name} (shapes {one.shape} and {two.shape})")
            return
        a, b = (np.asarray(v, dtype=np.float64) for v in (one, two))
        equal = (a == b) | (np.isnan(a) & np.isnan(b))
        if equal.all():
            return
        gap = np.abs(a[~equal] - b[~equal])
        if not np.isfinite(gap).all():
            self.others.append(f"{name} (finite in one only)")
            return
        self.numbers.append(name)
        self.n_values += gap.size
        self.largest = max(self.largest, float(gap.max()))
        finite = [np.abs(v[np.isfinite(v)]).max(initial=0.0) for v in (a, b)]
        self.relative = max(self.relative, float(gap.max()) / max(map(float, finite)))


def compare_outputs(
    one: str | Path, two: str | Path, *, tolerance: float = 0.0
) -> list[Difference]:
    """Compare every file of two output folders but records of runs.

    Parameters
    ----------
    one, two
        Output folders.
    tolerance
        Numbers may differ by this much, relative to the largest magnitude among the numbers of
        the same entry (a column of a table, the voxels of an image), and count as close.

    Returns
    -------
    list
        One entry per file of either folder, sorted by path; `logs`, `work` and `sub-*/log` are
        left out.

    Raises
    ------
    ConfigError
        If one of the two is no folder, or the tolerance is negative or no number.
    """
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ConfigError(f"the tolerance is {tolerance}", expected="a number, 0 or more")
    roots = Path(one), Path(two)
    for root in roots:
        if not root.is_dir():
            raise ConfigError("is no folder", path=root, expected="an output folder of the app")
    first, second = (set(_list_files(root)) for root in roots)
    found = [Difference(path, STATES[6]) for path in first - second]
    found += [Difference(path, STATES[7]) for path in second - first]
    found += [_compare(path, *roots, tolerance=tolerance) for path in sorted(first & second)]
    return sorted(found, key=lambda d: d.path)


def _list_files(root: Path) -> Iterator[str]:
    for folder, subfolders, names in os.walk(root):
        where = Path(folder).relative_to(root)
        at_root, in_participant = where == Path(), len(where.parts) == 1
        skipped = _NOT_COMPARED if at_root else ("log",) if in_participant else ()
        subfolders[:] = [name for name in subfolders if name not in skipped]
        yield from ((where / name).as_posix() for name in names)


def _compare(path: str, root: Path, other_root: Path, *, tolerance: float) -> Difference:
    """Compare two files of one name."""
    one, two = root / path, other_root / path
    try:
        if filecmp.cmp(one, two, shallow=False):
            return Difference(path, "identical")
        contents = read_content(one), read_content(two)
    except (DmriError, OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        text = error.found if isinstance(error, DmriError) else str(error)
        return Difference(path, "unreadable", text)
    if contents[0] is None or contents[1] is None:
        return Difference(path, "content differs", "compared as bytes")
    return _judge(path, _tally(path, contents[0], contents[1]), tolerance)


def _tally(path: str, one: Content, two: Content) -> _Tally:
    """Compare two contents entry by entry."""
    of_run = next((names for ending, names in _OF_RUN.items() if path.endswith(ending)), ())
    tally = _Tally()
    for name in sorted({*one, *two}):
        if name.startswith(of_run) if of_run else False:
            if not (name in one and name in two and np.array_equal(one[name], two[name])):
                tally.of_run.append(name)
        elif name in one and name in two:
            tally.compare(name, one[name], two[name])
        else:
            tally.others.append(f"{name} (in one only)")
    return tally


def _judge(path: str, tally: _Tally, tolerance: float) -> Difference:
    """Turn a tally into the state of a file."""
    if tally.others:
        return Difference(path, "content differs", _name(tally.others))
    if tally.numbers:
        state = "close" if tally.relative <= tolerance else "numbers differ"
        detail = (
            f"{tally.n_values} numbers of {_name(tally.numbers)}, by up to {tally.largest:.3g} "
            f"({tally.relative:.2g} of the largest)"
        )
        return Difference(path, state, detail, tally.largest, tally.relative)
    names = _name(tally.of_run) if tally.of_run else "compression, order, notation or metadata"
    return Difference(path, "same values", f"differs in {names}")


def _name(entries: list[str]) -> str:
    """Return the first entries, and how many more there are."""
    more = f" and {len(entries) - _N_NAMED} more" if len(entries) > _N_NAMED else ""
    return ", ".join(entries[:_N_NAMED]) + more
