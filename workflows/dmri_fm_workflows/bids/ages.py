"""Age of a participant, from the tables of the raw dataset."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from dmri_fm.errors import InputError
from dmri_fm.json_files import read_object

#: Years in a unit that the `age` column of a table may have; BIDS takes years by default.
_YEARS = {"year": 1.0, "yr": 1.0, "y": 1.0, "month": 1 / 12, "week": 7 / 365.25, "day": 1 / 365.25}


#: Columns of ages that are not read, such as those of newborns from conception on.
_OTHER_AGES = re.compile(r"(scan|birth)_?age|gestation|post_?(menstrual|conception)|^(pma|ga)$")

#: Values of a cell without an age.
_NO_VALUE = ("", "n/a")


@dataclass(frozen=True)
class Age:
    """Age of a participant, as far as tables state it.

    Attributes
    ----------
    years
        None where no table states it.
    problem
        What the tables state and is not understood; empty if there is nothing of the sort.
    """

    years: float | None = None
    problem: str = ""


UNKNOWN_AGE = Age()


def read_age(root: Path, label: str, session: str = "") -> Age:
    """Return the age of a participant at a session.

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
    tables = [(root / "participants.tsv", "participant_id", subject)]
    if session:
        own = root / subject / f"{subject}_sessions.tsv"
        tables.insert(0, (own, "session_id", f"ses-{session}"))
    found = [_age_in(*table) for table in tables]
    years = next((age.years for age in found if age.years is not None), None)
    return Age(years, "; ".join(age.problem for age in found if age.problem))


def _age_in(path: Path, key: str, wanted: str) -> Age:
    """Return the age in the row of a table."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return UNKNOWN_AGE
    except (OSError, UnicodeDecodeError):
        return Age(problem=f"{path.name} cannot be read, nor an age in it")
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    row = next((row for row in rows if (row.get(key) or "").strip() == wanted), {})
    problems = [
        f"{path.name} has a column {name!r}, which is not read"
        for name in rows.fieldnames or ()
        if _OTHER_AGES.search(name.strip().lower())
    ]
    age, years = (row.get("age") or "").strip(), None
    if age.lower() not in _NO_VALUE:
        # Ages of 89 and more may be written as "89+".
        number = re.fullmatch(r"(\d+(?:\.\d+)?)\+?", age)
        factor = _unit_of(path.with_suffix(".json"))
        if number is None or factor is None:
            which = "unit" if number else "value"
            problems.append(f"{path.name} has the age {age!r}, of a {which} that is not known")
        else:
            years = float(number[1]) * factor
    return Age(years, "; ".join(problems))


def _unit_of(path: Path) -> float | None:
    """Return the years in a unit of the `age` column by the sidecar of its table; None: unknown.

    Without a sidecar, or a unit in it, the unit is the year, unless the description names another.
    """
    if not path.is_file():
        return 1.0
    try:
        column = read_object(path).get("age", {})
    except InputError:
        return None
    if not isinstance(column, dict):
        return None
    unit, said = column.get("Units", ""), str(column.get("Description", "")).lower()
    if unit == "":
        return None if re.search("month|week|day", said) and "year" not in said else 1.0
    if not isinstance(unit, str):
        return None
    return _YEARS.get(unit.strip().lower().removesuffix("s"))
