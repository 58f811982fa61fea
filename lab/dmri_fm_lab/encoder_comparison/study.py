"""The comparison on the simulated cohort: vectors of all methods, scores, winners."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm.identity import RESEARCH_ONLY
from dmri_fm.normalise.grid import Grid
from dmri_fm_lab.encoder_comparison.cohort import (
    FACTOR_TITLES,
    PROTOCOLS,
    Cohort,
    ComparisonRequest,
    draw_cohort,
)
from dmri_fm_lab.encoder_comparison.connectome import connectome_method
from dmri_fm_lab.encoder_comparison.method import COST, Absent, Method, Sample, measured
from dmri_fm_lab.encoder_comparison.noddi import NOT_INSTALLED, has_amico
from dmri_fm_lab.encoder_comparison.regional import (
    noddi_method,
    rish_method,
    tensor_method,
    white_regions,
)
from dmri_fm_lab.encoder_comparison.scores import (
    best_probe,
    best_share,
    probe_errors,
    retrieval_hits,
    site_hits,
)
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.evaluate.regression import explained
from dmri_fm_lab.evaluate.representations import stack_known
from dmri_fm_lab.feature_cache import FeatureCache, Vectors
from dmri_fm_lab.prediction.rish import rish_response

logger = logging.getLogger(__name__)

_Array = NDArray[np.float64]

#: Scans from which the response of RISH is estimated, its mean: the first.
RESPONSE_SCANS = 4

#: Regional FA and MD, RISH, NODDI, and the connectome.
BASELINES = ("tensor", "rish", "noddi", "connectome")

#: Vectors by row and protocol, scans in order.
Rows = dict[str, dict[str, list[_Array]]]

_NOTES = {
    "cohort": "heads of the generator that no network is trained on; an effect on crossings and "
    "sticks whose FA and MD the diffusivities of each voxel make up for, by the table of "
    "protocol A at the first site",
    "probe": "ridge regression, nested cross-validation by head, trained on protocol A; R^2 of "
    "held-out heads scanned by A and by B",
    "site": "share of participants whose site is told from a scan by protocol A, held-out heads; "
    "sites differ in directions, SNR (factor 0.75 to 1.25) and error of b-values (up to 4 %)",
    "retrieval": "rank-1 between protocols A and B, features standardised within protocols",
    "cost": "from the series on the 2 mm grid in the template's space to the vector: median of "
    "CPU seconds, largest rise of resident memory; of encoders all that the app computes",
    "regions": "cubes by the true tissue of the head: an advantage that no scan gives",
    "tie": "the 95 % interval of the difference to the best, a paired bootstrap over "
    "participants, holds zero; intervals are not corrected for the number of rows",
}


def baseline_methods(
    names: Sequence[str], response: _Array | None
) -> tuple[list[Method], list[Absent]]:
    """Return baselines of :data:`BASELINES`, and those that are not installed.

    `response` is that of :func:`.regional.rish_method`.

    Raises
    ------
    ConfigError
        If there is no such baseline.
    """
    if unknown := sorted(set(names) - set(BASELINES)):
        raise ConfigError(
            f"baseline {', '.join(unknown)}", expected=f"some of {', '.join(BASELINES)}"
        )
    made = {
        "tensor": tensor_method,
        "rish": lambda: rish_method(response),
        "noddi": noddi_method,
        "connectome": connectome_method,
    }
    lacks_noddi = "noddi" in names and not has_amico()
    absent = [Absent("regional NODDI", NOT_INSTALLED)] if lacks_noddi else []
    return [made[n]() for n in names if n != "noddi" or not lacks_noddi], absent


def find_response(samples: Iterable[Sample]) -> _Array:
    """Return the mean response of white matter of scans, shape (4,)."""
    found = [rish_response(s.dwi, white_regions(s.labels))["response"] for s in samples]
    return np.asarray(np.mean(found, axis=0))


def compare_encoders(
    encoders: Sequence[Method],
    absent: Sequence[Absent],
    request: ComparisonRequest,
    *,
    grid: Grid,
    folder: Path | None = None,
    baselines: Sequence[str] = BASELINES,
) -> dict[str, Any]:
    """Compare encoders and classical measures on one simulated cohort.

    Parameters
    ----------
    encoders
        See :func:`.encoders.encoder_methods`.
    absent
        Rows without numbers.
    request
        The cohort.
    grid
        On which it is simulated, in the template's space.
    folder
        Of heads and vectors, from which an interrupted comparison goes on.
    baselines
        Of :data:`BASELINES`.

    Returns
    -------
    dict
        JSON-ready: `probes` (R^2 by row, factor and protocol), `site`, `retrieval`, `cost` by row,
        `winners` by task, `absent`: reasons by row.

    Raises
    ------
    ConfigError
        If there is no such baseline, or no method applies to both protocols.
    """
    cohort = draw_cohort(request, grid, cache_folder=folder)
    response = _cohort_response(cohort, folder) if "rish" in baselines else None
    others, lacking = baseline_methods(baselines, response)
    without = [*absent, *lacking]
    methods = []
    for method in (*encoders, *others):
        if reason := _cohort_obstacle(method, cohort):
            without.append(Absent(method.title, f"not applicable: {reason}"))
        else:
            methods.append(method)
    if not methods:
        raise ConfigError("no method applies to both protocols", expected="one or more")
    rows, costs = _describe_all(methods, cohort, folder)
    vectors, empty = stack_rows(rows)
    without += empty
    return json_ready(
        {
            "use": RESEARCH_ONLY,
            "request": asdict(request),
            "versions": versions(),
            "notes": _NOTES,
            "absent": {item.title: item.reason for item in without},
            **score_rows(vectors, cohort, seed=request.cohort.seed),
            "cost": {row: summarise_cost(costs[row]) for row in vectors},
        }
    )


def _cohort_response(cohort: Cohort, folder: Path | None) -> _Array | None:
    """Return the response of white matter; None where a protocol has an obstacle to RISH."""
    if _cohort_obstacle(rish_method(None), cohort):
        return None

    def compute() -> dict[str, _Array]:
        n = min(RESPONSE_SCANS, len(cohort.people))
        return {"response": find_response(cohort.scan(k, PROTOCOLS[0]) for k in range(n))}

    stored = FeatureCache.of(folder, "response", RESPONSE_SCANS, cohort.state)
    return np.asarray(stored.get("response", compute)["response"])


def _cohort_obstacle(method: Method, cohort: Cohort) -> str | None:
    """Return why a method does not apply to a protocol of a site."""
    for protocol in PROTOCOLS:
        for site in np.unique(cohort.sites):
            if reason := method.obstacle(cohort.table(int(site), protocol)):
                return f"protocol {protocol}: {reason}"
    return None


def _describe_all(
    methods: Sequence[Method], cohort: Cohort, folder: Path | None
) -> tuple[Rows, dict[str, list[_Array]]]:
    """Return the vectors of all participants by row and protocol, and their costs by row."""
    rows: Rows = {}
    costs: dict[str, list[_Array]] = {}
    stored = [FeatureCache.of(folder, m.title, m.state, cohort.state) for m in methods]
    for number in range(len(cohort.people)):
        logger.info("participant %d of %d", number + 1, len(cohort.people))
        for protocol in PROTOCOLS:
            # A scan is simulated when the first method lacks it, and once.
            scan = cache(partial(cohort.scan, number, protocol))
            for method, own in zip(methods, stored, strict=True):

                def compute(method: Method = method, scan: Callable[[], Sample] = scan) -> Vectors:
                    sample = scan()
                    return measured(method, sample)

                found = dict(own.get(f"{protocol}-{number:04d}", compute))
                cost = found.pop(COST)
                for key, vector in found.items():
                    row = method.row(key)
                    by = rows.setdefault(row, {p: [] for p in PROTOCOLS})
                    by[protocol].append(vector)
                    costs.setdefault(row, []).append(cost)
    return rows, costs


def summarise_cost(found: Sequence[_Array]) -> dict[str, float]:
    """Return the median of seconds and the largest rise of memory over scans, (2,) each."""
    seconds, mib = np.array(found).T
    return {"seconds": float(np.median(seconds)), "mib": float(mib.max())}


def stack_rows(
    rows: Mapping[str, Mapping[str, Sequence[_Array]]],
) -> tuple[dict[str, dict[str, _Array]], list[Absent]]:
    """Stack the vectors of scans by row and set, (N, D), and return the rows without columns.

    Columns that some scan of any set lacks are left out.
    """
    stacked = {row: stack_known(row, by) for row, by in rows.items()}
    sizes = {row: next(iter(by.values())).shape[1] for row, by in stacked.items()}
    empty = [Absent(row, "no number that every scan has") for row, n in sizes.items() if not n]
    return {row: by for row, by in stacked.items() if sizes[row]}, empty


def score_rows(
    stacked: Mapping[str, Mapping[str, _Array]], cohort: Cohort, *, seed: int
) -> dict[str, Any]:
    """Return scores by row, and the winner of each task.

    Parameters
    ----------
    stacked
        Vectors of all participants by row and protocol, (N, D).
    cohort
        Participants.
    seed
        Of the bootstraps.
    """
    first, second = PROTOCOLS
    n_features = {row: by[first].shape[1] for row, by in stacked.items()}
    outcomes = cohort.factors()
    probes: dict[str, dict[str, dict[str, float]]] = {row: {} for row in stacked}
    winners = {}
    for factor, outcome in outcomes.items():
        errors = {row: probe_errors(by, outcome, cohort.heads) for row, by in stacked.items()}
        for row, own in errors.items():
            probes[row][factor] = {p: explained(e, outcome) for p, e in own.items()}
        for protocol in PROTOCOLS:
            own = {row: found[protocol] for row, found in errors.items()}
            task = f"{FACTOR_TITLES[factor]}, tested on {protocol}"
            winners[task] = best_probe(own, outcome, seed=seed)
    site = {row: site_hits(by[first], cohort.sites, cohort.heads) for row, by in stacked.items()}
    found_again = {row: retrieval_hits(by[first], by[second]) for row, by in stacked.items()}
    winners["site, least leakage"] = best_share(site, lowest=True, seed=seed)
    chance = 1.0 / len(cohort.people)
    winners["retrieval between protocols"] = best_share(found_again, chance=chance, seed=seed)
    return {
        "n_features": n_features,
        "probes": probes,
        "site": {row: float(h.mean()) for row, h in site.items()},
        "site_chance": 1.0 / len(np.unique(cohort.sites)),
        "retrieval": {row: float(h.mean()) for row, h in found_again.items()},
        "retrieval_chance": chance,
        "winners": {task: v.describe() | {"text": str(v)} for task, v in winners.items()},
    }
