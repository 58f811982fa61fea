"""Image quality on the pages: expected ranges of the measures, and rows of the table."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np

from dmri_fm_workflows.outputs.sidecars import describe_columns
from dmri_fm_workflows.outputs.tsv import MISSING
from dmri_fm_workflows.report.content import QualityRow

#: Lowest and highest expected value of a measure, by the pattern of its column. Measures of
#: networks start with the label of the network.
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


def quality_limits(column: str) -> tuple[float, float]:
    """Return the lowest and highest expected value of a quality measure; infinite where unknown.

    Examples
    --------
    >>> quality_limits("qcgdtipaper_md_bias"), quality_limits("snr_b0")
    ((0.0, 0.15), (-inf, inf))
    """
    fitting = (v for pattern, v in QUALITY_LIMITS.items() if fnmatchcase(column, pattern))
    return next(fitting, (-np.inf, np.inf))


def quality_rows(
    measures: Mapping[str, float | int | str | None], reasons: Mapping[str, str] | None = None
) -> tuple[QualityRow, ...]:
    """Describe measures of image quality, and mark those outside the expected range.

    Parameters
    ----------
    measures
        Columns of the quality table of one series, in order; NaN and None are written `n/a`.
    reasons
        Reason by measure that could not be known; it follows the description.

    Examples
    --------
    >>> row, = quality_rows({"ood_percentile": 97.25})
    >>> row.value, row.is_flagged
    ('97.25', True)
    """
    described = describe_columns(list(measures))
    return tuple(
        QualityRow(
            name=name,
            value=_written(value),
            unit=described.get(name, {}).get("Units", ""),
            description="; ".join(
                part
                for part in (
                    described.get(name, {}).get("Description", ""),
                    (reasons or {}).get(name, ""),
                )
                if part
            ),
            is_flagged=_is_outside(value, *quality_limits(name)),
        )
        for name, value in measures.items()
    )


def _is_outside(value: float | int | str | None, low: float, high: float) -> bool:
    number = float(value) if isinstance(value, int | float | np.number) else np.nan
    return bool(np.isfinite(number)) and not low <= number <= high


def _written(value: float | int | str | None) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.4g}" if np.isfinite(value) else MISSING
    return MISSING if value is None else str(value)
