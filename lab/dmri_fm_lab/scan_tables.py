"""Tables of scans joined with what is known about participants, for statistics and prediction.

A row is a scan; its key is `scan_id`, e.g. `sub-01_ses-2_dir-AP`. Nothing is dropped silently:
every row that is left out stands in :attr:`Cohort.left_out` with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.table_cells import MISSING_TEXTS, as_numbers, known, read_npz, typed
from dmri_fm_workflows.bids.names import scan_name
from dmri_fm_workflows.outputs.tsv import (
    MISSING,
    QC_EXCLUDE,
    SCAN_COLUMNS,
    SCAN_ID,
    scan_entities,
)

#: Columns of numbers that tell how a scan was made or how far to trust it, which is its site.
_NO_MEASURES = (
    *("max_bval", "n_directions", "n_volumes", "n_voxels", "direction_error"),
    *("coverage", "coverage_*", "ood_*", "*_ood_*", "snr_b0_is_temporal"),
)

#: Names that are shown in a message before the rest is counted.
_SHOWN = 8


class LeftOut(NamedTuple):
    """A scan or participant that is not used, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class ScanTable:
    """Measures of scans.

    Attributes
    ----------
    scans
        Index `scan_id`; text columns of :data:`SCAN_COLUMNS` that the file has.
    values
        Same index; float64, NaN where missing.
    left_out
        Scans that quality control excluded.
    source
        The file.
    """

    scans: pd.DataFrame
    values: pd.DataFrame
    left_out: tuple[LeftOut, ...] = ()
    source: Path | None = None

    def select(self, columns: Sequence[str]) -> ScanTable:
        """Return the table with some columns of values.

        Raises ConfigError if there is no such column.
        """
        if unknown := [c for c in columns if c not in self.values]:
            raise ConfigError(
                f"no numeric column {listed(unknown)} in {self.source or 'the table'}",
                expected=f"some of {listed(list(self.values))}",
            )
        return replace(self, values=self.values[list(columns)])


@dataclass(frozen=True, eq=False)
class Cohort:
    """Scans with measures and what is known about their participants.

    Attributes
    ----------
    people
        Index `scan_id`; `participant_id`, `session_id` where there are sessions, and the columns
        of the participants' table: numbers where all known cells are numbers, else text.
    values
        Same index; float64, NaN where missing.
    left_out
        Scans and participants that are not here.
    """

    people: pd.DataFrame
    values: pd.DataFrame
    left_out: tuple[LeftOut, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.people)

    @property
    def reasons(self) -> str:
        """Why scans and participants are not here, with numbers, as text."""
        return listed([f"{n} ({reason})" for reason, n in count_reasons(self.left_out).items()])

    def keep(self, which: NDArray[np.bool_] | pd.Series, reason: str) -> Cohort:
        """Return the scans of a mask; the others are left out for a reason."""
        kept = np.asarray(which, dtype=bool)
        dropped = tuple(LeftOut(str(name), reason) for name in self.people.index[~kept])
        return Cohort(self.people[kept], self.values[kept], (*self.left_out, *dropped))

    def complete(self, columns: Sequence[str]) -> Cohort:
        """Return the scans whose participants have a value in each of some columns.

        Raises ConfigError if there is no such column, or no scan has a value in each.
        """
        if unknown := [c for c in columns if c not in self.people]:
            raise ConfigError(
                f"no column {listed(unknown)} in the table of participants",
                expected=f"some of {listed(list(self.people))}",
            )
        cohort = self
        for column in columns:
            cohort = cohort.keep(cohort.people[column].notna(), f"no value of {column}")
        if len(self) and not len(cohort):
            missing = self.people[list(columns)].isna().sum()
            empty = [c for c in columns if missing[c] == len(self)]
            lacks = [f"{c} is missing in {missing[c]}" for c in columns if missing[c]]
            found = (
                f"no value of {listed(empty)} for any of {len(self)} scans"
                if empty
                else f"none of {len(self)} scans has all columns: {listed(lacks)}"
            )
            raise ConfigError(
                found + (f"; left out before: {self.reasons}" if self.left_out else ""),
                expected=f"scans with a value of each of {listed(columns)}",
                advice="fill in the column in the table that holds it, or leave it out",
            )
        return cohort


def listed(names: Sequence[str]) -> str:
    """Return names as text, the first few and the number of the others.

    Examples
    --------
    >>> listed(["a", "b"])
    'a, b'
    >>> listed([str(i) for i in range(10)])
    '0, 1, 2, 3, 4, 5, 6, 7 and 2 more'
    """
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more


