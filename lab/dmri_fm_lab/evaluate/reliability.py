"""Reliability of features: do they depend on the scan, and not on the directions drawn from it?

Scans of one protocol are compared: across protocols, scans differ by their b-values, too, and a
feature that knows nothing but the b-value would look reliable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import FEATURE_DIRECTIONS, choose_spread, one_of_each_direction
from dmri_fm_lab.evaluate.records import json_ready
from dmri_fm_lab.evaluate.representations import ENCODERS, compared_features
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.markdown_tables import markdown

#: Intraclass correlation above which a feature counts as reliable.
RELIABLE = 0.75

#: Step to which the b-values of shells are rounded in the name of a protocol, s/mm^2.
SHELL_STEP = 100.0

#: Parts of the features, whose intraclass correlations are listed apart.
PARTS = {
    f"{prefix}{part}": f"{title}, {words}"
    for prefix, title in ENCODERS.items()
    for part, words in {
        "cls": "cls",
        "pooled_mean": "pooled: mean",
        "pooled_deviation": "pooled: deviation over directions",
    }.items()
}

_NOTES = {
    "icc": "ICC(1,1) of Shrout & Fleiss 1979, doi:10.1037/0033-2909.86.2.420: share of the "
    "variance of single measurements that is between scans; the draws of one scan have no order "
    "that they share with those of another",
    "protocols": "scans of one origin and of the same shells (b-value to "
    f"{SHELL_STEP:.0f} s/mm^2); "
    "a protocol with one scan has no intraclass correlation",
    "b0": "the draws of a scan share its one b=0 normalisation: the noise of b=0 is part of what "
    "differs between scans, and a repeated scan would agree less than two draws do",
    "shared": "share of the directions of a draw that another draw of the same scan holds, too; "
    "draws are disjoint where the scan has enough directions",
}

_Array = NDArray[np.float64]


def intraclass_correlation(values: _Array) -> _Array:
    """Return the intraclass correlation ICC(1,1) of features over repeated measurements.

    One-way random effects, single measurements: Shrout & Fleiss 1979,
    doi:10.1037/0033-2909.86.2.420.

    Parameters
    ----------
    values
        Shape (N, K, ...): N scans, K measurements of each.

    Returns
    -------
    ndarray
        Shape (...); negative where measurements of one scan differ more than scans do, NaN where
        nothing varies.

    Raises
    ------
    ConfigError
        If there are fewer than two scans, or two measurements.

    Examples
    --------
    >>> intraclass_correlation(np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])).item()
    1.0
    """
    n, k = values.shape[:2]
    if n < 2 or k < 2:
        raise ConfigError(f"{k} measurements of {n} scans", expected="two or more of both")
    of_scans = values.mean(axis=1)
    between = k * ((of_scans - of_scans.mean(axis=0)) ** 2).sum(axis=0) / (n - 1)
    within = ((values - of_scans[:, None]) ** 2).sum(axis=(0, 1)) / (n * (k - 1))
    total = between + (k - 1) * within
    empty = np.full_like(total, np.nan)
    return np.asarray(np.divide(between - within, total, out=empty, where=total > 0))


def draw_directions(
    gtab: GradientTable, n_draws: int, *, n_directions: int, seed: int, gamma: float
) -> list[NDArray[np.int_]]:
    """Draw sets of distinct directions, spread over q-space; disjoint as long as they last."""
    draws: list[NDArray[np.int_]] = []
    distinct = one_of_each_direction(gtab)
    left = distinct
    for number in range(n_draws):
        if len(left) < n_directions:
            left = distinct
        own = choose_spread(gtab.select(left), n_directions, seed=seed + number, gamma=gamma)
        draws.append(left[own])
        left = np.setdiff1d(left, draws[-1])
    return draws


def score_reliability(
    encoders: Mapping[str, Drope],
    scans: Iterable[GridScan],
    *,
    n_draws: int,
    n_directions: int = FEATURE_DIRECTIONS,
    seed: int = 0,
    compute: Callable[[Mapping[str, Drope], GridScan], Mapping[str, _Array]] = compared_features,
) -> dict[str, Any]:
    """Return the intraclass correlation of each feature over draws of directions.

    Parameters
    ----------
    encoders
        The trained encoder and its untrained twins, by prefix, see
        :func:`~.representations.with_untrained`.
    scans
        Scans on its grid; those with no more than `n_directions` distinct ones are left out.
    n_draws
        Sets of directions of each scan.
    n_directions
        Directions of a set.
    seed
        Seed of the first set.
    compute
        Function of the encoders and a scan that returns "cls" and "pooled" of each.

    Returns
    -------
    dict
        JSON-ready. `protocols`, by name, with `scans`, their names; `shared`, see the notes; and
        `icc` of each feature, by key of :data:`PARTS`, empty with fewer than two scans; None:
        unknown.
    """
    protocols: dict[str, _Draws] = {}
    for scan in scans:
        if len(one_of_each_direction(scan.gtab)) <= n_directions:
            continue
        draws = draw_directions(
            scan.gtab,
            n_draws,
            n_directions=n_directions,
            seed=seed,
            gamma=encoders[""].config.gamma,
        )
        found = protocols.setdefault(name_protocol(scan), _Draws([], [], []))
        found.scans.append(scan.name)
        found.shared.extend(float(np.isin(a, b).mean()) for a, b in combinations(draws, 2))
        found.rows.append([_parts(compute(encoders, scan.select(draw))) for draw in draws])
    return json_ready(
        {
            "notes": _NOTES,
            "n_draws": n_draws,
            "n_directions": n_directions,
            "protocols": {
                name: {
                    "scans": found.scans,
                    "shared": float(np.mean(found.shared)),
                    "icc": found.correlations(),
                }
                for name, found in protocols.items()
            },
        }
    )


class _Draws(NamedTuple):
    """Draws from the scans of one protocol: names, shares of common directions, features."""

    scans: list[str]
    shared: list[float]
    rows: list[list[dict[str, _Array]]]

    def correlations(self) -> dict[str, list[float]]:
        """Return the intraclass correlations by part; none of a single scan."""
        if len(self.scans) < 2:
            return {}
        return {
            part: intraclass_correlation(
                np.array([[row[part] for row in of_scan] for of_scan in self.rows])
            ).tolist()
            for part in PARTS
        }


def name_protocol(scan: GridScan) -> str:
    """Return the origin of a scan and the b-values of its shells."""
    bvals = (SHELL_STEP * round(shell.bval / SHELL_STEP) for shell in scan.gtab.shells)
    return f"{scan.origin}, b {', '.join(f'{b:.0f}' for b in bvals)}"


def _parts(features: Mapping[str, _Array]) -> dict[str, _Array]:
    """Return class token, and both halves of the pooled tokens, by key of PARTS."""
    parts = {}
    for start in ENCODERS:
        mean, deviation = np.split(features[f"{start}pooled"], 2)
        parts[f"{start}cls"] = features[f"{start}cls"]
        parts[f"{start}pooled_mean"] = mean
        parts[f"{start}pooled_deviation"] = deviation
    return parts


def format_reliability(record: Mapping[str, Any]) -> str:
    """Return the distribution of intraclass correlations as a markdown table per protocol."""
    if not record["protocols"]:
        return f"no scan of more than {record['n_directions']} directions to draw from"
    sizes = f"{record['n_draws']} draws of {record['n_directions']} directions"
    return "\n\n".join(
        _format_protocol(name, found, sizes) for name, found in record["protocols"].items()
    )


def _format_protocol(name: str, found: Mapping[str, Any], sizes: str) -> str:
    if not found["icc"]:
        return f"{name}: no intraclass correlation of one scan, {found['scans'][0]}"
    title = (
        f"ICC(1,1), {name}: {len(found['scans'])} scans x {sizes}, "
        f"{100 * found['shared']:.0f} % of directions shared, one b=0 normalisation a scan"
    )
    lines = [
        [title, "features", "lower quartile", "median", "upper quartile", f"above {RELIABLE:g}"]
    ]
    lines += [[PARTS[part], *_distribution(values)] for part, values in found["icc"].items()]
    return markdown(lines)


def _distribution(values: Sequence[float | None]) -> list[str]:
    known = np.array([v for v in values if v is not None])
    if not known.size:
        return ["0", "-", "-", "-", "-"]
    quartiles = (f"{q:.2f}" for q in np.percentile(known, (25, 50, 75)))
    return [str(known.size), *quartiles, f"{np.mean(known > RELIABLE):.2f}"]
