"""How unlike the training scans a scan's features are.

The score is a Mahalanobis distance: along the main components of the reference features by their
variances, in all other directions by the mean of the remaining variance, over the root of
the number of features. Its percentile is read off scores of held-out scans.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["fit_familiarity", "percentile_of", "score_features"]

#: At most so many components are kept, and at most a quarter of the number of scans.
MOST_COMPONENTS = 16

#: Share of the total variance, per direction, that no variance falls below.
SMALLEST_SHARE = 1e-4


def fit_familiarity(reference: ArrayLike, held_out: ArrayLike) -> dict[str, Tensor]:
    """Describe reference features, and score held-out ones for the percentiles.

    Parameters
    ----------
    reference, held_out
        Shape (scans, D): features of two disjoint sets of scans.

    Returns
    -------
    dict
        `mean` (D,), `components` (K, D), `variance` (K,), `residual_variance` (1,) and
        `quantiles` (101,): scores at the percentiles 0 to 100 of the held-out scans.
    """
    features = np.asarray(reference, dtype=np.float64)
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
    scores = np.array([score_features(row, tensors) for row in np.asarray(held_out)])
    tensors["quantiles"] = torch.from_numpy(np.percentile(scores, np.arange(101))).float()
    return tensors


def score_features(features: ArrayLike, statistics: Mapping[str, Tensor]) -> float:
    """Return the score of one scan's features (D,): about 1 for a scan like the reference."""
    parts: dict[str, NDArray[np.float64]] = {
        k: v.detach().cpu().numpy().astype(np.float64) for k, v in statistics.items()
    }
    away = np.asarray(features, dtype=np.float64) - parts["mean"]
    along = parts["components"] @ away
    rest = max(0.0, float(away @ away - along @ along))
    total = (along**2 / parts["variance"]).sum() + rest / float(parts["residual_variance"][0])
    return float(np.sqrt(total / away.size))


def percentile_of(score: float, statistics: Mapping[str, Tensor]) -> float:
    """Return the share of held-out scans, in percent, with a lower score."""
    quantiles = statistics["quantiles"].detach().cpu().numpy().astype(np.float64)
    return float(np.interp(score, quantiles, np.arange(101)))