def measures_of(columns: Iterable[str]) -> list[str]:
    """Return the columns that measure the brain, in their order.

    Those of protocol, counts, coverage and out-of-distribution scores tell sites apart: they are
    no outcomes or features unless a user names them.

    Examples
    --------
    >>> measures_of(["tensor_fa_mean_white", "coverage_white", "max_bval", "ood_score"])
    ['tensor_fa_mean_white']
    """
    return [c for c in columns if not any(fnmatchcase(c, p) for p in _NO_MEASURES)]


def count_reasons(left_out: Iterable[LeftOut]) -> dict[str, int]:
    """Return how many are left out for each reason."""
    return dict(Counter(item.reason for item in left_out))


def read_scan_table(path: str | Path) -> ScanTable:
    """Read measures of scans.

    Parameters
    ----------
    path
        A table (`.tsv`, `.csv`, `.parquet`) with a column `participant_id`, such as those of the
        group level; or a `.npz` file with arrays `participant_id` (N,), `session_id` (N,) if
        there are sessions, and `features` (N, D). Columns of text are not read, but for those
        that name the scan.

    Raises
    ------
    InputError
        If the file cannot be read, has no participants or no numbers, or names a scan twice.
    """
    path = Path(path)
    cells = read_npz(path) if path.suffix == ".npz" else read_cells(path)
    if "participant_id" not in cells:
        raise InputError(
            f"no column participant_id among {listed(list(cells))}",
            path=path,
            expected="one row per scan, with participant_id",
        )
    _normalise(cells)
    if SCAN_ID not in cells:
        keys = cells[[c for c in SCAN_COLUMNS if c in cells]].astype(str).to_dict("records")
        cells[SCAN_ID] = [scan_name(scan_entities(row)) for row in keys]
    twice = sorted(cells[SCAN_ID][cells[SCAN_ID].duplicated()].unique())
    if twice:
        raise InputError(
            f"{len(twice)} scans have several rows: {listed(twice)}",
            path=path,
            expected="one row per scan, told apart by " + ", ".join(SCAN_COLUMNS),
        )
    cells = cells.set_index(SCAN_ID)
    rules = cells[QC_EXCLUDE] if QC_EXCLUDE in cells else pd.Series(MISSING, index=cells.index)
    rules = rules.astype(object).where(~rules.isin(MISSING_TEXTS) & rules.notna(), None)
    scans = cells[[c for c in SCAN_COLUMNS if c in cells]].fillna(MISSING).astype(str)
    numbers = {
        c: column
        for c in cells
        if c not in (*SCAN_COLUMNS, QC_EXCLUDE) and (column := as_numbers(cells[c])) is not None
    }
    if not numbers:
        raise InputError("no column of numbers", path=path, expected="measures of scans")
    values = pd.DataFrame(numbers, index=cells.index).astype(np.float64)
    used = rules.isna()
    left_out = tuple(LeftOut(str(s), f"excluded by QC: {rules[s]}") for s in rules.index[~used])
    return ScanTable(scans[used], values[used], left_out, path)


def read_people(
    path: str | Path, *, sessions: str | Path | None = None, text: Sequence[str] = ()
) -> pd.DataFrame:
    """Read what is known about participants, and about their sessions.

    Parameters
    ----------
    path
        `participants.tsv`, or any table with a column `participant_id`.
    sessions
        A table with `participant_id` and `session_id`; its columns replace those of the same name.
    text
        Columns that stay text, such as identifiers: `007` is no number.

    Returns
    -------
    DataFrame
        `participant_id` (with its prefix), `session_id` with `sessions`, and the others: float64
        where all known cells are numbers, else text; missing values are NA.

    Raises
    ------
    InputError
        If a file cannot be read, lacks its keys, or has a participant or session twice.
    """
    people = _read_keyed(Path(path), ["participant_id"], text)
    if sessions is None:
        return people
    visits = _read_keyed(Path(sessions), ["participant_id", "session_id"], text)
    own = [c for c in people if c == "participant_id" or c not in visits]
    return visits.merge(people[own], on="participant_id", how="left")


def join_people(table: ScanTable, people: pd.DataFrame) -> Cohort:
    """Join scans with their participants, and with sessions where `people` has them.

    Raises
    ------
    InputError
        If no scan has a row in `people`, or `people` has several sessions of a participant and
        the table does not say which scan is of which.
    """
    keys = [c for c in ("participant_id", "session_id") if c in people and c in table.scans]
    scans = table.scans[[c for c in ("participant_id", "session_id") if c in table.scans]]
    if people.duplicated(keys).any():
        raise InputError(
            "no column session_id, and several sessions of a participant are known",
            path=table.source,
            expected="session_id beside participant_id, as in the table of sessions",
        )
    merged = scans.reset_index().merge(
        people, on=keys, how="left", indicator="_side", validate="m:1"
    )
    merged = merged.set_index(SCAN_ID).loc[table.scans.index]
    is_known = (merged.pop("_side") == "both").to_numpy()
    if not is_known.any():
        raise InputError(
            f"none of the {len(scans)} scans has a row among the participants "
            f"({listed(sorted(set(scans['participant_id'])))} against "
            f"{listed(sorted(set(people['participant_id'])))})",
            path=table.source,
            expected="the same participant_id in both tables",
        )
    scanned = {*table.scans["participant_id"], *(n.split("_")[0] for n, _ in table.left_out)}
    unscanned = [p for p in dict.fromkeys(people["participant_id"]) if p not in scanned]
    missing = tuple(LeftOut(p, "no scan in the table") for p in unscanned)
    cohort = Cohort(merged, table.values, (*table.left_out, *missing))
    return cohort.keep(is_known, "no row in the table of participants")


