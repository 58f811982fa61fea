"""Age of a participant, from the tables of the raw dataset."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from dmri_fm.errors import InputError
from dmri_fm.json_files import read_object

#: Years in a unit that the `age` column of a table may have; BIDS takes years by default.
_YEARS = {"year": 1.0, "month": 1 / 12, "week": 7 / 365.25, "day": 1 / 365.25}


def read_age(root: Path, label: str, session: str = "") -> float | None:
    """Return the age of a participant at a session, years; None where no table states it.

    Parameters
    ----------
    root
        Raw dataset.
    label
        Without `sub-`.
    session
        Without `ses-`; its row of `sub-<label>_sessions.tsv` counts before `participants.tsv`.
    """
    subject = f"sub-{label}"
    at_session = None
    if session:
        sessions = root / subject / f"{subject}_sessions.tsv"
        at_session = _age_in(sessions, "session_id", f"ses-{session}")
    if at_session is not None:
        return at_session
    return _age_in(root / "participants.tsv", "participant_id", subject)


def _age_in(path: Path, key: str, wanted: str) -> float | None:
    """Return the age in the row of a table, years; None if there is none that can be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    row = next((row for row in rows if (row.get(key) or "").strip() == wanted), {})
    # Ages of 89 and more may be written as "89+".
    number = re.fullmatch(r"(\d+(?:\.\d+)?)\+?", (row.get("age") or "").strip())
    factor = _unit_of(path.with_suffix(".json"))
    return None if number is None or factor is None else float(number[1]) * factor


def _unit_of(path: Path) -> float | None:
    """Return the years in a unit of the `age` column by the sidecar of its table; None: unknown.

    Without a sidecar, or a unit in it, the unit is the year.
    """
    if not path.is_file():
        return 1.0
    try:
        column = read_object(path).get("age", {})
    except InputError:
        return None
    unit = column.get("Units") if isinstance(column, dict) else None
    if not isinstance(unit, str):
        return 1.0
    return _YEARS.get(unit.strip().lower().removesuffix("s"))
