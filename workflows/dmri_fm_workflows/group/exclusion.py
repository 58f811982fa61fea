"""Exclusion of scans by rules on their quality: `mean_fd > 0.5 or status != complete`.

A rule is comparisons joined by `and` and `or` (`and` binds closer); nothing is evaluated as code.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, InputError
from dmri_fm_workflows.outputs.tsv import (
    MISSING,
    QC_EXCLUDE,
    SCAN_COLUMNS,
    SCAN_ID,
    read_table,
)

_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, ">": operator.gt,
}  # fmt: skip

_COMPARISON = re.compile(
    r"\s*(?P<column>[A-Za-z_]\w*)\s*(?P<operator><=|>=|==|!=|<|>)\s*(?P<value>[-+.\w]+)\s*"
)

_GRAMMAR = "COLUMN OPERATOR VALUE, joined by `and` and `or`, e.g. 'mean_fd > 0.5 or snr_b0 < 5'"

#: Columns of `participants.tsv` by which exclusions are tabulated, where they are there.
TABULATED_BY = ("group", "diagnosis", "site", "scanner", "sex")

#: A column with more values than this is not tabulated.
_MAX_LEVELS = 40


@dataclass(frozen=True)
class Comparison:
    """A column compared with a number, or with a word (`==` and `!=` only)."""

    column: str
    operator: str
    value: float | str

    def judge(self, column: pd.Series) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return for each cell (text) whether the comparison holds, and whether it is known."""
        if isinstance(self.value, str):
            cells: Any = column.to_numpy(dtype=object)
            known = cells != MISSING
        else:
            cells = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
            known = np.isfinite(cells)
        return np.asarray(_OPERATORS[self.operator](cells, self.value)) & known, known


