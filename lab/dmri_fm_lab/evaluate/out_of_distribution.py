"""Does an encoder's out-of-distribution score tell spoilt scans from sound ones?

Sound ones come from scanners, or a generator, that were not trained on: the score must not take
a new scanner for a spoilt scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.encoders.drope.encoder import encode_tokens
from dmri_fm.encoders.drope.tokens import tokenise
from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.out_of_distribution import percentile_of, score_scan
from dmri_fm.qspace import choose_spread
from dmri_fm.registry import find_model, load_weights
from dmri_fm.weights import Weights
from dmri_fm_lab.evaluate.corruptions import CORRUPTIONS, SEVERITIES
from dmri_fm_lab.evaluate.records import json_ready, markdown, versions
from dmri_fm_lab.grid_scans import EVALUATION, GridScan, ScanSources

__all__ = ["evaluate_out_of_distribution", "format_corruptions", "score_corruptions"]

#: Directions of a scan, and disjoint sets of them that are taken from it, at most.
N_DIRECTIONS, MOST_SETS = 12, 2

_NOTES = {
    "auroc": "share of pairs of a spoilt and a sound scan in which the spoilt one has the higher "
    "score; every sound scan is spoilt once in each way",
    "severities": SEVERITIES,
}


def _sets(scan: GridScan, gamma: float) -> Iterator[GridScan]:
    """Yield disjoint sets of directions of a scan."""
    left = np.arange(len(scan.gtab))
    for number in range(MOST_SETS):
        if len(left) < N_DIRECTIONS and number:
            return
        chosen = left[choose_spread(scan.gtab.select(left), N_DIRECTIONS, seed=0, gamma=gamma)]
        yield scan.select(chosen)
        left = np.setdiff1d(left, chosen)


def score_corruptions(
    loaded: Weights, scans: Iterable[GridScan], *, seed: int = 0
) -> dict[str, Any]:
    """Score sound scans and spoilt ones.

    Parameters
    ----------
    loaded
        An encoder with the statistics of its training features.
    scans
        Sound ones, on its grid.
    seed
        Of the corruptions.

    Returns
    -------
    dict
        JSON-ready. `scans`: names; `scores` and `percentiles` by corruption, "clean" among them;
        `auroc` by corruption.

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
            spoilt = {name: spoil(part, rng) for name, spoil in CORRUPTIONS.items()}
            for name, image in {"clean": part, **spoilt}.items():
                tokens = tokenise(image.signal, image.gtab, image.mask, network.config)
                ood = score_scan(encode_tokens(network, tokens).summary, loaded.statistics)
                scores[name].append(ood.score)
                indicators[name].append(dict(ood.indicators))
    if len(names) < 2:
        raise ConfigError(f"{len(names)} sound scans", expected="two or more")
    result: dict[str, Any] = json_ready(
        {
            "version": loaded.version,
            "versions": versions(),
            "notes": _NOTES,
            "scans": names,
            "scores": scores,
            "signs": indicators,
            "percentiles": {
                k: percentile_of(v, loaded.statistics).tolist() for k, v in scores.items()
            },
            "auroc": {k: auroc(scores["clean"], v) for k, v in scores.items() if k != "clean"},
        }
    )
    return result


def evaluate_out_of_distribution(
    weights: str | Path, sources: ScanSources, *, model: str = "drope"
) -> dict[str, Any]:
    """Load an encoder, and score sound scans and spoilt ones.

    Parameters
    ----------
    weights
        A `.safetensors` file, or the model's name for the weights that ship with the package.
    sources
        Sound scans.
    model
        The encoder.
    """
    grid = find_model(model, family="encoder").config.grid  # type: ignore[attr-defined]
    loaded = load_weights(weights, model=model)
    scans = sources.scans(grid, n_directions=N_DIRECTIONS)
    return score_corruptions(loaded, scans, seed=sources.seed)


def auroc(sound: list[float], spoilt: list[float]) -> float:
    """Return the share of pairs in which the spoilt one has the higher score; a tie is half.

    Examples
    --------
    >>> auroc([1.0, 2.0], [1.5, 3.0])
    0.75
    """
    apart = np.subtract.outer(np.array(spoilt), np.array(sound))
    return float(np.mean((apart > 0) + 0.5 * (apart == 0)))


def format_corruptions(found: Mapping[str, Any]) -> str:
    """Return scores by corruption as a markdown table."""
    rows = []
    for name, scores in found["scores"].items():
        auc = found["auroc"].get(name)
        rows.append(
            [
                name if name == "clean" else f"{name}: {SEVERITIES[name]}",
                *(f"{np.percentile(scores, p):.2f}" for p in (0, 50, 100)),
                f"{np.median(found['percentiles'][name]):.0f}",
                "" if auc is None else f"{auc:.2f}",
            ]
        )
    titles = [f"{len(found['scans'])} scans", "lowest score", "median", "highest"]
    return markdown([*titles, "median percentile", "AUROC"], rows)