def one_scan_each(
    cohort: Cohort,
    *,
    by: Sequence[str] = ("participant_id",),
    how: Literal["first", "mean"],
    constant: Sequence[str] = (),
) -> Cohort:
    """Return one row for each participant, or for each participant and session.

    Parameters
    ----------
    cohort
        Scans, several of a participant among them.
    by
        Columns that tell rows apart.
    how
        "first": the first scan in order of `scan_id`, the others are left out; "mean": the mean
        of the values and of the numbers among `people`, such as a session's age, under the first
        scan's name and with its texts.
    constant
        Columns of `people`, such as classes, that have no mean: the scans that are averaged have
        to agree on them.

    Raises
    ------
    ConfigError
        If scans that are averaged differ in a column of `constant`.
    """
    ordered = Cohort(cohort.people.sort_index(), cohort.values.sort_index(), cohort.left_out)
    is_first = ~ordered.people.duplicated(list(by))
    kept = ordered.keep(is_first, f"another scan of the same {' and '.join(by)} is used")
    if how == "first" or is_first.all():
        return kept
    groups = ordered.people.groupby(list(by), sort=False, dropna=False).ngroup()
    for column in constant:
        differ = ordered.people[column].groupby(groups).nunique(dropna=False) > 1
        if differ.any():
            who = ordered.people["participant_id"][is_first][differ.to_numpy()]
            raise ConfigError(
                f"scans of {listed(list(who))} differ in {column}, which has no mean",
                expected="one value for scans that are averaged",
                advice="take the first scan instead of the mean, or leave the column out",
            )
    means = ordered.values.groupby(groups.to_numpy()).mean().set_axis(kept.people.index)
    numbers = [c for c in kept.people.select_dtypes("number") if c not in by]
    own = ordered.people[numbers].groupby(groups)
    # Equal numbers stay as they are: their mean may differ from them in the last bit.
    averaged = own.mean().where(own.nunique() > 1, own.first()).set_axis(kept.people.index)
    people = kept.people.assign(**{str(c): averaged[c] for c in numbers})
    return Cohort(people, means, ordered.left_out)


def read_cells(path: Path) -> pd.DataFrame:
    """Read a table (`.tsv`, `.csv`, `.parquet`), cells as text or (Parquet) of their own type.

    Raises InputError if it cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        separator = "," if path.suffix == ".csv" else "\t"
        return pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except (OSError, ValueError, UnicodeDecodeError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"cannot be read ({why})", path=path, expected="a table") from None


def _read_keyed(path: Path, keys: list[str], text: Sequence[str]) -> pd.DataFrame:
    cells = read_cells(path).astype(str)
    if absent := [key for key in keys if key not in cells]:
        raise InputError(f"no column {listed(absent)}", path=path, expected="one row each")
    _normalise(cells)
    twice = cells[cells.duplicated(keys)]
    if len(twice):
        names = [" ".join(row) for row in twice[keys].drop_duplicates().to_numpy()]
        raise InputError(f"several rows of {listed(names)}", path=path, expected="one row each")
    columns = {
        c: cells[c] if c in keys else known(cells[c]) if c in text else typed(cells[c])
        for c in cells
    }
    return pd.DataFrame(columns)


def with_prefix(labels: pd.Series, prefix: str = "sub-") -> pd.Series:
    """Return labels with a prefix, whether they had it or not; missing ones are n/a."""
    is_known = labels.notna() & ~labels.isin(MISSING_TEXTS)
    texts = [f"{prefix}{str(s).removeprefix(prefix)}" for s in labels]
    return pd.Series(texts, index=labels.index, dtype=object).where(is_known, MISSING)


def _normalise(cells: pd.DataFrame) -> None:
    """Give participants and sessions of a table their prefix."""
    cells["participant_id"] = with_prefix(cells["participant_id"])
    if "session_id" in cells:
        cells["session_id"] = with_prefix(cells["session_id"], "ses-")
