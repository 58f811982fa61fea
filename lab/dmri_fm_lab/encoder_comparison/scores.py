"""Scores of the rows of a comparison, and who wins: intervals decide what is a tie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm_lab.evaluate.regression import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    explained,
    predict_held_out,
)
from dmri_fm_lab.evaluate.retrieval import centred_distances, hits

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """Who is best at a task.

    Attributes
    ----------
    best
        Row of the best value; None: no row is better than chance.
    value
        Its value; the best of all rows where nobody wins.
    ties
        Rows whose difference to the best has an interval that holds zero.
    lead
        Best minus second, with its interval; None with one row.
    """

    best: str | None
    value: float
    ties: tuple[str, ...] = ()
    lead: Interval | None = None

    def describe(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "best": self.best,
            "value": self.value,
            "ties": list(self.ties),
            "lead": None if self.lead is None else list(self.lead),
        }

    def __str__(self) -> str:
        if self.best is None:
            return f"nobody is better than chance (best {self.value:.3f})"
        lead = "" if self.lead is None else f", before the next by {self.lead}"
        tied = f"; tie with {', '.join(self.ties)}" if self.ties else ""
        return f"{self.best} ({self.value:.3f}{lead}){tied}"


def probe_errors(
    vectors: Mapping[str, _Array], outcome: _Array, heads: NDArray[np.int_]
) -> dict[str, _Array]:
    """Return squared errors (N,) of held-out heads by protocol, trained on the first protocol.

    See :func:`~dmri_fm_lab.evaluate.regression.predict_held_out`.
    """
    first, *others = vectors.values()
    predicted = predict_held_out(first, outcome, heads, *others)
    return {p: (x - outcome) ** 2 for p, x in zip(vectors, predicted, strict=True)}


def best_probe(errors: Mapping[str, _Array], outcome: _Array, *, seed: int = 0) -> Verdict:
    """Return which row predicts an outcome best, by R^2 and paired bootstraps over participants.

    Parameters
    ----------
    errors
        By row, shape (N,): squared errors.
    outcome
        Shape (N,). A row that is not better than its mean, by the interval, does not win.
    seed
        Of the bootstraps.
    """
    r2 = {row: explained(own, outcome) for row, own in errors.items()}
    chance = (outcome - outcome.mean()) ** 2

    def lead(first: _Array, second: _Array) -> Interval:
        return bootstrap_difference(first, second, outcome, np.random.default_rng(seed))

    ranked = sorted(r2, key=lambda row: -r2[row])
    if lead(errors[ranked[0]], chance).low <= 0:
        return Verdict(None, r2[ranked[0]])
    return _verdict(ranked, r2, [lead(errors[ranked[0]], errors[row]) for row in ranked[1:]])


def best_share(
    hit: Mapping[str, _Array], *, lowest: bool = False, chance: float = 0.0, seed: int = 0
) -> Verdict:
    """Return which row has the largest share of hits, or the lowest, by paired bootstraps.

    Parameters
    ----------
    hit
        By row, shape (N,): 0 to 1 for each participant.
    lowest
        Whether the lowest share wins; it need not be better than `chance` then.
    chance
        Share of a guess.
    seed
        Of the bootstraps.
    """
    shares = {row: float(own.mean()) for row, own in hit.items()}
    sign = 1.0 if lowest else -1.0
    ranked = sorted(shares, key=lambda row: sign * shares[row])

    def lead(values: _Array) -> Interval:
        return bootstrap_mean(values, np.random.default_rng(seed))

    if not lowest and lead(hit[ranked[0]]).low <= chance:
        return Verdict(None, shares[ranked[0]])
    apart = [lead(sign * (hit[row] - hit[ranked[0]])) for row in ranked[1:]]
    return _verdict(ranked, shares, apart)


def _verdict(
    ranked: Sequence[str], values: Mapping[str, float], leads: Sequence[Interval]
) -> Verdict:
    ties = tuple(row for row, lead in zip(ranked[1:], leads, strict=True) if lead.low <= 0)
    return Verdict(ranked[0], values[ranked[0]], ties, leads[0] if leads else None)


def site_hits(
    vectors: _Array, sites: NDArray[np.int_], heads: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Return for each participant (N,) whether the site is told from the vector (N, D): 0 or 1.

    Ridge regressions of each site against the others, in nested cross-validation by head; the
    largest prediction names the site.
    """
    names = np.unique(sites)
    targets = [(sites == name).astype(np.float64) for name in names]
    predicted = [predict_held_out(vectors, target, heads)[0] for target in targets]
    return np.asarray(names[np.argmax(predicted, axis=0)] == sites, dtype=np.float64)


def retrieval_hits(first: _Array, second: _Array) -> _Array:
    """Return the share of both ways in which each participant (N,) is retrieved; centred."""
    return hits(centred_distances(first, second))
