"""Splits of participants into training, validation and test sets: read, checked, written.

A fold names participants, not scans: all scans of a participant are in one set of a fold, and so
are all members of a family where families are given. A file of splits has the columns `fold`,
`participant_id` and `set` (`train`, `val` or `test`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import InputError
from dmri_fm_lab.scan_tables import LeftOut, listed, read_cells, with_prefix
from dmri_fm_workflows.outputs.publish import publish_text
from dmri_fm_workflows.outputs.tsv import format_table

#: Sets of a fold, in the order of files and tables.
SETS = ("train", "val", "test")

#: Columns of a file of splits.
COLUMNS = ("fold", "participant_id", "set")

#: One entry for each row or participant.
Labels: TypeAlias = Sequence[Any] | NDArray[Any] | pd.Series

_Rows = NDArray[np.int_]


class FoldRows(NamedTuple):
    """Rows of a table that belong to the sets of a fold."""

    train: _Rows
    val: _Rows
    test: _Rows


@dataclass(frozen=True)
class Fold:
    """Participants of one fold.

    Attributes
    ----------
    name
        Of the fold, e.g. `repeat-1_fold-2`.
    train, val, test
        Participants with their prefix `sub-`; `val` may be empty.

    Raises
    ------
    InputError
        If a participant is in two sets, or training or test has nobody.
    """

    name: str
    train: frozenset[str]
    val: frozenset[str]
    test: frozenset[str]

    def __post_init__(self) -> None:
        sets = {"train": self.train, "val": self.val, "test": self.test}
        for (first, a), (second, b) in combinations(sets.items(), 2):
            if both := sorted(a & b):
                raise InputError(
                    f"fold {self.name}: {listed(both)} in {first} and in {second}",
                    expected="each participant in one set of a fold",
                )
        if not self.train or not self.test:
            empty = "train" if not self.train else "test"
            raise InputError(
                f"fold {self.name}: nobody in {empty}", expected="participants in train and test"
            )

    def rows(self, participants: Labels) -> FoldRows:
        """Return the rows of each set, given the participant of each row.

        Examples
        --------
        >>> fold = Fold("1", frozenset({"sub-1"}), frozenset(), frozenset({"sub-2"}))
        >>> [rows.tolist() for rows in fold.rows(["sub-2", "sub-1", "sub-2", "sub-3"])]
        [[1], [], [0, 2]]
        """
        sets = (self.train, self.val, self.test)
        return FoldRows(*(np.flatnonzero([p in own for p in participants]) for own in sets))

    def restrict(self, participants: Iterable[str]) -> Fold:
        """Return the fold without anybody else; errors as of the constructor."""
        known = frozenset(participants)
        return Fold(self.name, self.train & known, self.val & known, self.test & known)


class Overlap(NamedTuple):
    """How far the test sets of folds overlap.

    Attributes
    ----------
    n_pairs
        Pairs of folds whose test sets share somebody; of `n_folds`.
    n_repeated
        Participants who are in several test sets; of `n_tested`.
    """

    n_folds: int
    n_pairs: int
    n_repeated: int
    n_tested: int

    def __str__(self) -> str:
        if not self.n_pairs:
            return f"{self.n_folds} folds, test sets without overlap"
        return (
            f"{self.n_folds} folds, overlapping test sets: {self.n_repeated} of {self.n_tested} "
            "tested participants are in several"
        )


def find_overlap(folds: Sequence[Fold]) -> Overlap:
    """Return how far the test sets of folds overlap.

    Examples
    --------
    >>> one, two = (Fold(str(i), frozenset("a"), frozenset(), frozenset("bc")) for i in (1, 2))
    >>> print(find_overlap([one, two]))
    2 folds, overlapping test sets: 2 of 2 tested participants are in several
    """
    times = Counter(p for fold in folds for p in fold.test)
    n_pairs = sum(bool(a.test & b.test) for a, b in combinations(folds, 2))
    return Overlap(len(folds), n_pairs, sum(n > 1 for n in times.values()), len(times))


def match_folds(
    folds: Sequence[Fold], participants: Iterable[str]
) -> tuple[list[Fold], tuple[LeftOut, ...]]:
    """Return folds of the participants that there are, and who is not used.

    Parameters
    ----------
    folds
        As read or made.
    participants
        Those with a usable scan.

    Raises
    ------
    InputError
        If a fold has nobody left to train on, or to test.
    """
    known = set(participants)
    named = {p for fold in folds for p in (*fold.train, *fold.val, *fold.test)}
    if not known & named:
        raise InputError(
            f"no participant of the splits has a usable scan: {listed(sorted(named))} in the "
            f"splits, {listed(sorted(known))} in the table",
            expected="the same participant_id in both",
        )
    left_out = [LeftOut(p, "in the splits, without a usable scan") for p in sorted(named - known)]
    left_out += [LeftOut(p, "in no set of the splits") for p in sorted(known - named)]
    return [fold.restrict(known) for fold in folds], tuple(left_out)


def read_splits(path: str | Path) -> list[Fold]:
    """Read folds from a table with the columns of :data:`COLUMNS`.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column, has another set, or puts a participant of a
        fold in two sets.
    """
    path = Path(path)
    cells = read_cells(path)
    if absent := [c for c in COLUMNS if c not in cells]:
        raise InputError(
            f"no column {listed(absent)}", path=path, expected=f"columns {', '.join(COLUMNS)}"
        )
    cells = cells[list(COLUMNS)].astype(str).drop_duplicates()
    if unknown := sorted(set(cells["set"]) - set(SETS)):
        raise InputError(f"set {listed(unknown)}", path=path, expected=" or ".join(SETS))
    cells["participant_id"] = with_prefix(cells["participant_id"])
    folds = []
    for name, rows in cells.groupby("fold", sort=False):
        sets = (frozenset(rows["participant_id"][rows["set"] == own]) for own in SETS)
        try:
            folds.append(Fold(str(name), *sets))
        except InputError as error:
            raise InputError(error.found, path=path, expected=error.expected) from None
    if not folds:
        raise InputError("no fold", path=path, expected="rows")
    return folds


def write_splits(folds: Sequence[Fold], path: str | Path) -> Path:
    """Write folds as :func:`read_splits` reads them.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    rows = [
        dict(zip(COLUMNS, (fold.name, participant, own), strict=True))
        for fold in folds
        for own in SETS
        for participant in sorted(getattr(fold, own))
    ]
    publish_text(format_table(rows, COLUMNS), path)
    return Path(path)
