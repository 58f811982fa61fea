"""Cells of tables as people write them: texts of missing values, numbers, vectors of `.npz`."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from dmri_fm.errors import InputError
from dmri_fm_workflows.outputs.tsv import MISSING, SCAN_COLUMNS

#: Texts that stand for a missing value in tables of participants.
MISSING_TEXTS = (MISSING, "", "NA", "N/A", "NaN", "nan", "None", "null")


def read_npz(path: Path) -> pd.DataFrame:
    """Read vectors as a table: a column each, and those that name the scan.

    Raises InputError if it cannot be read.
    """
    expected = "arrays participant_id (N,), session_id (N,) if needed, and features (N, D)"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {k: stored[k] for k in stored.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"cannot be read ({error})", path=path, expected=expected) from None
    vectors, who = arrays.get("features"), arrays.get("participant_id")
    if vectors is None or who is None or vectors.ndim != 2 or len(vectors) != len(who):
        shapes = ", ".join(f"{k} {v.shape}" for k, v in arrays.items())
        raise InputError(f"arrays {shapes or 'none'}", path=path, expected=expected)
    table = pd.DataFrame(vectors, columns=[f"f{i:04d}" for i in range(vectors.shape[1])])
    for key in (k for k in SCAN_COLUMNS if k in arrays):
        table[key] = arrays[key].astype(str)
    return table


def as_numbers(column: pd.Series) -> pd.Series | None:
    """Return a column as numbers, or None if a cell is text."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    cells = column.where(~column.isin(MISSING_TEXTS) & column.notna())
    numbers = pd.to_numeric(cells, errors="coerce")
    return None if (numbers.isna() & cells.notna()).any() else numbers


def typed(column: pd.Series) -> pd.Series:
    """Return a column as float64 if all known cells are numbers, else as text."""
    numbers = as_numbers(column)
    if numbers is not None and numbers.notna().any():
        return numbers.astype(np.float64)
    return known(column)


def known(column: pd.Series) -> pd.Series:
    """Return a column of text, NA where it is missing."""
    return column.where(~column.isin(MISSING_TEXTS))


def level_text(value: object) -> str:
    """Return a level of a column as text.

    Examples
    --------
    >>> [level_text(v) for v in (1.0, 0.5, "A")]
    ['1', '0.5', 'A']
    """
    return f"{value:g}" if isinstance(value, float) else str(value)
