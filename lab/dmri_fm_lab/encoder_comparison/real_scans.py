"""What real scans can answer: is a participant found again, and what does a scan cost?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.template import load_regions
from dmri_fm.qspace import choose_spread
from dmri_fm.series import Dwi
from dmri_fm_lab.encoder_comparison.method import COST, Absent, Method, Sample, measured
from dmri_fm_lab.encoder_comparison.scores import best_share
from dmri_fm_lab.encoder_comparison.study import (
    Rows,
    find_response,
    stack_rows,
    summarise_cost,
)
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.evaluate.retrieval import centred_distances
from dmri_fm_lab.feature_cache import FeatureCache, Vectors
from dmri_fm_lab.grid_scans import place_series
from dmri_fm_lab.prediction.rish import Labels
from dmri_fm_lab.scans import find_scans

logger = logging.getLogger(__name__)

_Array = NDArray[np.float64]

#: Parts of a scan that are compared: all volumes, and two halves of the directions.
PARTS = ("all", "first", "second")

_NOTES = {
    "runs": "share of scans, of participants with several, whose nearest other scan is of the "
    "same participant; standardised over all scans, correlation",
    "directions": "share of scans whose first half of the directions is nearest to the second "
    "half of a scan of the same participant, both ways; halves share no volume but b=0 ones where "
    "there is one b=0 volume alone",
    "regions": "blocks of the template, as in the app's tables",
    "cost": "of whole scans, as in the cohort",
}


@dataclass(frozen=True, eq=False)
class RealScan:
    """A series in the template's space, and whose it is."""

    name: str
    participant: str
    dwi: Dwi

    def part(self, which: str) -> Dwi:
        """Return the series, or the b=0 volumes and directions of a half; see :data:`PARTS`."""
        return (
            self.dwi if which == "all" else select_volumes(self.dwi, halves(self.dwi.gtab)[which])
        )


