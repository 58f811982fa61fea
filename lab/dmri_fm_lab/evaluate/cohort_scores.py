"""Scores of a simulated cohort: features against baselines, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm_lab.evaluate.regression import (
    HOLD_OUTS,
    Interval,
    bootstrap_difference,
    explained,
    hold_out_correlations,
    squared_errors,
)
from dmri_fm_lab.evaluate.representations import FEATURES, known_columns
from dmri_fm_lab.markdown_tables import markdown

#: Features and baselines, in the order of tables.
PREDICTORS = {
    "both": FEATURES["both"],
    "cls": FEATURES["cls"],
    "pooled": FEATURES["pooled"],
    "start_both": FEATURES["start_both"],
    "untrained_both": FEATURES["untrained_both"],
    "regions": "regional FA and MD",
    "size": "brain and ventricle size",
    "mean": "blurred mean DWI, by shell",
    "maps": FEATURES["maps"],
}

#: Baselines that cls + pooled must beat in the cohort whose FA and MD are compensated.
BASELINES = ("start_both", "untrained_both", "regions", "size", "mean")

#: Margin of R^2 by which cls + pooled may be worse than regional FA and MD where these differ.
MARGIN = 0.05

_Array = NDArray[np.float64]


def score_cohort(
    rows: Mapping[str, Sequence[_Array]],
    outcome: _Array,
    heads: NDArray[np.int_],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Predict an outcome from each representation, and compare them.

    Parameters
    ----------
    rows
        Vectors of each participant, by key of :data:`PREDICTORS`; `regions_noiseless`,
        `regions_unaffected` and `affected`, which say what the effect has changed.
    outcome
        Shape (N,).
    heads
        Shape (N,): the head of each participant; heads are held out as a whole.
    seed
        Seed of hold-outs and bootstrap.

    Returns
    -------
    dict
        `predictors`: by key, number of features, R^2, the difference to it of cls + pooled with
        its interval, and correlations in hold-outs. `effect`: what regional FA and MD show of it.
    """
    sets = {}
    for name in PREDICTORS:
        known = known_columns(name, rows[name])
        sets[name] = np.stack(rows[name])[:, known]
    errors = {name: squared_errors(x, outcome, heads) for name, x in sets.items()}
    predictors = {}
    for name, own in errors.items():
        rng = np.random.default_rng(seed)
        predictors[name] = {
            "n_features": sets[name].shape[1],
            "r2": explained(own, outcome),
            "both_minus_this": bootstrap_difference(errors["both"], own, outcome, rng),
            "hold_outs": [
                hold_out_correlations(sets[name], outcome, heads, shares, seed=seed)
                for shares in HOLD_OUTS
            ],
        }
    return {"predictors": predictors, "effect": _describe_effect(rows, outcome)}


def _describe_effect(rows: Mapping[str, Sequence[_Array]], outcome: _Array) -> dict[str, Any]:
    """Return how far regional FA and MD follow the outcome without noise."""
    noiseless, unaffected = (
        np.stack(rows[f"regions_{name}"]) for name in ("noiseless", "unaffected")
    )
    changes = np.abs(noiseless - unaffected)
    n = changes.shape[1] // 2
    found = {"affected": float(np.mean(rows["affected"]))}
    for name, half in (("fa", slice(0, n)), ("md", slice(n, None))):
        found[f"{name}_change"] = float(np.nanmax(changes[:, half]))
        for label, values in (("with", noiseless), ("without", unaffected)):
            sizes = _correlations(values[:, half], outcome)
            found[f"{name}_correlation_{label}"] = float(np.median(sizes))
            found[f"{name}_largest_correlation_{label}"] = float(sizes.max())
    return found


def _correlations(values: _Array, outcome: _Array) -> _Array:
    """Return the size of the correlation of each column with an outcome."""
    values = values[:, np.isfinite(values).all(axis=0)]
    centred = values - values.mean(axis=0)
    about = outcome - outcome.mean()
    lengths = np.linalg.norm(centred, axis=0) * np.linalg.norm(about)
    return np.asarray(np.abs(about @ centred) / np.maximum(lengths, 1e-30))


def format_cohort(effect: str, record: Mapping[str, Any]) -> str:
    """Return the scores of a cohort as text and a markdown table."""
    predictors = record["predictors"]
    lines = [
        [
            f"cohort {effect}",
            *("features", "R^2, by head", "cls + pooled minus this [95 %]"),
            *(f"r, five hold-outs {split}" for split in HOLD_OUTS),
        ]
    ]
    for name, row in predictors.items():
        apart = "" if name == "both" else str(Interval(*row["both_minus_this"]))
        spread = (f"{np.mean(rs):.3f} ({np.std(rs):.3f})" for rs in row["hold_outs"])
        number = str(row["n_features"])
        lines.append([PREDICTORS[name], number, f"{row['r2']:.3f}", apart, *spread])
    return "\n\n".join([_effect_in_words(record["effect"]), markdown(lines), _verdict(record)])


def _effect_in_words(effect: Mapping[str, float]) -> str:
    parts = [f"{100 * effect['affected']:.1f} % of white matter affected"]
    for name, unit in (("fa", ""), ("md", " um^2/ms")):
        parts.append(
            f"{name.upper()} of regions without noise changes by "
            f"{effect[f'{name}_change']:.5f}{unit} at most; |r| with the outcome: median "
            f"{effect[f'{name}_correlation_with']:.3f}, largest "
            f"{effect[f'{name}_largest_correlation_with']:.3f} (without the effect "
            f"{effect[f'{name}_correlation_without']:.3f}, "
            f"{effect[f'{name}_largest_correlation_without']:.3f})"
        )
    return "\n".join(parts)


def _verdict(record: Mapping[str, Any]) -> str:
    """Return whether cls + pooled are not inferior to regional FA and MD, and what they beat."""
    lows = {
        name: Interval(*row["both_minus_this"]).low for name, row in record["predictors"].items()
    }
    inferior = "not inferior" if lows["regions"] > -MARGIN else "NOT shown to be non-inferior"
    beaten = [PREDICTORS[name] for name in BASELINES if lows[name] > 0]
    rest = [PREDICTORS[name] for name in BASELINES if lows[name] <= 0]
    return (
        f"cls + pooled: {inferior} to regional FA and MD (margin {MARGIN:g}); better than: "
        f"{', '.join(beaten) or 'none'}; not shown to be better than: {', '.join(rest) or 'none'}"
    )
