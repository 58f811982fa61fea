"""What an export starts from: tables of scans joined with participants, one row as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, InputError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.scan_tables import (
    Cohort,
    LeftOut,
    ScanTable,
    join_people,
    listed,
    one_scan_each,
    read_people,
    read_scan_table,
)

#: What stands in the JSON file beside every table that an export writes.
USE = (
    f"{RESEARCH_ONLY} No prediction of a person. Features are personal data: they can re-identify "
    "a scan."
)

OPERATORS = ("==", "!=", ">=", "<=", ">", "<")


@dataclass(frozen=True)
class Source:
    """Files and choices of an export.

    Attributes
    ----------
    tables
        Tables of scans; a scan has to be in all of them.
    participants
        `participants.tsv`, or any table with `participant_id`.
    sessions
        Table of sessions, see :func:`~dmri_fm_lab.scan_tables.read_people`.
    scans
        Which scan of a participant counts: "first", their "mean" (of all numbers; a text in
        which they differ is missing), or "all"; None: one each is asked for, and several are an
        error.
    text
        Columns of participants that stay text, such as identifiers (`007` is no number).
    """

    tables: Sequence[Path]
    participants: Path
    sessions: Path | None = None
    scans: Literal["first", "mean", "all"] | None = None
    text: Sequence[str] = ()


def read_source(source: Source) -> Cohort:
    """Read and join the tables of an export.

    Raises
    ------
    InputError
        If a file cannot be used, or two tables share a column with different values.
    ConfigError
        If participants have several scans and no choice was made.
    """
    table = _join([read_scan_table(path) for path in source.tables])
    people = read_people(source.participants, sessions=source.sessions, text=source.text)
    cohort = join_people(table, people)
    if source.scans == "all":
        return cohort
    twice = cohort.people["participant_id"][cohort.people["participant_id"].duplicated()].unique()
    if len(twice) and source.scans is None:
        raise ConfigError(
            f"{len(twice)} participants have several scans: {listed(sorted(twice))}",
            expected="--scans first or --scans mean",
        )
    reduced = one_scan_each(cohort, how=source.scans or "first")
    return _without_mixed_texts(reduced, cohort) if source.scans == "mean" else reduced


def _without_mixed_texts(means: Cohort, scans: Cohort) -> Cohort:
    """Return means without the texts, such as a scanner, in which a participant's scans differ."""
    keys = ("participant_id", "session_id")
    texts = [c for c in scans.people.select_dtypes(exclude="number") if c not in keys]
    differ = scans.people.groupby("participant_id")[texts].nunique(dropna=False) > 1
    is_mixed = differ.loc[means.people["participant_id"]].to_numpy()
    people = means.people.assign(**means.people[texts].mask(is_mixed))
    return Cohort(people, means.values, means.left_out)


def _join(tables: Sequence[ScanTable]) -> ScanTable:
    """Join tables on `scan_id`; a scan that one of them lacks is left out, for one reason."""
    reasons = {name: reason for table in tables for name, reason in table.left_out}
    for table in tables:
        known = {*table.values.index, *reasons}
        file = table.source.name if table.source else "another table"
        absent = [s for other in tables for s in other.values.index if s not in known]
        reasons |= dict.fromkeys(map(str, absent), f"no row in {file}")
    first, *others = tables
    kept = [scan for scan in first.values.index if scan not in reasons]
    values = first.values.loc[kept]
    for other in others:
        own = other.values.loc[kept]
        shared = [c for c in own if c in values]
        if unequal := [c for c in shared if not values[c].equals(own[c])]:
            raise InputError(
                f"columns with other values in {first.source}: {listed(unequal)}",
                path=other.source,
                expected="tables of the same scans",
            )
        values = values.join(own.drop(columns=shared))
    left_out = tuple(LeftOut(name, reason) for name, reason in reasons.items())
    return ScanTable(first.scans.loc[kept], values, left_out, first.source)


def choose_columns(patterns: Sequence[str], columns: Sequence[str], *, where: str) -> list[str]:
    """Return the columns that names or patterns (`*`) mean, in the order of the patterns.

    Raises ConfigError if one means none.

    Examples
    --------
    >>> choose_columns(["fa_*", "md"], ["md", "fa_a", "fa_b"], where="the table")
    ['fa_a', 'fa_b', 'md']
    """
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [c for c in columns if c == pattern or fnmatchcase(c, pattern)]
        if not found:
            raise ConfigError(
                f"no column {pattern} in {where}", expected=f"some of {listed(list(columns))}"
            )
        chosen |= dict.fromkeys(found)
    return list(chosen)


def select_people(people: pd.DataFrame, condition: str) -> NDArray[np.bool_]:
    """Return which people a condition `COLUMN OPERATOR VALUE` holds for; not where it is missing.

    Raises ConfigError if the condition cannot be read or the column is not there.

    Examples
    --------
    >>> people = pd.DataFrame({"group": ["control", "patient", None]})
    >>> select_people(people, "group == control").tolist()
    [True, False, False]
    """
    sign = next((s for s in OPERATORS if s in condition), None)
    column, _, word = (part.strip() for part in condition.partition(sign or "=="))
    if sign is None or not word or column not in people:
        raise ConfigError(
            f"condition {condition!r}",
            expected=f"COLUMN OPERATOR VALUE, with a column of {listed(list(people))} and one of "
            + " ".join(OPERATORS),
        )
    cells = people[column]
    known = cells.notna().to_numpy()
    if not pd.api.types.is_numeric_dtype(cells):
        if sign not in ("==", "!="):
            raise ConfigError(f"condition {condition!r}", expected=f"== or !=: {column} is text")
        return np.asarray(known & ((cells == word) == (sign == "==")).to_numpy())
    try:
        number = float(word)
    except ValueError:
        raise ConfigError(f"condition {condition!r}", expected=f"a number for {column}") from None
    tests = {"==": cells == number, "!=": cells != number, ">=": cells >= number,
             "<=": cells <= number, ">": cells > number, "<": cells < number}  # fmt: skip
    return np.asarray(known & tests[sign].to_numpy())
