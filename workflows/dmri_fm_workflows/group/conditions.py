"""Conditions on the columns of a table: `mean_fd > 0.5 or status != complete`.

Comparisons joined by `and` and `or` (`and` binds closer); nothing is evaluated as code.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.outputs.tsv import MISSING

_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, ">": operator.gt,
}  # fmt: skip

_COMPARISON = re.compile(
    r"\s*(?P<column>[A-Za-z_]\w*|`[^`]+`)\s*(?P<operator><=|>=|==|!=|<|>)\s*"
    r"(?P<value>[-+.\w]+|'[^']*'|\"[^\"]*\")\s*"
)

_JOINT = re.compile(r"(and|or)\b")

#: A number; `float` reads more: `2_1` as 21.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)

_NOT_FINITE = ("nan", "inf", "infinity")

_QUOTED_OR_SPACE = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\s+")

GRAMMAR = "COLUMN OPERATOR VALUE, joined by `and` and `or`, e.g. 'mean_fd > 0.5 or snr_b0 < 5'"

Flags = NDArray[np.bool_]


class Comparison(NamedTuple):
    """A column compared with a number, or with a word (`==` and `!=` only)."""

    column: str
    operator: str
    value: float | str

    def judge(self, column: pd.Series) -> tuple[Flags, Flags]:
        """Return for each cell whether the comparison holds, and whether it can be told.

        A missing cell (NA, `n/a`) neither equals a value nor differs from it.
        """
        known = np.asarray(column.notna() & (column != MISSING), dtype=bool)
        if isinstance(self.value, str):
            cells: Any = column.astype(object).where(known, None).to_numpy()
        else:
            cells = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
            # A word differs from every number, and is neither less nor more.
            known = known & (np.isfinite(cells) | (self.operator in ("==", "!=")))
        return np.asarray(_OPERATORS[self.operator](cells, self.value), dtype=bool) & known, known


@dataclass(frozen=True)
class Condition:
    """Alternatives (`or`) of comparisons that hold together (`and`)."""

    text: str
    alternatives: tuple[tuple[Comparison, ...], ...]

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All of them."""
        return tuple(c for part in self.alternatives for c in part)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that it looks at."""
        return tuple(dict.fromkeys(c.column for c in self.comparisons))

    def judge(self, table: pd.DataFrame) -> tuple[Flags, Flags]:
        """Return for each row whether the condition holds, and whether all its cells are known."""
        holds, known = np.zeros(len(table), dtype=bool), np.ones(len(table), dtype=bool)
        for part in self.alternatives:
            judged = [c.judge(table[c.column]) for c in part]
            holds |= np.logical_and.reduce([h for h, _ in judged])
            known &= np.logical_and.reduce([k for _, k in judged])
        return holds, known


def parse_condition(text: str, *, name: str = "condition") -> Condition:
    """Parse a condition.

    Parameters
    ----------
    text
        Comparisons. A name of a column that is no plain word stands in backticks, a value that is
        none in quotes.
    name
        What messages call it.

    Raises
    ------
    ConfigError
        If it does not follow the grammar.

    Examples
    --------
    >>> parse_condition("mean_fd > 0.5 and snr_b0 < 10 or status != complete").columns
    ('mean_fd', 'snr_b0', 'status')
    >>> parse_condition("`sex (M/F)` == 'not known'").alternatives
    ((Comparison(column='sex (M/F)', operator='==', value='not known'),),)
    >>> parse_condition("mean_fd > 0.5 + 1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    dmri_fm.errors.ConfigError: condition 'mean_fd > 0.5 + 1': '+ 1' is not `and` or `or` ...
    """
    words = _QUOTED_OR_SPACE.sub(_one_space, text).strip()
    alternatives: list[list[Comparison]] = [[]]
    place = 0
    while True:
        found = _COMPARISON.match(words, place)
        if found is None:
            raise ConfigError(
                f"{name} {words!r}: {words[place:].strip()!r} is no comparison", expected=GRAMMAR
            )
        alternatives[-1].append(_read(found, f"{name} {words!r}"))
        place = found.end()
        if place == len(words):
            return Condition(words, tuple(map(tuple, alternatives)))
        joint = _JOINT.match(words, place)
        if joint is None:
            raise ConfigError(
                f"{name} {words!r}: {words[place:]!r} is not `and` or `or` with a comparison",
                expected=GRAMMAR,
            )
        if joint[1] == "or":
            alternatives.append([])
        place = joint.end()


def _read(found: re.Match[str], where: str) -> Comparison:
    column, sign, word = found["column"].strip("`"), found["operator"], found["value"]
    is_number = _NUMBER.fullmatch(word) is not None
    if word.lstrip("-+").lower() in _NOT_FINITE or (is_number and not np.isfinite(float(word))):
        raise ConfigError(f"{where}: {word!r} is not finite", expected=GRAMMAR)
    if is_number:
        return Comparison(column, sign, float(word))
    if sign not in ("==", "!="):
        raise ConfigError(
            f"{where}: {word!r} is no number",
            expected="a number after < <= > >=; a word after == and !=",
        )
    return Comparison(column, sign, word[1:-1] if word[0] in "'\"" else word)


def _one_space(found: re.Match[str]) -> str:
    """Return quoted text unchanged, and a run of white space as one space."""
    return " " if found[0].isspace() else re.sub(r"\s", " ", found[0])
