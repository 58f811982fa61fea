"""Columns as numbers: rank-based inverse normal transform, two classes, indicator columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from dmri_fm.errors import ConfigError
from dmri_fm_lab.scan_tables import listed
from dmri_fm_lab.table_cells import level_text

#: Offset of Blom's normal scores (1958, Statistical Estimates and Transformed Beta-Variables).
BLOM_OFFSET = 3 / 8


def inverse_normal(values: ArrayLike) -> NDArray[np.float64]:
    """Return rank-based normal scores: the normal quantile of (rank - 3/8) / (n + 1/4).

    Parameters
    ----------
    values
        Shape (N,); ties share their mean rank, NaN stays NaN.

    Examples
    --------
    >>> inverse_normal([10, 30, 20, np.nan]).round(4).tolist()
    [-0.8694, 0.8694, 0.0, nan]
    """
    data = np.asarray(values, dtype=np.float64)
    known = np.isfinite(data)
    scores = np.full(data.shape, np.nan)
    share = (rankdata(data[known]) - BLOM_OFFSET) / (known.sum() + 1 - 2 * BLOM_OFFSET)
    scores[known] = norm.ppf(share)
    return scores


def as_cases(column: pd.Series, case: str) -> pd.Series:
    """Return 1 for cases, 0 for the other class, NaN where it is missing.

    Parameters
    ----------
    column
        Text, or numbers, of two classes.
    case
        The class that counts as case.

    Raises
    ------
    ConfigError
        If the column has not two classes, or `case` is none of them.
    """
    known = column.dropna()
    words = known.map(level_text)
    levels = sorted(words.unique())
    if len(levels) != 2 or case not in levels:
        raise ConfigError(
            f"binary trait {column.name}={case}: the column has {len(levels)} classes: "
            f"{listed(levels)}",
            expected="two classes, one of them the case",
            advice="leave other participants out by --where, or write their cells as n/a",
        )
    return (words == case).astype(np.float64).reindex(column.index)


def as_numbers(column: pd.Series) -> tuple[pd.DataFrame, str]:
    """Return a covariate as columns of numbers, and how they are coded.

    Text of K levels becomes K - 1 indicator columns `<name>_<level>`; the first level in order of
    the alphabet is the reference.

    Raises ConfigError if text has one level, or more than 30 (is it an identifier?).
    """
    name = str(column.name)
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(np.float64).to_frame(), "as it stands"
    levels = sorted(column.dropna().unique())
    if not 2 <= len(levels) <= 30:
        raise ConfigError(
            f"covariate {name} has {len(levels)} levels: {listed(levels)}",
            expected="a number, or text of 2 to 30 levels",
        )
    known = column.notna()
    found = {
        f"{name}_{level}": (column == level).astype(np.float64).where(known)
        for level in levels[1:]
    }
    return pd.DataFrame(
        found, index=column.index
    ), f"1 where {name} is the level; {levels[0]} is 0"
