"""What is used of tables: scans that all of them have, columns by pattern, rows by condition."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.scan_tables import LeftOut, ScanTable, listed, measures_of
from dmri_fm_workflows.group.conditions import parse_condition

logger = logging.getLogger(__name__)


def join_tables(tables: Sequence[ScanTable]) -> ScanTable:
    """Join tables on `scan_id`; a scan that one of them lacks or excludes is left out.

    Columns of one name are compared in the scans that are kept (missing equals missing). Equal
    ones are one column. Measures of the brain (see
    :func:`~dmri_fm_lab.scan_tables.measures_of`) that differ are an error; columns of protocol,
    counts, coverage and out-of-distribution scores that differ, such as the largest b-value that
    a model read, are in no table then, and a warning names them.

    Raises
    ------
    InputError
        If a measure has other values in two tables.
    """
    reasons = {name: reason for table in tables for name, reason in table.left_out}
    for table in tables:
        known = {*table.values.index, *reasons}
        absent = [s for other in tables for s in other.values.index if s not in known]
        reasons |= dict.fromkeys(map(str, absent), f"no row in {_file_of(table)}")
    first, *others = tables
    kept = [scan for scan in first.values.index if scan not in reasons]
    values, differing = first.values.loc[kept], dict[str, None]()
    for other in others:
        own = other.values.loc[kept]
        shared = [c for c in own if c in values]
        unequal = [str(c) for c in shared if not values[c].equals(own[c])]
        if measures := measures_of(unequal):
            raise InputError(
                f"columns with other values in {_file_of(first)}: {listed(measures)}",
                path=other.source,
                expected="columns of one name with the same values",
                advice="rename columns, or use one table at a time",
            )
        differing |= dict.fromkeys(unequal)
        values = values.join(own.drop(columns=shared))
    if differing:
        logger.warning(
            "not used, since tables differ in them: %s (%s)",
            listed(list(differing)),
            ", ".join(map(_file_of, tables)),
        )
    left_out = tuple(LeftOut(name, reason) for name, reason in reasons.items())
    values = values.drop(columns=list(differing))
    return ScanTable(first.scans.loc[kept], values, left_out, first.source)


def _file_of(table: ScanTable) -> str:
    return table.source.name if table.source else "a table"


def match_columns(patterns: Sequence[str], columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns that each name or pattern (`*`, `?`) means, in their order.

    Examples
    --------
    >>> match_columns(["fa_*", "md", "x"], ["md", "fa_a", "fa_b"])
    {'fa_*': ['fa_a', 'fa_b'], 'md': ['md'], 'x': []}
    """
    return {p: [c for c in columns if c == p or fnmatchcase(c, p)] for p in patterns}


def choose_columns(patterns: Sequence[str], columns: Sequence[str], *, where: str) -> list[str]:
    """Return the columns that names or patterns mean together, in the order of the patterns.

    Raises ConfigError if one means none.

    Examples
    --------
    >>> choose_columns(["fa_*", "md"], ["md", "fa_a", "fa_b"], where="the table")
    ['fa_a', 'fa_b', 'md']
    """
    found = match_columns(patterns, columns)
    if unmatched := [p for p, own in found.items() if not own]:
        raise ConfigError(
            f"no column {listed(unmatched)} in {where}", expected=f"some of {listed(columns)}"
        )
    return list(dict.fromkeys(c for own in found.values() for c in own))


def select_rows(table: pd.DataFrame, condition: str) -> NDArray[np.bool_]:
    """Return which rows a condition holds for, see :mod:`dmri_fm_workflows.group.conditions`.

    It does not hold where a cell is missing.

    Raises
    ------
    ConfigError
        If the condition cannot be read, a column is not there, one of numbers is compared with a
        word, or one of words by less and more.

    Examples
    --------
    >>> people = pd.DataFrame({"group": ["control", "patient", None], "age": [3, 5, 7]})
    >>> select_rows(people, "group != patient or age > 6").tolist()
    [True, False, True]
    """
    parsed = parse_condition(condition)
    if unknown := [c for c in parsed.columns if c not in table]:
        raise ConfigError(
            f"condition {condition!r}: no column {listed(unknown)}",
            expected=f"some of {listed(list(table))}",
        )
    for column, sign, value in parsed.comparisons:
        is_text = not pd.api.types.is_numeric_dtype(table[column])
        if is_text and sign not in ("==", "!="):
            raise ConfigError(f"condition {condition!r}", expected=f"== or !=: {column} is text")
        if not is_text and isinstance(value, str):
            raise ConfigError(f"condition {condition!r}", expected=f"a number for {column}")
    return parsed.judge(table)[0]
