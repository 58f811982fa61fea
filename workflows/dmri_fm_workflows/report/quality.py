"""Quality measures on the page of a participant, and their expected ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from dmri_fm_workflows.outputs.sidecars import describe_columns

__all__ = ["QualityRow", "quality_limits", "quality_rows"]

#: Values outside these ranges are marked in the quality table: lowest and highest expected, by the
#: pattern of the column's name. Those of networks start with the label of the network.
QUALITY_LIMITS: Mapping[str, tuple[float, float]] = {
    "mean_fd": (0.0, 1.0),
    "max_fd": (0.0, 5.0),
    "fa_nan_fraction": (0.0, 0.0),
    "fa_out_of_range_fraction": (0.0, 0.02),
    "*_fa_out_of_range_fraction": (0.0, 0.02),
    "*_negative_diffusivity_fraction": (0.0, 0.02),
    "*_md_bias": (0.0, 0.15),
    "*_ood_fraction": (0.0, 0.1),
    "ood_percentile": (0.0, 95.0),
    "*_ood_percentile": (0.0, 95.0),
}


@dataclass(frozen=True)
class QualityRow:
    """One measure of image quality.

    Attributes
    ----------
    name
        Column of the quality table on disk.
    value
        As written.
    unit, description
        From the tables' dictionary.
    is_flagged
        Outside the expected range.
    """

    name: str
    value: str
    unit: str
    description: str
    is_flagged: bool


def quality_limits(column: str) -> tuple[float, float] | None:
    """Return the lowest and highest expected value of a quality measure, or None.

    Examples
    --------
    >>> quality_limits("qcgdtipaper_md_bias"), quality_limits("snr_b0")
    ((0.0, 0.15), None)
    """
    return next((v for pattern, v in QUALITY_LIMITS.items() if fnmatchcase(column, pattern)), None)


def quality_rows(measures: Mapping[str, float | int | str | None]) -> tuple[QualityRow, ...]:
    """Describe measures of image quality, and mark those outside the expected range.

    Parameters
    ----------
    measures
        Columns of the quality table of one series, in order; NaN and None are written `n/a`.

    Examples
    --------
    >>> row, = quality_rows({"ood_percentile": 97.25})
    >>> row.value, row.is_flagged
    ('97.25', True)
    """
    described = describe_columns(list(measures))
    rows = []
    for name, value in measures.items():
        about = described.get(name, {})
        limits = quality_limits(name)
        number = float(value) if isinstance(value, int | float | np.number) else None
        flagged = (
            limits is not None
            and number is not None
            and bool(np.isfinite(number))
            and not limits[0] <= number <= limits[1]
        )
        rows.append(
            QualityRow(
                name=name,
                value=_written(value),
                unit=str(about.get("Units", "")),
                description=str(about.get("Description", "")),
                is_flagged=flagged,
            )
        )
    return tuple(rows)


def _written(value: float | int | str | None) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if np.isfinite(value) else "n/a"
    return str(value)