@dataclass(frozen=True)
class Rule:
    """A rule: alternatives (`or`) of comparisons that hold together (`and`)."""

    text: str
    alternatives: tuple[tuple[Comparison, ...], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that it looks at."""
        return tuple(dict.fromkeys(c.column for part in self.alternatives for c in part))


def parse_rule(text: str) -> Rule:
    """Parse a rule.

    Raises
    ------
    ConfigError
        If it does not follow the grammar.

    Examples
    --------
    >>> parse_rule("mean_fd > 0.5 and snr_b0 < 10 or status != complete").columns
    ('mean_fd', 'snr_b0', 'status')
    >>> parse_rule("mean_fd > 0.5 + 1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    dmri_fm.errors.ConfigError: --qc-exclude 'mean_fd > 0.5 + 1': 'mean_fd > 0.5 + 1' is no ...
    """
    words = " ".join(text.split())
    parts = tuple(
        tuple(_parse_comparison(item, words) for item in re.split(r"\band\b", part))
        for part in re.split(r"\bor\b", words)
    )
    return Rule(words, parts)


def _parse_comparison(text: str, rule: str) -> Comparison:
    found = _COMPARISON.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--qc-exclude {rule!r}: {text.strip()!r} is no comparison", expected=_GRAMMAR
        )
    column, sign, word = found["column"], found["operator"], found["value"]
    try:
        number = float(word)
    except ValueError:
        if sign not in ("==", "!="):
            raise ConfigError(
                f"--qc-exclude {rule!r}: {word!r} is no number",
                expected="a number after < <= > >=; a word after == and !=",
            ) from None
        return Comparison(column, sign, word)
    if not np.isfinite(number):
        raise ConfigError(f"--qc-exclude {rule!r}: {word!r} is not finite", expected=_GRAMMAR)
    return Comparison(column, sign, number)


@dataclass(frozen=True, eq=False)
class Exclusions:
    """Scans that rules exclude.

    Attributes
    ----------
    rules
        Texts of the rules.
    rule_of
        Rules that hold for a scan, joined by `; `, by scan; only of excluded scans.
    counts
        Scans that each rule excludes.
    not_judged
        Scans of which a rule's columns have no value, so that the rule does not hold, by rule.
    n_scans
        Scans in all.
    """

    rules: tuple[str, ...] = ()
    rule_of: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    not_judged: Mapping[str, int] = field(default_factory=dict)
    n_scans: int = 0

    def mark(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table of scans with the column `qc_exclude` after those that name the scan."""
        marked = table.copy(deep=False)
        place = sum(c in (SCAN_ID, *SCAN_COLUMNS) for c in table.columns)
        marks = [self.rule_of.get(scan, MISSING) for scan in table[SCAN_ID]]
        is_long = isinstance(table[SCAN_ID].dtype, pd.CategoricalDtype)
        kept = pd.Categorical(marks) if is_long else pd.Series(marks, table.index, dtype=object)
        marked.insert(place, QC_EXCLUDE, kept)
        return marked

    def describe(self) -> dict[str, Any]:
        """Return the entries of a sidecar about the rules."""
        if not self.rules:
            return {}
        return {
            "QCExcludeRules": [
                {
                    "Rule": rule,
                    "ScansExcluded": self.counts[rule],
                    "ScansNotJudged": self.not_judged[rule],
                }
                for rule in self.rules
            ],
            "ScansExcluded": len(self.rule_of),
            "Scans": self.n_scans,
        }


def exclude_scans(
    rules: Sequence[Rule], scans: pd.DataFrame, quality: pd.DataFrame, status: Mapping[str, str]
) -> Exclusions:
    """Apply rules to scans.

    Parameters
    ----------
    rules
        Rules; a scan is excluded where one of them holds.
    scans
        `scan_id` and `participant_id` of all scans.
    quality
        Image quality, one row per scan, cells as text.
    status
        Status of each participant; the column `status` of the rules.

    Raises
    ------
    ConfigError
        If a rule names a column that the table of image quality has not.
    """
    known = [c for c in quality.columns if c not in (SCAN_ID, QC_EXCLUDE)]
    for rule in rules:
        if unknown := [c for c in rule.columns if c != "status" and c not in known]:
            raise ConfigError(
                f"--qc-exclude {rule.text!r}: no column {', '.join(unknown)} in the table of "
                "image quality",
                expected=", ".join(["status", *known]),
            )
    table = quality.set_index(SCAN_ID).reindex(scans[SCAN_ID]).fillna(MISSING)
    table["status"] = [status.get(p, MISSING) for p in scans["participant_id"]]
    hits: dict[str, list[str]] = {}
    counts, not_judged = {}, {}
    for rule in rules:
        holds = np.zeros(len(table), dtype=bool)
        known_all = np.ones(len(table), dtype=bool)
        for part in rule.alternatives:
            judged = [c.judge(table[c.column]) for c in part]
            holds |= np.logical_and.reduce([h for h, _ in judged])
            known_all &= np.logical_and.reduce([k for _, k in judged])
        counts[rule.text] = int(holds.sum())
        not_judged[rule.text] = int((~known_all & ~holds).sum())
        for scan in table.index[holds]:
            hits.setdefault(str(scan), []).append(rule.text)
    return Exclusions(
        tuple(r.text for r in rules),
        {scan: "; ".join(texts) for scan, texts in hits.items()},
        counts,
        not_judged,
        len(scans),
    )


@dataclass(frozen=True)
class Tabulation:
    """Exclusions by the values of a column of `participants.tsv`.

    Attributes
    ----------
    column
        The column.
    rows
        Value, scans, excluded scans.
    """

    column: str
    rows: tuple[tuple[str, int, int], ...]


def read_groups(people: Path) -> dict[str, dict[str, str]]:
    """Return the columns of `participants.tsv` by which exclusions are tabulated, by participant.

    Empty if there is no such file. Raises InputError if it is damaged.
    """
    if not people.is_file():
        return {}
    rows = read_table(people)
    if rows and "participant_id" not in rows[0]:
        raise InputError("no column participant_id", path=people, expected="one row each")
    return {
        f"sub-{row['participant_id'].removeprefix('sub-')}": {
            c: row[c] or MISSING for c in TABULATED_BY if c in row
        }
        for row in rows
    }


def tabulate_exclusions(
    exclusions: Exclusions, scans: pd.DataFrame, groups: Mapping[str, Mapping[str, str]]
) -> tuple[Tabulation, ...]:
    """Count exclusions by the columns that :func:`read_groups` found."""
    if not exclusions.rules:
        return ()
    out = [scan in exclusions.rule_of for scan in scans[SCAN_ID]]
    found = []
    for column in dict.fromkeys(c for row in groups.values() for c in row):
        values = [groups.get(p, {}).get(column, MISSING) for p in scans["participant_id"]]
        total = Counter(values)
        excluded = Counter(v for v, is_out in zip(values, out, strict=True) if is_out)
        if len(total) <= _MAX_LEVELS:
            rows = tuple((v, total[v], excluded[v]) for v in sorted(total))
            found.append(Tabulation(column, rows))
    return tuple(found)