def halves(gtab: GradientTable) -> dict[str, NDArray[np.int_]]:
    """Return the volumes of two halves of the directions of each shell, spread over q-space.

    b=0 volumes are shared out; a single one is in both.
    """
    found: dict[str, list[int]] = {"first": [], "second": []}
    b0 = np.flatnonzero(gtab.is_b0)
    parts = (b0[::2], b0[1::2]) if len(b0) > 1 else (b0, b0)
    for name, part in zip(found, parts, strict=True):
        found[name] += part.tolist()
    for shell in gtab.shells:
        index = np.array(shell.index)
        chosen = choose_spread(gtab.select(index), len(index) // 2)
        found["first"] += index[chosen].tolist()
        found["second"] += np.delete(index, chosen).tolist()
    return {name: np.array(sorted(own)) for name, own in found.items()}


def select_volumes(dwi: Dwi, index: NDArray[np.int_]) -> Dwi:
    """Return some volumes of a series."""
    return Dwi.from_arrays(
        dwi.data[..., index], np.asarray(dwi.affine), dwi.gtab.select(index), mask=dwi.mask
    )


def template_labels() -> Labels:
    """Return the template's blocks of white and grey matter, `wm_...` and `gm_...`."""
    regions = load_regions()
    return Labels(regions.labels, regions.grid, {r.index: r.name for r in regions.table})


def read_scans(
    root: Path, grid: Grid, *, participant_labels: Sequence[str] | None = None
) -> list[RealScan]:
    """Read a raw dataset or the app's output, and lay its series on a grid.

    Series without b=0 or weighted volumes are left out with a warning.
    """
    found = []
    for scan in find_scans(root, participant_labels=participant_labels, prefers_template=True):
        logger.info("%s", scan.name)
        placed = place_series(scan, grid)
        if placed is not None:
            found.append(RealScan(scan.name, scan.participant, placed))
    return found


def compare_on_scans(
    encoders: Sequence[Method],
    absent: Sequence[Absent],
    scans: Sequence[RealScan],
    *,
    folder: Path | None = None,
    classical: Callable[[_Array], tuple[list[Method], list[Absent]]],
    seen: Mapping[str, str],
) -> dict[str, Any]:
    """Compare methods on real scans by retrieval and cost.

    Parameters
    ----------
    encoders, absent, classical
        See :func:`.study.compare_encoders`.
    scans
        Two or more, of two participants or more.
    folder
        Keeps vectors.
    seen
        By title of a method, what is known of participants in its pretraining.

    Returns
    -------
    dict
        JSON-ready: `runs` and `directions` by row, `cost`, `winners`, `absent`, `seen`.

    Raises
    ------
    ConfigError
        If there are fewer than two participants.
    """
    who = np.array([scan.participant for scan in scans])
    if len(set(who)) < 2:
        raise ConfigError(
            f"scans of {len(set(who))} participant", expected="two participants or more"
        )
    labels = template_labels()
    others, lacking = classical(find_response(Sample(scan.dwi, labels) for scan in scans))
    methods, hindered = _applicable([*encoders, *others], scans)
    rows, costs = _describe_all(methods, scans, labels, folder)
    known, empty = stack_rows(rows)
    without = [*absent, *lacking, *hindered, *empty]
    directions = {row: direction_hits(by["first"], by["second"], who) for row, by in known.items()}
    winners = {"same participant, other directions": best_share(directions)}
    record: dict[str, Any] = {
        "n_scans": len(scans),
        "n_participants": len(set(who)),
        "directions": {row: float(h.mean()) for row, h in directions.items()},
    }
    if len(set(who)) < len(who):
        runs = {row: run_hits(by["all"], who) for row, by in known.items()}
        winners["same participant, other run"] = best_share(runs)
        record["runs"] = {row: float(h.mean()) for row, h in runs.items()}
    return json_ready(
        {
            "use": RESEARCH_ONLY,
            "versions": versions(),
            "notes": _NOTES,
            "scans": [scan.name for scan in scans],
            "seen": dict(seen),
            "absent": {item.title: item.reason for item in without},
            **record,
            "cost": {row: summarise_cost(costs[row]) for row in known},
            "winners": {task: v.describe() | {"text": str(v)} for task, v in winners.items()},
        }
    )


def run_hits(vectors: _Array, who: NDArray[np.str_]) -> _Array:
    """Return for each scan of a participant with several whether its nearest one is the same's.

    Parameters
    ----------
    vectors
        Shape (N, D).
    who
        Shape (N,): participants.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.8]])
    >>> run_hits(x, np.array(["a", "a", "b", "c"])).tolist()
    [1.0, 1.0]
    """
    distances = centred_distances(vectors, vectors) + np.diag(np.full(len(who), np.inf))
    names, counts = np.unique(who, return_counts=True)
    several = np.isin(who, names[counts > 1])
    return np.asarray((who[distances.argmin(axis=1)] == who)[several], dtype=np.float64)


def direction_hits(first: _Array, second: _Array, who: NDArray[np.str_]) -> _Array:
    """Return the share of both ways in which a half of each scan meets the same participant's."""
    distances = centred_distances(first, second)
    forth = who[distances.argmin(axis=1)] == who
    back = who[distances.argmin(axis=0)] == who
    return np.asarray((forth.astype(np.float64) + back) / 2)


def _obstacle(method: Method, scans: Sequence[RealScan]) -> str | None:
    for scan in scans:
        tables = {"all": np.arange(len(scan.dwi.gtab)), **halves(scan.dwi.gtab)}
        for part, index in tables.items():
            if reason := method.obstacle(scan.dwi.gtab.select(index)):
                where = scan.name if part == "all" else f"half of {scan.name}"
                return f"{where}: {reason}"
    return None


def _applicable(
    methods: Sequence[Method], scans: Sequence[RealScan]
) -> tuple[list[Method], list[Absent]]:
    """Return the methods that apply to every scan and its halves, and the others."""
    reasons = [(method, _obstacle(method, scans)) for method in methods]
    return [method for method, reason in reasons if reason is None], [
        Absent(method.title, f"not applicable: {reason}") for method, reason in reasons if reason
    ]


def _describe_all(
    methods: Sequence[Method], scans: Sequence[RealScan], labels: Labels, folder: Path | None
) -> tuple[Rows, dict[str, list[_Array]]]:
    """Return vectors by row and part of the scans, and the costs of whole scans by row."""
    rows: Rows = {}
    costs: dict[str, list[_Array]] = {}
    for method in methods:
        logger.info("%s", method.title)
        for scan in scans:
            content = [scan.name, scan.dwi.gtab, scan.dwi.mask, scan.dwi.data]
            stored = FeatureCache.of(folder, method.title, method.state, *content)
            for part in PARTS:

                def compute(
                    method: Method = method, scan: RealScan = scan, part: str = part
                ) -> Vectors:
                    return measured(method, Sample(scan.part(part), labels))

                found = dict(stored.get(part, compute))
                cost = found.pop(COST)
                for key, vector in found.items():
                    row = method.row(key)
                    rows.setdefault(row, {p: [] for p in PARTS})[part].append(vector)
                    if part == "all":
                        costs.setdefault(row, []).append(cost)
    return rows, costs
