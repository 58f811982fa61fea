"""Scores of a tensor estimate against a reference: errors, biases, coverage of intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dmri_fm.tensor_maps import NORMAL_90, TensorMaps
from dmri_fm_lab.evaluate.reference import Reference
from dmri_fm_lab.evaluate.tensor_errors import axis_angle_deg, tensor_errors

#: Scores of one method in one region, by name; None where a score cannot be computed.
Row = dict[str, float | None]

#: Bins of the reference's FA in which intervals are checked.
FA_BINS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)

#: Fewest voxels of a score.
FEWEST_VOXELS = 20

#: Scores with a sign, the best of which is the nearest to zero.
SIGNED = ("fa_bias", "fa_bias_corrected", "md_bias")


def subtract_noise(mean_square: float, variance: float) -> float:
    """Return the root of a mean square without the reference's noise, zero at least.

    Examples
    --------
    >>> subtract_noise(25.0, 16.0), subtract_noise(1.0, 4.0)
    (3.0, 0.0)
    """
    return math.sqrt(max(mean_square - variance, 0.0))


def score(estimate: TensorMaps, reference: Reference) -> dict[str, Row]:
    """Compare an estimate with a reference, in tissue, white and grey matter.

    Parameters
    ----------
    estimate
        On the grid of the reference.
    reference
        Tensor with its noise and the regions.

    Returns
    -------
    dict
        By region. Mean absolute errors: `tensor` (sum of six elements), `fa`, `md`, `ad`, `rd`
        (mm^2/s); `v1_deg`, angle of the main axes everywhere and `v1_deg_fa03` where the
        reference's FA is above 0.3; `fa_bias`, `md_bias`; root mean squares `fa_rmse`,
        `md_rmse`; with `_corrected`, without the reference's noise. `fa_coverage` and
        `md_coverage` where the estimate has standard deviations: share of voxels whose 90 %
        interval holds the reference, its noise allowed for; `fa_half_width`, `md_half_width`:
        mean half-width of the intervals. None where the reference has no tensor: `tensor`, `v1`.
    """
    rows = {}
    for name, region in reference.regions.items():
        inside = region & estimate.mask & reference.maps.mask
        rows[name] = (
            _score_region(estimate, reference, inside) if inside.sum() >= FEWEST_VOXELS else {}
        )
    return rows


def _score_region(estimate: TensorMaps, reference: Reference, region: NDArray[np.bool_]) -> Row:
    truth = reference.maps
    errors = tensor_errors(estimate, truth, mask=region)
    row: Row = {"tensor": errors.tensor if reference.has_tensor else None}
    for name in ("fa", "md", "ad", "rd"):
        row[name] = getattr(errors, name).mean_absolute
    angle = axis_angle_deg(estimate.v1[region], truth.v1[region])
    row["v1_deg"] = float(angle.mean()) if reference.has_tensor else None
    has_axes = reference.has_tensor and errors.n_axes >= FEWEST_VOXELS
    row["v1_deg_fa03"] = errors.v1_angle_deg if has_axes else None
    for name in ("fa", "md"):
        scalar = getattr(errors, name)
        row[f"{name}_bias"] = scalar.bias
        row[f"{name}_rmse"] = scalar.root_mean_square
        if name == "fa" and reference.noise is not None:
            own = reference.noise.fa_bias[region[reference.regions.tissue]]
            row["fa_bias_corrected"] = scalar.bias + float(own.mean())
        if not reference.is_truth:
            variance = _variance(reference, name, region)
            row[f"{name}_rmse_corrected"] = (
                None
                if variance is None
                else subtract_noise(scalar.root_mean_square**2, float(variance.mean()))
            )
    row |= interval_coverage(estimate, reference, region)
    return row


def _variance(
    reference: Reference, name: str, region: NDArray[np.bool_]
) -> NDArray[np.float64] | None:
    """Return the variance of the reference in a region's voxels."""
    if reference.is_truth:
        return np.zeros(int(region.sum()))
    if reference.noise is None:
        return None
    return reference.noise.variance[name][region[reference.regions.tissue]]


def interval_coverage(
    estimate: TensorMaps, reference: Reference, region: NDArray[np.bool_]
) -> Row:
    """Return how often 90 % intervals of an estimate hold the reference, also by bin of its FA.

    Empty where the estimate has no standard deviations, or the reference's noise is unknown.
    """
    row: Row = {}
    fa = reference.maps.fa[region]
    for name in ("fa", "md"):
        variance = _variance(reference, name, region)
        if estimate.std is None or name not in estimate.std or variance is None:
            continue
        std = estimate.std[name][region].astype(np.float64)
        apart = getattr(estimate, name)[region].astype(np.float64)
        apart = apart - getattr(reference.maps, name)[region]
        holds = np.abs(apart) <= NORMAL_90 * np.sqrt(std**2 + variance)
        row[f"{name}_coverage"] = float(holds.mean())
        row[f"{name}_half_width"] = float(NORMAL_90 * std.mean())
        for low, high in pairwise(FA_BINS):
            here = (fa >= low) & ((fa < high) | (high == FA_BINS[-1]))
            enough = here.sum() >= FEWEST_VOXELS
            label = f"{name}_coverage_fa{low:g}-{high:g}"
            row[label] = float(holds[here].mean()) if enough else None
    return row


def best_of(rows: Sequence[Mapping[str, float | None]]) -> Row:
    """Return the best of each score over the rows, as an oracle chooses.

    Examples
    --------
    >>> best_of([{"fa": 0.2, "fa_bias": 0.1}, {"fa": 0.3, "fa_bias": -0.05}])
    {'fa': 0.2, 'fa_bias': -0.05}
    """
    best: Row = {}
    for name in rows[0]:
        values = [v for row in rows if (v := row.get(name)) is not None]
        key = abs if name in SIGNED else float
        best[name] = min(values, key=key) if values else None
    return best


def mean_rows(rows: Sequence[Mapping[str, float | None]]) -> Row:
    """Return the mean of each score over the rows that have it.

    Examples
    --------
    >>> mean_rows([{"fa": 0.25}, {"fa": 0.75, "md": None}])
    {'fa': 0.5, 'md': None}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    means: Row = {}
    for name in names:
        values = [v for row in rows if (v := row.get(name)) is not None]
        means[name] = sum(values) / len(values) if values else None
    return means
