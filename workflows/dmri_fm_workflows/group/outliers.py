"""Outliers among the measures of scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from dmri_fm.identity import TENSOR_NETWORKS, label_of
from dmri_fm_workflows.report.quality import quality_limits

#: A robust z-score beyond this is an outlier (Iglewicz and Hoaglin 1993).
Z_LIMIT = 3.5

#: Fewest comparable scans for an outlier score.
MIN_SCANS = 8

#: Which side of a measure is bad, first match; both sides where none fits.
_BAD_SIDES = (
    ("*corr*", "low"),
    ("*snr*", "low"),
    ("cnr*", "low"),
    ("*dice*", "low"),
    ("*fd*", "high"),
    ("*slice*", "high"),
    ("*outlier*", "high"),
    ("*fraction*", "high"),
    ("ood_*", "high"),
    ("*_ood_*", "high"),
)

#: Measures that depend on the b-values, to be compared within a protocol only.
_OF_PROTOCOL = (
    *("*corr*", "*snr*", "cnr*"),
    *(f"{label_of(model)}_*" for model in ("tensor", *TENSOR_NETWORKS)),
)


@dataclass(frozen=True)
class Flag:
    """An outlier: a measure of a scan.

    Attributes
    ----------
    row
        Position of the scan in its table.
    column
        The measure.
    value
        As written in the table.
    reason
        Expected range, or distance from the other scans.
    """

    row: int
    column: str
    value: str
    reason: str


def robust_z(values: ArrayLike) -> NDArray[np.float64]:
    """Return modified z-scores: distance from the median in units of the spread around it.

    Parameters
    ----------
    values
        Shape (N,); NaN stays NaN.

    Returns
    -------
    ndarray
        Shape (N,). The spread is the median absolute deviation, or the mean one where more than
        half of the values are equal; without any spread all scores are 0.

    Examples
    --------
    >>> robust_z([1, 2, 3, 4, 100]).round(1).tolist()
    [-1.3, -0.7, 0.0, 0.7, 65.4]
    >>> robust_z([5, 5, 5]).tolist()
    [0.0, 0.0, 0.0]
    """
    data = np.asarray(values, dtype=np.float64)
    known = data[np.isfinite(data)]
    if known.size == 0:
        return np.full(data.shape, np.nan)
    away = data - np.median(known)
    spread = np.median(np.abs(away[np.isfinite(away)])) / 0.6745
    if spread == 0:
        spread = np.abs(away[np.isfinite(away)]).mean() * 1.2533
    return away / spread if spread > 0 else np.where(np.isfinite(data), 0.0, np.nan)


def bad_side(column: str) -> str:
    """Return `low`, `high` or `both`: on which side of a measure trouble lies."""
    return next((side for pattern, side in _BAD_SIDES if fnmatchcase(column, pattern)), "both")


def flag_scans(
    table: pd.DataFrame, columns: list[str], *, protocol: Mapping[int, str] | None = None
) -> tuple[Flag, ...]:
    """Find measures outside their limits, or far from those of comparable scans.

    Parameters
    ----------
    table
        One row per scan, cells as text.
    columns
        Measures to look at.
    protocol
        Protocol of each row; measures that depend on b-values are compared within one. All rows
        are one protocol by default.

    Returns
    -------
    tuple
        Flags by row, then by column.
    """
    flags = []
    for column in columns:
        numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
        scores = np.full(len(numbers), np.nan)
        is_of_protocol = any(fnmatchcase(column, p) for p in _OF_PROTOCOL)
        groups = [(protocol or {}).get(i, "") if is_of_protocol else "" for i in range(len(table))]
        for group in dict.fromkeys(groups):
            rows = np.flatnonzero([g == group for g in groups])
            if np.isfinite(numbers[rows]).sum() >= MIN_SCANS:
                scores[rows] = robust_z(numbers[rows])
        side = bad_side(column)
        low, high = quality_limits(column)
        for row, (number, score) in enumerate(zip(numbers, scores, strict=True)):
            if not np.isfinite(number):
                continue
            value = str(table[column].iloc[row])
            if not low <= number <= high:
                flags.append(Flag(row, column, value, f"expected {low:g} to {high:g}"))
            elif (score > Z_LIMIT and side != "low") or (score < -Z_LIMIT and side != "high"):
                word = "above" if score > 0 else "below"
                reason = f"{abs(score):.1f} robust standard deviations {word} the other scans"
                flags.append(Flag(row, column, value, reason))
    return tuple(sorted(flags, key=lambda f: (f.row, columns.index(f.column))))
