"""What an export starts from: tables of scans joined with participants, one row as asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dmri_fm.errors import ConfigError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm_lab.scan_tables import (
    Cohort,
    join_people,
    listed,
    one_scan_each,
    read_people,
    read_scan_table,
)
from dmri_fm_lab.table_selection import join_tables

#: What stands in the JSON file beside every table that an export writes.
USE = (
    f"{RESEARCH_ONLY} No prediction of a person. Features are personal data: they can re-identify "
    "a scan."
)


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
    table = join_tables([read_scan_table(path) for path in source.tables])
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
