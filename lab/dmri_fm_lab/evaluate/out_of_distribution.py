"""Out-of-distribution score of an encoder: does it tell corrupted scans from intact ones?

Intact scans come from scanners, or a generator, that were not trained on: a new scanner by itself
must not raise the score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from dmri_fm.encoders.drope.encoder import encode_tokens
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.out_of_distribution import percentile_of, score_scan
from dmri_fm.qspace import choose_spread, one_of_each_direction
from dmri_fm.weights import Weights
from dmri_fm_lab.evaluate.corruptions import CORRUPTIONS, SEVERITIES
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.grid_scans import EVALUATION, GridScan
from dmri_fm_lab.markdown_tables import markdown

#: Directions of a set, and the largest number of disjoint sets that are taken from a scan.
N_DIRECTIONS, MOST_SETS = 12, 2

_NOTES = {
    "auroc": "share of pairs of a corrupted and an intact scan in which the corrupted one has the "
    "higher score; every intact scan is corrupted once in each way",
    "severities": SEVERITIES,
}


def _sets(scan: GridScan, gamma: float) -> Iterator[GridScan]:
    """Yield disjoint sets of distinct directions of a scan."""
    left = one_of_each_direction(scan.gtab)
    for number in range(MOST_SETS):
        if len(left) < N_DIRECTIONS and number:
            return
        chosen = left[choose_spread(scan.gtab.select(left), N_DIRECTIONS, seed=0, gamma=gamma)]
        yield scan.select(chosen)
        left = np.setdiff1d(left, chosen)


def score_corruptions(
    loaded: Weights, scans: Iterable[GridScan], *, seed: int = 0
) -> dict[str, Any]:
    """Score intact scans and their corruptions.

    Parameters
    ----------
    loaded
        An encoder with the statistics of its training features.
    scans
        Intact scans on its grid.
    seed
        Seed of the corruptions.

    Returns
    -------
    dict
        JSON-ready. `scans`: names; `scores`, `indicators` and `percentiles` by corruption, "clean"
        among them; `auroc` by corruption.

    Raises
    ------
    ConfigError
        If there are fewer than two scans.
    WeightsError
        If the weights hold no statistics.
    """
    if not loaded.statistics:
        raise WeightsError("weights without statistics of features", expected="a trained encoder")
    network: Any = loaded.model
    names: list[str] = []
    scores: dict[str, list[float]] = {name: [] for name in ("clean", *CORRUPTIONS)}
    indicators: dict[str, list[dict[str, float | None]]] = {name: [] for name in scores}
    for scan in scans:
        for number, part in enumerate(_sets(scan, network.config.gamma)):
            names.append(f"{scan.name}, set {number + 1}")
            rng = np.random.default_rng([EVALUATION, 4, seed, len(names)])
            corrupted = {name: corrupt(part, rng) for name, corrupt in CORRUPTIONS.items()}
            for name, image in {"clean": part, **corrupted}.items():
                tokens = tokenise(image.signal, image.gtab, image.mask, network.config)
                ood = score_scan(encode_tokens(network, tokens).summary, loaded.statistics)
                scores[name].append(ood.score)
                indicators[name].append(dict(ood.indicators))
    if len(names) < 2:
        raise ConfigError(f"{len(names)} intact scans", expected="two or more")
    return json_ready(
        {
            "version": loaded.version,
            "versions": versions(),
            "notes": _NOTES,
            "scans": names,
            "scores": scores,
            "indicators": indicators,
            "percentiles": {
                k: percentile_of(v, loaded.statistics).tolist() for k, v in scores.items()
            },
            "auroc": {k: auroc(scores["clean"], v) for k, v in scores.items() if k != "clean"},
        }
    )


def auroc(intact: list[float], corrupted: list[float]) -> float:
    """Return the share of pairs in which the corrupted scan scores higher; a tie is half.

    Examples
    --------
    >>> auroc([1.0, 2.0], [1.5, 3.0])
    0.75
    """
    apart = np.subtract.outer(np.array(corrupted), np.array(intact))
    return float(np.mean((apart > 0) + 0.5 * (apart == 0)))


def format_corruptions(record: Mapping[str, Any]) -> str:
    """Return scores by corruption as a markdown table."""
    titles = [f"{len(record['scans'])} scans", "lowest score", "median", "highest"]
    lines = [[*titles, "median percentile", "AUROC"]]
    for name, scores in record["scores"].items():
        auc = record["auroc"].get(name)
        lines.append(
            [
                name if name == "clean" else f"{name}: {SEVERITIES[name]}",
                *(f"{np.percentile(scores, p):.2f}" for p in (0, 50, 100)),
                f"{np.median(record['percentiles'][name]):.0f}",
                "" if auc is None else f"{auc:.2f}",
            ]
        )
    return markdown(lines)
