"""Tables for R: one comma-separated file of participants and measures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dmri_fm.errors import ConfigError
from dmri_fm_lab.exports.sources import USE, choose_columns
from dmri_fm_lab.scan_tables import Cohort, count_reasons
from dmri_fm_workflows.outputs.publish import publish_json, publish_text

#: Words that R keeps for itself.
_KEPT = {"if", "else", "repeat", "while", "function", "for", "in", "next", "break", "TRUE",
         "FALSE", "NULL", "Inf", "NaN", "NA"}  # fmt: skip


def r_name(text: str) -> str:
    """Return a name that R takes without quotes, as its `make.names` does.

    Examples
    --------
    >>> [r_name(t) for t in ("tensor_fa", "sex (M/F)", "2nd", "if")]
    ['tensor_fa', 'sex..M.F.', 'X2nd', 'if.']
    """
    name = re.sub(r"[^A-Za-z0-9._]", ".", text)
    if not re.match(r"[A-Za-z]|\.(?![0-9])", name):
        name = f"X{name}"
    return f"{name}." if name in _KEPT else name


def write_csv(cohort: Cohort, path: Path, *, columns: Sequence[str] = ("*",)) -> dict[str, Any]:
    """Write participants and measures as one table, a row per scan, and a JSON file beside it.

    Parameters
    ----------
    cohort
        Scans.
    path
        `.csv`; missing values are NA, names are R's.
    columns
        Names or patterns of measures.

    Returns
    -------
    dict
        Contents of the JSON file.

    Raises
    ------
    ConfigError
        If a column is not there, or two get one name in R.
    """
    chosen = choose_columns(columns, list(cohort.values), where="the tables")
    own = cohort.people.drop(columns=[c for c in cohort.people if c in chosen])
    table = pd.concat([own, cohort.values[chosen]], axis=1)
    table.insert(0, "scan_id", table.index)
    names = [r_name(str(c)) for c in table.columns]
    if twice := sorted(name for name, n in Counter(names).items() if n > 1):
        raise ConfigError(f"columns get one name in R: {', '.join(twice)}", expected="other names")
    table.columns = names
    publish_text(table.to_csv(index=False, na_rep="NA", float_format="%.9g"), path)
    record = {
        "Use": USE,
        "Scans": len(cohort),
        "Participants": int(cohort.people["participant_id"].nunique()),
        "Columns": len(names),
        "LeftOutCounts": count_reasons(cohort.left_out),
        "LeftOut": [item._asdict() for item in cohort.left_out],
    }
    publish_json(record, path.with_suffix(".json"))
    return record
