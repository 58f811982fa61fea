"""Retrieval and probes of features: do they depend on the brain, and not on the protocol?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dmri_fm_lab.prediction.ridge import PENALTIES

#: Folds over brains.
N_FOLDS = 5

#: Principal components of the looked-up protocol, and of the one that it is linked to.
LINK_FROM, LINK_TO = 40, 6

_Array = NDArray[np.float64]


def agreement(first: _Array, second: _Array) -> dict[str, float]:
    """Compare two feature vectors: cosine, and distance over their mean length.

    Examples
    --------
    >>> agreement(np.array([3.0, 4.0]), np.array([3.0, 4.0]))
    {'cosine': 1.0, 'relative_distance': 0.0}
    """
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    return {
        "cosine": float(first @ second / (lengths[0] * lengths[1])),
        "relative_distance": float(np.linalg.norm(first - second) / np.mean(lengths)),
    }


def rank_one(distances: _Array) -> float:
    """Return how often the nearest scan of the other protocol is the same brain, both ways.

    Parameters
    ----------
    distances
        Shape (N, N): between the scans of two protocols, brains in one order. A tie is a miss.

    Examples
    --------
    >>> rank_one(np.array([[0.1, 0.9], [0.2, 0.3]]))
    0.75
    """
    return float(hits(distances).mean())


def hits(distances: _Array) -> _Array:
    """Return the share of the two ways in which each brain is retrieved (N,); :func:`rank_one`."""
    own = np.diag(distances)
    others = distances + np.diag(np.full(len(own), np.inf))
    return np.asarray(np.mean([own < others.min(axis=1), own < others.min(axis=0)], axis=0))


def retrieve(first: _Array, second: _Array) -> dict[str, float]:
    """Look each brain up in a gallery scanned with another protocol.

    Parameters
    ----------
    first, second
        Shape (N, D): features of the same brains by two protocols.

    Returns
    -------
    dict
        `raw`: rank-1 by Euclidean distance. `centred`: rank-1 by correlation, after each feature
        was standardised over the brains of its protocol, which removes what all scans of a
        protocol share. `chance`.
    """
    square = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None]
    return {
        "raw": rank_one(square - 2 * first @ second.T),
        "centred": rank_one(centred_distances(first, second)),
        "chance": 1.0 / len(first),
    }


def centred_distances(first: _Array, second: _Array) -> _Array:
    """Return minus the correlations (N, M) of scans (N, D) and (M, D).

    Each feature is standardised over the scans of its set.
    """
    a, b = (_standardise(x) for x in (first, second))
    return np.asarray(-_unit(a) @ _unit(b).T)


def retrieve_linked(first: _Array, second: _Array, *, seed: int = 0) -> float:
    """Look each brain up in another protocol's gallery, through a map that other brains taught.

    A ridge regression from the second protocol's features to the first's is learnt on four fifths
    of the brains, scanned by both. The other brains are looked up among all, by the Mahalanobis
    distance of the regression's cross-validated residuals. The score shows how much of the tissue
    features keep in both protocols. Principal components are those of all brains of a protocol,
    which needs no identities: with components of the training brains alone, the others would lie
    apart.

    Parameters
    ----------
    first, second
        Shape (N, D): features of the same brains by two protocols.
    seed
        Seed of the folds.

    Returns
    -------
    float
        Rank-1 of the brains outside the training folds.
    """
    from sklearn.covariance import LedoitWolf
    from sklearn.decomposition import PCA
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    most = min(len(first) // 2, first.shape[1])
    y, x = (
        PCA(min(n, most), svd_solver="full").fit_transform(_standardise(features))
        for n, features in ((LINK_TO, first), (LINK_FROM, second))
    )
    distances = np.zeros((len(y), len(y)))
    link = RidgeCV(alphas=PENALTIES)
    for train, test in KFold(N_FOLDS, shuffle=True, random_state=seed).split(y):
        rest = y[train] - cross_val_predict(link, x[train], y[train], cv=N_FOLDS)
        precision = LedoitWolf(assume_centered=True).fit(rest).precision_
        apart = y[:, None] - link.fit(x[train], y[train]).predict(x[test])[None]
        distances[:, test] = np.einsum("ijk,kl,ijl->ij", apart, precision, apart)
    return rank_one(distances)


def _standardise(features: _Array) -> _Array:
    spread = features.std(axis=0)
    centred = features - features.mean(axis=0)
    return np.asarray(np.divide(centred, spread, where=spread > 0, out=np.zeros_like(centred)))


def _unit(features: _Array) -> _Array:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-30))


def probe(features: Sequence[_Array], targets: _Array, *, seed: int = 0) -> tuple[_Array, _Array]:
    """Predict quantities by ridge regression, trained on one protocol, tested on all.

    Five folds over brains; the penalty is chosen for each quantity by leave-one-out within the
    training part. No test brain is trained on, by any protocol.

    Parameters
    ----------
    features
        Features of each protocol, shape (N, D); the first protocol is the training one.
    targets
        Shape (N, K).
    seed
        Seed of the folds.

    Returns
    -------
    raw, centred
        Shape (protocols, K): R^2 of the pooled held-out predictions; of raw features, and of
        features standardised over the brains of each protocol.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    ridge = RidgeCV(alphas=PENALTIES, alpha_per_target=True)
    scores = []
    for sets in (list(features), [_standardise(x) for x in features]):
        predicted = np.zeros((len(sets), *targets.shape))
        folds = KFold(N_FOLDS, shuffle=True, random_state=seed)
        for train, test in folds.split(targets):
            model = make_pipeline(StandardScaler(), ridge).fit(sets[0][train], targets[train])
            for k, x in enumerate(sets):
                predicted[k, test] = model.predict(x[test])
        scores.append([r2_score(targets, rows, multioutput="raw_values") for rows in predicted])
    return np.array(scores[0]), np.array(scores[1])
