"""Out-of-distribution (OOD) scores: how unlike a network's training data an input is.

Features are scored by a Mahalanobis distance: along the main components of the training features
by their variances, in all other directions by the mean of the remaining variance, over the root of
the number of features.

Features that do not depend on the protocol miss much of the damage of a scan. So whole scans have
indicators, too: numbers that need no network and grow with the damage. Distance and indicators are
put on one scale, and the largest is the score of the scan. An encoder whose distance tells
scanners apart rather than damage leaves it out of the score; it stands among the indicators.

Percentiles are those of held-out training data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

#: Statistics of training features, as :func:`fit_reference` or :func:`fit_scan_reference` return
#: them. They are stored with the weights under these names.
Reference = Mapping[str, Tensor]

#: Names of the statistics of :func:`fit_reference`, and of those that
#: :func:`fit_scan_reference` adds.
FEATURE_STATISTICS = ("mean", "components", "variance", "residual_variance", "quantiles")
SCAN_STATISTICS = (*FEATURE_STATISTICS, "middle", "scale")

#: Largest number of components, which is also at most a quarter of the number of scans.
MOST_COMPONENTS = 16

#: Smallest variance along a direction, as a share of the total variance per direction.
SMALLEST_SHARE = 1e-4

#: Percentile of held-out scans at which a scaled indicator reaches 1; at their median it is 0.
UPPER_QUANTILE = 0.8

#: Name of the distance of features among the indicators.
DISTANCE = "tokens"


def fit_reference(training: ArrayLike, held_out: ArrayLike) -> dict[str, Tensor]:
    """Fit the distribution of training features, and score held-out ones for the percentiles.

    Parameters
    ----------
    training, held_out
        Shape (N, D): features of two disjoint sets of scans, or of voxels.

    Returns
    -------
    dict
        `mean` (D,), `components` (K, D), `variance` (K,), `residual_variance` (1,) and
        `quantiles` (101,): scores at the percentiles 0 to 100 of the held-out features.
    """
    features = np.asarray(training, dtype=np.float64)
    n_scans, n_features = features.shape
    mean = features.mean(axis=0)
    _, singular, components = np.linalg.svd(features - mean, full_matrices=False)
    variance = singular**2 / max(1, n_scans - 1)
    k = max(1, min(MOST_COMPONENTS, n_scans // 4))
    floor = max(SMALLEST_SHARE * variance.sum() / n_features, 1e-12)
    residual = max(variance[k:].sum() / max(1, n_features - k), floor)
    statistics = {
        "mean": mean,
        "components": components[:k],
        "variance": np.maximum(variance[:k], floor),
        "residual_variance": np.array([residual]),
        "quantiles": np.zeros(101),
    }
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)).float() for k, v in statistics.items()}
    scores = score_features(held_out, tensors)
    tensors["quantiles"] = torch.from_numpy(np.percentile(scores, np.arange(101))).float()
    return tensors


def score_features(features: ArrayLike, reference: Reference) -> NDArray[np.float64]:
    """Return scores (...) of features (..., D): about 1 where they are like the reference."""
    parts: dict[str, NDArray[np.float64]] = {
        k: v.detach().cpu().numpy().astype(np.float64) for k, v in reference.items()
    }
    away = np.asarray(features, dtype=np.float64) - parts["mean"]
    along = away @ parts["components"].T
    rest = np.maximum(0.0, (away**2).sum(axis=-1) - (along**2).sum(axis=-1))
    total = (along**2 / parts["variance"]).sum(axis=-1) + rest / parts["residual_variance"][0]
    scores: NDArray[np.float64] = np.sqrt(total / away.shape[-1])
    return scores


def percentile_of(scores: ArrayLike, reference: Reference) -> NDArray[np.float64]:
    """Return the percentage of held-out training data with a lower score than each of these."""
    quantiles = reference["quantiles"].detach().cpu().numpy().astype(np.float64)
    return np.asarray(np.interp(np.asarray(scores), quantiles, np.arange(101)))


class ScanSummary(NamedTuple):
    """Numbers of a scan that its OOD score is computed from."""

    code: NDArray[np.float32]  # (D,) features that are compared with those of training scans
    indicators: Mapping[str, float]  # further numbers, growing with damage; NaN where unknown
    counts_distance: bool = True  # whether the distance of the code counts for the score


class ScanOod(NamedTuple):
    """Out-of-distribution score of a scan.

    Attributes
    ----------
    score
        Largest indicator, of those that count; NaN without a reference.
    percentile
        Percentage of held-out training scans with a lower score; NaN without a reference.
    indicators
        The distance of features, :data:`DISTANCE`, and the scan's indicators, each scaled: 0 at
        the median of held-out training scans, 1 at their :data:`UPPER_QUANTILE`; None if unknown.
    """

    score: float = float("nan")
    percentile: float = float("nan")
    indicators: Mapping[str, float | None] = {}


def fit_scan_reference(
    training: Sequence[ScanSummary], held_out: Sequence[ScanSummary]
) -> dict[str, Tensor]:
    """Fit the distribution of training scans.

    Parameters
    ----------
    training, held_out
        Two disjoint sets of scans with the same indicators.

    Returns
    -------
    dict
        The statistics of :func:`fit_reference`; `middle` and `scale` (1 + K,) of the distance
        and the K indicators; `quantiles` (101,) of the scores of held-out scans.
    """
    reference = fit_reference([s.code for s in training], [s.code for s in held_out])
    rows = np.stack([_raw_indicators(s, reference) for s in held_out])
    rows[:, np.isnan(rows).all(axis=0)] = 0.0
    middle, upper = np.nanquantile(rows, [0.5, UPPER_QUANTILE], axis=0)
    reference["middle"] = torch.from_numpy(middle).float()
    reference["scale"] = torch.from_numpy(np.maximum(upper - middle, 1e-3)).float()
    scores = [_largest(s, _scaled_indicators(s, reference)) for s in held_out]
    reference["quantiles"] = torch.from_numpy(np.percentile(scores, np.arange(101))).float()
    return reference


def score_scan(scan: ScanSummary, reference: Reference | None) -> ScanOod:
    """Score a scan against training scans; no score without a reference."""
    if reference is None:
        return ScanOod()
    scaled = _scaled_indicators(scan, reference)
    known = (None if np.isnan(s) else round(float(s), 3) for s in scaled)
    score = _largest(scan, scaled)
    return ScanOod(
        score,
        float(percentile_of(score, reference)),
        dict(zip((DISTANCE, *scan.indicators), known, strict=True)),
    )


def _raw_indicators(scan: ScanSummary, reference: Reference) -> NDArray[np.float64]:
    return np.array([float(score_features(scan.code, reference)), *scan.indicators.values()])


def _scaled_indicators(scan: ScanSummary, reference: Reference) -> NDArray[np.float64]:
    middle, scale = (reference[k].numpy().astype(np.float64) for k in ("middle", "scale"))
    scaled: NDArray[np.float64] = (_raw_indicators(scan, reference) - middle) / scale
    return scaled


def _largest(scan: ScanSummary, scaled: NDArray[np.float64]) -> float:
    """Return the largest indicator of those that count."""
    return float(np.nanmax(scaled if scan.counts_distance else scaled[1:]))
