"""Targets of predictions: numbers, or two classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm_lab.prediction.metrics import TaskType
from dmri_fm_lab.scan_tables import Cohort, listed
from dmri_fm_lab.table_cells import level_text
from dmri_fm_workflows.outputs.tsv import MISSING


def choose_classes(cohort: Cohort, target: str, classes: Sequence[str]) -> Cohort:
    """Leave out the scans of participants of other classes; none if `classes` is empty.

    Raises ConfigError if there are not two classes.
    """
    if not classes:
        return cohort
    if len(set(classes)) != 2:
        raise ConfigError(
            f"classes {listed(classes)}", expected="two: the negative and the positive"
        )
    first, second = classes
    for value in sorted(set(cohort.people[target].map(level_text)) - set(classes)):
        is_other = cohort.people[target].map(level_text) == value
        cohort = cohort.keep(~is_other, f"{target} is {value}, not {first} or {second}")
    if not len(cohort):
        raise ConfigError(f"{target} is never {first} or {second}", expected="both classes")
    return cohort


def read_target(
    values: pd.Series, classes: Sequence[str]
) -> tuple[NDArray[Any], TaskType, tuple[str, ...]]:
    """Return a target as numbers or as True and False, its type, and its classes.

    Text has classes, and so have numbers of two different values; other numbers are numbers.

    Raises
    ------
    ConfigError
        If the target is constant, or is text of more than two values; where most of these are
        numbers, the others are named.
    """
    texts = values.map(level_text)
    found = sorted(set(texts))
    if len(found) < 2:
        raise ConfigError(
            f"{values.name} is {listed(found) or 'missing'} for all of {len(values)} rows",
            expected="a target that varies",
        )
    if not classes and len(found) > 2:
        if pd.api.types.is_numeric_dtype(values):
            return values.to_numpy(dtype=np.float64), "regression", ()
        _check_numbers(values)
        raise ConfigError(
            f"{values.name} has {len(found)} classes: {listed(found)}",
            expected="two classes, or numbers",
            advice="name the negative and the positive class by --classes",
        )
    negative, positive = classes or found
    return (texts == positive).to_numpy(), "classification", (negative, positive)


def _check_numbers(values: pd.Series) -> None:
    """Raise ConfigError if most values of a column of text are numbers, naming the others."""
    others = values[pd.to_numeric(values, errors="coerce").isna()]
    if 2 * len(others) < len(values):
        cells = [f"{value} ({row})" for row, value in others.items()]
        raise ConfigError(
            f"{values.name} has numbers but for {len(others)} of {len(values)} rows: "
            f"{listed(cells)}",
            expected="numbers, or two classes",
            advice=f"mend these cells, or write {MISSING} where the value is not known",
        )
