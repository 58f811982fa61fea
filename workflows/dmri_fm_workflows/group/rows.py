"""Rows of the group's tables: one per scan, from the tables of one row that scans have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from dmri_fm.errors import DmriError, InputError
from dmri_fm.identity import DEFAULT_MODELS, ENCODERS, IDENTITIES, identity
from dmri_fm_workflows.group.collect import OutputFile, Problem, find_files
from dmri_fm_workflows.outputs.maps import SCAN_FEATURES, load_catalogue
from dmri_fm_workflows.outputs.naming import output_path
from dmri_fm_workflows.outputs.tsv import MISSING, read_table

__all__ = [
    "SCAN_COLUMNS",
    "FeatureTable",
    "describe_problem",
    "gather_features",
    "gather_rows",
    "lay_out",
]

#: Columns that say which scan a row is about.
SCAN_COLUMNS = (
    "participant_id",
    "session_id",
    "acquisition",
    "ceagent",
    "reconstruction",
    "direction",
    "run",
    "echo",
    "part",
    "chunk",
)


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of all scans by one encoder.

    Attributes
    ----------
    model
        Label of the encoder.
    type
        Output type of the scan's features, a key in `maps.yaml`.
    table
        One row per scan.
    """

    model: str
    type: str
    table: pd.DataFrame

    @property
    def path(self) -> PurePosixPath:
        """Path of the table, relative to the output folder."""
        return output_path({}, f"group_{self.type}", model=self.model)


def lay_out(rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """Lay out rows: scan columns first, the others in order of first appearance."""
    seen = dict.fromkeys(column for row in rows for column in row)
    always = ("participant_id", "session_id", "acquisition", "direction", "run")
    first = [c for c in SCAN_COLUMNS if c in seen or c in always]
    columns = [*first, *(c for c in seen if c not in first)]
    ordered = sorted(rows, key=lambda r: [r.get(c, "") for c in first])
    return pd.DataFrame(
        [[row.get(c, MISSING) for c in columns] for row in ordered], columns=columns, dtype=str
    )


def describe_problem(error: DmriError, file: OutputFile) -> Problem:
    # What is damaged may be another file than the map: its mask.
    name = (error.path or file.path).name
    return Problem(file.participant, f"{name}: {' '.join(error.found.split())}")


def gather_rows(files: Iterable[OutputFile]) -> tuple[pd.DataFrame, tuple[Problem, ...]]:
    """Join the one-row tables of all scans.

    Parameters
    ----------
    files
        Tables of one row each.

    Returns
    -------
    DataFrame
        Cells as they stand in the files; which scan a row is about is read from the file's name.
    tuple
        Files that could not be read, or hold another number of rows.
    """
    rows: list[dict[str, str]] = []
    problems = []
    for file in files:
        try:
            found = read_table(file.path)
            if len(found) != 1:
                raise InputError(f"table has {len(found)} rows, not one", path=file.path)
        except InputError as error:
            problems.append(describe_problem(error, file))
            continue
        measures = {k: v or MISSING for k, v in found[0].items() if k not in SCAN_COLUMNS}
        rows.append({**file.columns, **measures})
    return lay_out(rows), tuple(problems)


def gather_features(
    output_dir: str | Path, *, participants: Sequence[str]
) -> tuple[tuple[FeatureTable, ...], tuple[Problem, ...]]:
    """Join the features of all scans, a table per encoder and type of features.

    Returns
    -------
    tuple of FeatureTable
        In the order of the models' records. That of the encoder that runs by default is there
        even where it is empty.
    tuple of Problem
        Files that could not be read.
    """
    (default,) = (identity(name) for name in DEFAULT_MODELS if name in ENCODERS)
    by_encoder: dict[tuple[str, str], list[OutputFile]] = {
        (record.label, of): []
        for record in IDENTITIES.values()
        for of in SCAN_FEATURES
        if load_catalogue().output_type(of).is_of(record.name)
    }
    for participant in participants:
        for file in find_files(output_dir, SCAN_FEATURES, participant=participant):
            by_encoder[str(file.name.model), file.name.type.name].append(file)
    tables: list[FeatureTable] = []
    problems: list[Problem] = []
    for (label, of), files in by_encoder.items():
        if files or (label, of) == (default.label, f"features_{default.features}"):
            table, unusable = gather_rows(files)
            tables.append(FeatureTable(label, of, table))
            problems += unusable
    return tuple(tables), tuple(problems)
