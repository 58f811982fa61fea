"""Ratings of scans by people, as the pages of reports save them, joined with image quality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dmri_fm.errors import InputError
from dmri_fm_workflows.outputs.tsv import MISSING, SCAN_COLUMNS, SCAN_ID, read_table
from dmri_fm_workflows.report.content import Entry, ReportWarning

#: Words of ratings, from best to worst; the pages offer these (`report/templates/ratings.js`).
LEVELS = ("excellent", "acceptable", "poor", "exclude")

#: Columns that ratings add to the table of image quality.
RATING, RATERS, COMMENTS = RATING_COLUMNS = ("rating", "raters", "rating_comment")


class Rating(NamedTuple):
    """What one person says of one scan; a comment alone has no rating."""

    rater: str
    rating: str
    comment: str
    rated: str


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings of scans.

    Attributes
    ----------
    of_scan
        The latest rating of each rater, by `scan_id`.
    """

    of_scan: Mapping[str, tuple[Rating, ...]] = field(default_factory=dict)

    def worst(self, scan: str) -> str:
        """Return the worst rating of a scan; `n/a` without one."""
        found = [r.rating for r in self.of_scan.get(scan, ()) if r.rating != MISSING]
        return max(found, key=LEVELS.index, default=MISSING)

    def add_to(self, quality: pd.DataFrame) -> pd.DataFrame:
        """Return a table of image quality with :data:`RATING_COLUMNS` behind those of the scan.

        Without any rating the table is returned unchanged.
        """
        if not self.of_scan or SCAN_ID not in quality:
            return quality
        table = quality.copy(deep=False)
        place = sum(c in (SCAN_ID, *SCAN_COLUMNS) for c in table.columns)
        of_rows = [self.of_scan.get(scan, ()) for scan in table[SCAN_ID]]
        columns = {
            RATING: [self.worst(scan) for scan in table[SCAN_ID]],
            RATERS: ["; ".join(r.rater for r in found) or MISSING for found in of_rows],
            COMMENTS: [_join_comments(found) for found in of_rows],
        }
        for number, (name, cells) in enumerate(columns.items()):
            table.insert(place + number, name, pd.Series(cells, table.index, dtype=object))
        return table

    def count(self, scans: Sequence[str]) -> dict[str, int]:
        """Return the number of scans by their worst rating, best first, of levels that occur."""
        found = Counter(self.worst(scan) for scan in scans)
        return {level: found[level] for level in LEVELS if found[level]}

    def find_unknown(self, quality: pd.DataFrame) -> list[str]:
        """Return the scans that are rated and have no row in a table of image quality."""
        return sorted(set(self.of_scan) - set(quality.get(SCAN_ID, ())))


def warn_of_ratings(ratings: Ratings, quality: pd.DataFrame) -> list[ReportWarning]:
    """Return a warning of scans that are rated and have no row in a table of image quality."""
    unknown = ratings.find_unknown(quality)
    if not unknown:
        return []
    named = ", ".join(unknown[:8]) + (" and others" if len(unknown) > 8 else "")
    text = f"Ratings of scans that have no row here ({len(unknown)}): {named}."
    return [
        ReportWarning(
            "warning",
            text,
            advice="They are of another folder, or the names of scans have changed.",
        )
    ]


def summarise_ratings(ratings: Ratings, quality: pd.DataFrame) -> list[Entry]:
    """Return the line of a summary that counts scans by their rating; none without ratings."""
    counts = ratings.count(quality.get(SCAN_ID, ()))
    told = ", ".join(f"{n} {level}" for level, n in counts.items())
    label = "Scans rated, by their worst rating"
    return [Entry(label, f"{sum(counts.values())} ({told})")] if counts else []


def _join_comments(ratings: Sequence[Rating]) -> str:
    said = [r for r in ratings if r.comment != MISSING]
    return "; ".join(f"{r.rater}: {r.comment}" for r in said) or MISSING


def read_ratings(paths: Sequence[str | Path]) -> Ratings:
    """Read tables of ratings.

    Parameters
    ----------
    paths
        Tables with the columns `scan_id` and `rating`, and `comment`, `rater` and `rated` (time,
        ISO 8601) where these are known. Of several ratings of one scan by one rater the latest
        counts; the last one, where no time says which that is. Raters without a name are told
        apart by their files.

    Raises
    ------
    InputError
        If a table cannot be read, lacks a column, or holds another word than :data:`LEVELS`.
    """
    latest: dict[tuple[str, str], Rating] = {}
    for path in map(Path, paths):
        for number, row in enumerate(read_table(path), start=2):
            scan, found = _read_row(row, path, number)
            # Two who left their names out are two raters, as far as their files tell.
            key = (scan, str(path) if found.rater == MISSING else found.rater)
            times = [r.rated for r in (latest.get(key), found) if r and r.rated != MISSING]
            if key not in latest or len(times) < 2 or times[1] >= times[0]:
                latest[key] = found
    of_scan: dict[str, list[Rating]] = {}
    for (scan, _), rating in sorted(latest.items()):
        of_scan.setdefault(scan, []).append(rating)
    return Ratings({scan: tuple(found) for scan, found in of_scan.items()})


def _read_row(row: Mapping[str, str], path: Path, number: int) -> tuple[str, Rating]:
    if missing := {SCAN_ID, "rating"} - set(row):
        raise InputError(
            f"no column {' or '.join(sorted(missing))}",
            path=path,
            expected="a table of ratings: scan_id, rating, comment, rater, rated",
            advice="save it by the button of a participant's or the group's page",
        )
    cells = {k: row.get(k, "").strip() or MISSING for k in (SCAN_ID, *Rating._fields)}
    if cells["rating"] not in (*LEVELS, MISSING):
        raise InputError(
            f"line {number} rates {cells[SCAN_ID]} as {cells['rating']!r}",
            path=path,
            expected=", ".join(LEVELS) + f" or {MISSING}",
        )
    return cells.pop(SCAN_ID), Rating(**cells)
