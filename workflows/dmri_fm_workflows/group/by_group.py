"""How scans are spread over the groups of `participants.tsv`: site, diagnosis, sex and others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dmri_fm.errors import InputError
from dmri_fm_workflows.outputs.tsv import MISSING, read_table

#: Words in the names of columns that hold groups, also where these are numbered.
GROUPS = re.compile("group|diagnosis|site|center|centre|scanner|sex|gender", re.IGNORECASE)

#: Words in the names of columns about the place of the scan.
SITES = re.compile("site|center|centre|scanner", re.IGNORECASE)

#: A column with more values than this is no column of groups.
_MAX_LEVELS = 40


@dataclass(frozen=True)
class CrossTable:
    """Scans by group, and by something about them.

    Attributes
    ----------
    column
        Column of `participants.tsv`.
    levels
        What is counted.
    rows
        Group, its scans, and how many of them are of each level.
    """

    column: str
    levels: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[int, ...]], ...]


def read_groups(people: Path) -> dict[str, dict[str, str]]:
    """Return the columns of `participants.tsv` that hold groups, by participant.

    These are columns with a name of :data:`GROUPS`, and those of words in which two participants
    share one. Empty if there is no such file. Raises InputError if it is damaged.
    """
    if not people.is_file():
        return {}
    table = pd.DataFrame(read_table(people)).replace("", MISSING)
    if table.empty:
        return {}
    if "participant_id" not in table:
        raise InputError("no column participant_id", path=people, expected="one row each")
    labels = "sub-" + table.pop("participant_id").str.removeprefix("sub-")
    named = [c for c in table if GROUPS.search(c)]
    table = table[[*named, *(c for c in table if c not in named and _has_words(table[c]))]]
    return dict(zip(labels, table.to_dict("records"), strict=True))


def _has_words(column: pd.Series) -> bool:
    """Tell a column of words; one of numbers can have a few words in it, such as `89+`."""
    known = column[column != MISSING]
    is_word = pd.to_numeric(known, errors="coerce").isna()
    return bool(len(known) and is_word.mean() > 0.5 and known.duplicated().any())


def find_sites(groups: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the site of each participant: the first column about sites with two or more values.

    Examples
    --------
    >>> find_sites({"sub-01": {"sex": "F", "site": "A"}, "sub-02": {"sex": "F", "site": "B"}})
    {'sub-01': 'A', 'sub-02': 'B'}
    """
    for column in dict.fromkeys(c for row in groups.values() for c in row):
        sites = {p: row.get(column, MISSING) for p, row in groups.items()}
        if SITES.search(column) and len(set(sites.values())) > 1:
            return sites
    return {}


def cross_tabulate(
    levels: Mapping[str, Sequence[bool]],
    participants: Sequence[str],
    groups: Mapping[str, Mapping[str, str]],
) -> tuple[CrossTable, ...]:
    """Count scans by group.

    Parameters
    ----------
    levels
        Whether each scan is of a level, by level.
    participants
        Participant of each scan.
    groups
        Groups of each participant, by column (:func:`read_groups`).

    Returns
    -------
    tuple of CrossTable
        One for each column of 2 to 40 groups.
    """
    found = []
    for column in dict.fromkeys(c for row in groups.values() for c in row):
        values = [groups.get(p, {}).get(column, MISSING) for p in participants]
        total = Counter(values)
        if 1 < len(total) <= _MAX_LEVELS:
            counts = [
                Counter(v for v, is_of in zip(values, flags, strict=True) if is_of)
                for flags in levels.values()
            ]
            rows = tuple((v, total[v], tuple(c[v] for c in counts)) for v in sorted(total))
            found.append(CrossTable(column, tuple(levels), rows))
    return tuple(found)
