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
    scores = score_features(held_out, tensors)
    tensors["quantiles"] = torch.from_numpy(np.percentile(scores, np.arange(101))).float()
    return tensors


def score_features(features: ArrayLike, statistics: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Return scores (...) of features (..., D): about 1 where they are like the reference."""
    parts: dict[str, NDArray[np.float64]] = {
        k: v.detach().cpu().numpy().astype(np.float64) for k, v in statistics.items()
    }
    away = np.asarray(features, dtype=np.float64) - parts["mean"]
    along = away @ parts["components"].T
    rest = np.maximum(0.0, (away**2).sum(axis=-1) - (along**2).sum(axis=-1))
    total = (along**2 / parts["variance"]).sum(axis=-1) + rest / parts["residual_variance"][0]
    scores: NDArray[np.float64] = np.sqrt(total / away.shape[-1])
    return scores


def percentile_of(scores: ArrayLike, statistics: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Return the share of held-out scans, in percent, with lower scores than each of these."""
    quantiles = statistics["quantiles"].detach().cpu().numpy().astype(np.float64)
    return np.asarray(np.interp(np.asarray(scores), quantiles, np.arange(101)))
