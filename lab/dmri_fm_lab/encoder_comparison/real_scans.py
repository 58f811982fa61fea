"""What real scans can answer: is a participant retrieved, and what does a scan cost?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.template import load_regions
from dmri_fm.qspace import choose_spread, distinct_directions
from dmri_fm.series import Dwi
from dmri_fm_lab.encoder_comparison.method import COST, Absent, Method, Sample, measured
from dmri_fm_lab.encoder_comparison.regional import rish_method, white_regions
from dmri_fm_lab.encoder_comparison.scores import best_share
from dmri_fm_lab.encoder_comparison.study import (
    BASELINES,
    Rows,
    baseline_methods,
    stack_rows,
    summarise_cost,
)
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.evaluate.retrieval import centred_distances
from dmri_fm_lab.feature_cache import FeatureCache, Vectors
from dmri_fm_lab.grid_scans import place_series
from dmri_fm_lab.prediction.rish import Labels, rish_response, scan_state
from dmri_fm_lab.scans import Scan, find_scans

logger = logging.getLogger(__name__)

_Array = NDArray[np.float64]

#: Parts of a scan that are compared: all volumes, and two halves of the directions.
PARTS = ("all", "first", "second")

_TASKS = {
    "directions": "same participant, other directions",
    "runs": "same participant, other run",
}

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
    """A scan that is read when it is needed.

    Attributes
    ----------
    name, participant
        As in :class:`~dmri_fm_lab.scans.Scan`.
    gtab
        As in the file.
    state
        Changes when the file does.
    load
        Function that returns the series in the template's space, with a brain mask.
    """

    name: str
    participant: str
    gtab: GradientTable
    state: str
    load: Callable[[], Dwi]


def halves(gtab: GradientTable) -> dict[str, NDArray[np.int_]]:
    """Return the volumes of two halves of the directions of each shell, spread over q-space.

    All volumes of a direction are in one half. b=0 volumes are shared out; a lone one is in both.
    """
    found: dict[str, list[int]] = {"first": [], "second": []}
    b0 = np.flatnonzero(gtab.is_b0)
    parts = (b0[::2], b0[1::2]) if len(b0) > 1 else (b0, b0)
    for name, part in zip(found, parts, strict=True):
        found[name] += part.tolist()
    groups = distinct_directions(gtab)
    for shell in gtab.shells:
        own = [group for group in groups if group[0] in shell.index]
        firsts = np.array([group[0] for group in own])
        chosen = set(choose_spread(gtab.select(firsts), len(own) // 2).tolist())
        for number, group in enumerate(own):
            found["first" if number in chosen else "second"] += group
    return {name: np.array(sorted(own)) for name, own in found.items()}


def part_of(dwi: Dwi, which: str) -> Dwi:
    """Return a series, or the b=0 volumes and directions of a half; see :data:`PARTS`."""
    return dwi if which == "all" else select_volumes(dwi, halves(dwi.gtab)[which])


def select_volumes(dwi: Dwi, index: NDArray[np.int_]) -> Dwi:
    """Return some volumes of a series."""
    return Dwi.from_arrays(
        dwi.data[..., index], np.asarray(dwi.affine), dwi.gtab.select(index), mask=dwi.mask
    )


def template_labels() -> Labels:
    """Return the template's blocks of white and grey matter, `wm_...` and `gm_...`."""
    regions = load_regions()
    return Labels(regions.labels, regions.grid, {r.index: r.name for r in regions.table})


def list_scans(
    root: Path, grid: Grid, *, participant_labels: Sequence[str] | None = None
) -> list[RealScan]:
    """List the scans of a raw dataset or of the app's output, to be laid on a grid.

    Series without b=0 or weighted volumes are left out with a warning.
    """
    found = []
    for scan in find_scans(root, participant_labels=participant_labels, prefers_template=True):
        gtab = scan.dwi.gtab
        if gtab.is_b0.all() or not gtab.is_b0.any():
            logger.warning("%s: skipped, it needs b=0 and weighted volumes", scan.name)
            continue
        load = partial(_load, scan, grid)
        found.append(RealScan(scan.name, scan.participant, gtab, scan_state(scan), load))
    return found


def _load(scan: Scan, grid: Grid) -> Dwi:
    """Lay a scan on a grid; its voxels do not stay in memory."""
    placed = place_series(replace(scan, dwi=replace(scan.dwi)), grid)
    assert placed is not None
    return placed


