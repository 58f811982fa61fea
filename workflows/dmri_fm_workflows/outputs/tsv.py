"""Tables as BIDS wants them: tab-separated, `n/a` for what is missing, stable number formats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.errors import InputError

#: Text of a cell without a value.
MISSING = "n/a"

#: Entry of a table's sidecar: reason by column that could not be known.
NOT_MEASURED_KEY = "NotMeasured"

#: Key of a row about a scan: the name that its outputs share, e.g. `sub-01_ses-2_dir-AP`.
SCAN_ID = "scan_id"

#: Column of group tables: the rules of quality control by which a scan is excluded.
QC_EXCLUDE = "qc_exclude"

#: Column of image quality that holds a word, the method that corrected distortion.
SDC_METHOD = "sdc_method"

#: Columns that name the scan of a row, by entity; the first two carry their prefix.
_COLUMN_OF = {
    "subject": "participant_id",
    "session": "session_id",
    "acquisition": "acquisition",
    "ceagent": "ceagent",
    "reconstruction": "reconstruction",
    "direction": "direction",
    "run": "run",
    "echo": "echo",
    "part": "part",
    "chunk": "chunk",
}

SCAN_COLUMNS = tuple(_COLUMN_OF.values())

#: Entities whose columns a table always has.
_ALWAYS = ("subject", "session", "acquisition", "direction", "run")


def format_cell(value: Any, *, digits: int = 6) -> str:
    """Return a cell's text.

    Parameters
    ----------
    value
        Anything; None, NaN and the empty text are missing.
    digits
        Significant digits of a fraction; nine keep every bit of a float32.

    Examples
    --------
    >>> [format_cell(v) for v in (0.1234567891, 3, True, None, float("nan"), "a")]
    ['0.123457', '3', 'true', 'n/a', 'n/a', 'a']
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.{digits}g}" if math.isfinite(value) else MISSING
    return " ".join(str(value).split())


def format_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, digits: int = 6
) -> str:
    """Return a table's text: a header and one line per row, in the order given."""
    lines = ["\t".join(columns)]
    lines += ["\t".join(format_cell(row.get(c), digits=digits) for c in columns) for row in rows]
    return "\n".join(lines) + "\n"


def read_table(path: str | Path) -> list[dict[str, str]]:
    """Read a table as text, cell by cell.

    Raises
    ------
    InputError
        If the file is missing, empty, or a row has another number of cells than the header.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read ({error})", path=path, expected="a table") from None
    rows = [line.split("\t") for line in lines if line.strip()]
    if not rows:
        raise InputError("table is empty", path=path, expected="a header and rows")
    header, *body = rows
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise InputError(
                f"line {number} has {len(row)} cells under {len(header)} column names",
                path=path,
                expected="as many cells as names",
                advice="run the participant again: the file is damaged",
            )
    return [dict(zip(header, row, strict=True)) for row in body]


def scan_columns(entities: Mapping[str, str]) -> dict[str, str]:
    """Return the leading cells that say which scan a row belongs to.

    Examples
    --------
    >>> scan_columns({"subject": "01", "direction": "AP"})  # doctest: +NORMALIZE_WHITESPACE
    {'participant_id': 'sub-01', 'session_id': 'n/a', 'acquisition': 'n/a', 'direction': 'AP',
     'run': 'n/a'}
    """
    prefix = {"subject": "sub-", "session": "ses-"}
    return {
        column: prefix.get(entity, "") + str(entities[entity]) if entities.get(entity) else MISSING
        for entity, column in _COLUMN_OF.items()
        if entity in _ALWAYS or entities.get(entity)
    }


def scan_entities(cells: Mapping[str, str]) -> dict[str, str]:
    """Return the entities of the scan of a row, the inverse of :func:`scan_columns`.

    Examples
    --------
    >>> scan_entities({"participant_id": "sub-01", "direction": "AP", "run": "n/a", "fa": "0.4"})
    {'subject': '01', 'direction': 'AP'}
    """
    prefix = {"subject": "sub-", "session": "ses-"}
    return {
        entity: cells[column].removeprefix(prefix.get(entity, ""))
        for entity, column in _COLUMN_OF.items()
        if cells.get(column, MISSING) not in (MISSING, "")
    }