def compare_on_scans(
    encoders: Sequence[Method],
    absent: Sequence[Absent],
    scans: Sequence[RealScan],
    *,
    folder: Path | None = None,
    baselines: Sequence[str] = BASELINES,
    seen: Mapping[str, str],
) -> dict[str, Any]:
    """Compare methods on real scans by retrieval and cost.

    Parameters
    ----------
    encoders, absent, baselines
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
        If there are fewer than two participants, or no method applies to every scan.
    """
    who = np.array([scan.participant for scan in scans])
    if len(set(who)) < 2:
        raise ConfigError(
            f"scans of {len(set(who))} participant", expected="two participants or more"
        )
    labels = template_labels()
    response = _find_response(scans, labels, folder) if "rish" in baselines else None
    others, lacking = baseline_methods(baselines, response)
    methods, hindered = _applicable([*encoders, *others], scans)
    rows, costs = _describe_all(methods, scans, labels, folder)
    known, empty = stack_rows(rows)
    without = [*absent, *lacking, *hindered, *empty]
    if not known:
        raise ConfigError("no method applies to every scan", expected="one or more")
    record: dict[str, Any] = {"n_scans": len(scans), "n_participants": len(set(who))}
    shares = {"directions": direction_hits}
    if len(set(who)) < len(who):
        shares["runs"] = run_hits
    winners = {}
    for name, score in shares.items():
        hit = {row: score(by, who) for row, by in known.items()}
        chance = _chance(who, is_other=name == "runs")
        record[name] = {row: float(h.mean()) for row, h in hit.items()}
        record[f"{name}_chance"] = chance
        winners[_TASKS[name]] = best_share(hit, chance=chance)
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


def run_hits(parts: Mapping[str, _Array], who: NDArray[np.str_]) -> _Array:
    """Return for each scan of a participant with several whether its nearest one is the same's.

    Parameters
    ----------
    parts
        Vectors (N, D) by part; `all` is read.
    who
        Shape (N,): participants.

    Examples
    --------
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.8]])
    >>> run_hits({"all": x}, np.array(["a", "a", "b", "c"])).tolist()
    [1.0, 1.0]
    """
    vectors = parts["all"]
    distances = centred_distances(vectors, vectors) + np.diag(np.full(len(who), np.inf))
    is_same = who[distances.argmin(axis=1)] == who
    return np.asarray(is_same[_has_several(who)], dtype=np.float64)


def direction_hits(parts: Mapping[str, _Array], who: NDArray[np.str_]) -> _Array:
    """Return the share of both ways in which a half of each scan meets the same participant's."""
    distances = centred_distances(parts["first"], parts["second"])
    forth = who[distances.argmin(axis=1)] == who
    back = who[distances.argmin(axis=0)] == who
    return np.asarray((forth.astype(np.float64) + back) / 2)


def _has_several(who: NDArray[np.str_]) -> NDArray[np.bool_]:
    names, counts = np.unique(who, return_counts=True)
    return np.isin(who, names[counts > 1])


def _chance(who: NDArray[np.str_], *, is_other: bool) -> float:
    """Return the share of scans of the same participant among all, or among the others."""
    same = (who[:, None] == who[None]).sum(axis=1)
    if is_other:
        several = _has_several(who)
        return float(((same - 1) / (len(who) - 1))[several].mean())
    return float((same / len(who)).mean())


def _find_response(
    scans: Sequence[RealScan], labels: Labels, folder: Path | None
) -> _Array | None:
    """Return the mean response of the scans; None where one has an obstacle to RISH."""
    if _obstacle(rish_method(None), scans):
        return None
    white = white_regions(labels)
    found = []
    for scan in scans:
        stored = FeatureCache.of(folder, "response", scan.state, white)

        def compute(scan: RealScan = scan) -> Vectors:
            return rish_response(scan.load(), white)

        found.append(stored.get("response", compute)["response"])
    return np.asarray(np.mean(found, axis=0))


def _obstacle(method: Method, scans: Sequence[RealScan]) -> str | None:
    for scan in scans:
        parts = {"all": np.arange(len(scan.gtab)), **halves(scan.gtab)}
        for part, index in parts.items():
            if reason := method.obstacle(scan.gtab.select(index)):
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
    for scan in scans:
        logger.info("%s", scan.name)
        # A scan is read when the first method lacks it, and once.
        load = cache(scan.load)
        for method in methods:
            stored = FeatureCache.of(folder, method.title, method.state, scan.state, labels)
            for part in PARTS:

                def compute(
                    method: Method = method, load: Callable[[], Dwi] = load, part: str = part
                ) -> Vectors:
                    return measured(method, Sample(part_of(load(), part), labels))

                found = dict(stored.get(part, compute))
                cost = found.pop(COST)
                for key, vector in found.items():
                    row = method.row(key)
                    rows.setdefault(row, {p: [] for p in PARTS})[part].append(vector)
                    if part == "all":
                        costs.setdefault(row, []).append(cost)
    return rows, costs
