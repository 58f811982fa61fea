"""Comparison of methods on the series of datasets, and the verdicts of each scanner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dmri_fm.errors import GradientError, LayoutError
from dmri_fm.registry import load_weights
from dmri_fm_lab.evaluate.comparison import Request, compare_scan, mean_of
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.evaluate.regions import CRITERIA
from dmri_fm_lab.evaluate.truth import Truth, read_truth
from dmri_fm_lab.scans import Scan, find_scans, list_participants
from dmri_fm_lab.train.seen import find_seen_of_dataset

logger = logging.getLogger(__name__)

_NOTES = {
    "errors": "mean absolute errors against the reference; mm^2/s, degrees",
    "corrected": "rmse_corrected: root of the mean square minus the mean variance of the "
    "reference (wild bootstrap)",
    "fa": "noise raises the FA of references and estimates alike: FA errors against a noisy "
    "reference favour estimates that are as noisy; fa_bias_corrected adds the reference's own "
    "bias, by the bootstrap",
    "shares_b0": "where the reference uses the test's b=0, errors and variance lack the noise of "
    "that volume: errors are too small, most of all of MD",
    "oracles": "gaussian-oracle chooses its width by the error; the whole-series oracles denoise "
    "the reference's volumes, too, so their noise is not independent of it",
    "directions": "rows of 12, 20 and 30 directions, with a b=0 for each 15: where the truth is "
    "known and b is at most 1500 s/mm^2; a reference of the same scan would hold their volumes",
    "truth": "the distortion of simulated series is undone by the true field, after denoising; "
    "networks get the noise that the app would estimate; two subsets per shell at most",
    "verdicts": "uncertainty: how far the reference's noise may move a difference, by the "
    "bootstrap, noise taken to be independent between voxels; none against the truth",
    "raw": "raw series are not corrected for motion, eddy currents or distortion; noise of "
    "preprocessed series is correlated between voxels",
    "iwls": "seven volumes determine the seven unknowns: IWLS is WLS",
}


def compare_datasets(
    roots: Sequence[str | Path],
    request: Request,
    *,
    participant_labels: Sequence[str] | None = None,
    report: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Compare methods on every series of some datasets.

    Parameters
    ----------
    roots
        Raw BIDS datasets, or output folders of the app.
    request
        Methods and subsets.
    participant_labels
        Participants to compare, each in one of the datasets or more; all if None.
    report
        Function that receives the record of each series when that is complete.

    Returns
    -------
    dict
        JSON-ready, a record per series: the scanner is the unit, nothing is pooled.

    Raises
    ------
    GradientError
        If no series has six directions of a shell and enough others for a reference.
    LayoutError
        If a participant is in none of the datasets.
    DmriError
        If a dataset or weights cannot be used.
    """
    chosen = _choose_participants(roots, participant_labels)
    networks = {model: _describe_network(model, request) for model in request.networks}
    series = []
    for root, labels in chosen.items():
        for record in _compare_dataset(root, labels, request, networks):
            series.append(record)
            report(record)
    if not any(record["subsets"] for record in series):
        raise GradientError(
            "no series with six directions and others for a reference",
            path=roots[0],
            expected="a shell of 12 distinct directions or more, or repeated ones, and a b=0",
        )
    return json_ready(
        {
            "datasets": [str(root) for root in roots],
            "versions": versions(),
            "networks": networks,
            "request": {
                k: v for k, v in asdict(request).items() if k not in ("models", "weights")
            },
            "regions": CRITERIA,
            "notes": _NOTES,
            "series": series,
            "scanners": summarise_scanners(series),
        }
    )


def _compare_dataset(
    root: Path, labels: Sequence[str], request: Request, networks: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the record of each series of a dataset, with the networks trained on its brain."""
    seen = _find_trained_on(root, request, labels)
    for scan in find_scans(root, participant_labels=labels):
        trained_on = [
            model
            for model, network in networks.items()
            if scan.brain_name in network["training_scans"] or scan.participant in seen[model]
        ]
        compared = compare_scan(scan, request, truth=_usable_truth(root, scan))
        yield json_ready({**compared, "trained_on": trained_on})


def summarise_scanners(series: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average the series of each scanner and b-value: the scanner is the unit.

    Parameters
    ----------
    series
        Records of series, see :func:`~dmri_fm_lab.evaluate.comparison.compare_scan`.

    Returns
    -------
    list of dict
        `scanner`, `bval` (to the nearest 100 s/mm^2), `is_truth`, names of the `series`,
        `trained_on`, `titles`, and means as of :func:`~dmri_fm_lab.evaluate.comparison.mean_of`.
    """
    groups: dict[tuple[str, int, bool], list[tuple[Mapping[str, Any], Any]]] = {}
    for record in series:
        for bval, means in record["means"].items():
            key = record["scanner"], 100 * round(float(bval) / 100), record["is_truth"]
            groups.setdefault(key, []).append((record, means))
    return [
        {
            "scanner": scanner,
            "bval": bval,
            "is_truth": is_truth,
            "series": [record["name"] for record, _ in members],
            "trained_on": sorted({m for record, _ in members for m in record["trained_on"]}),
            "titles": members[0][0]["titles"],
            **mean_of([means for _, means in members]),
        }
        for (scanner, bval, is_truth), members in groups.items()
    ]


def _choose_participants(
    roots: Sequence[str | Path], wanted: Sequence[str] | None
) -> dict[Path, list[str]]:
    """Return the participants to compare of each dataset that has some."""
    known = {Path(root): list_participants(root) for root in roots}
    if wanted is None:
        return known
    labels = [label.removeprefix("sub-") for label in wanted]
    if missing := [label for label in labels if not any(label in k for k in known.values())]:
        # The reader of one dataset says what it has.
        for root in known if len(known) == 1 else ():
            list_participants(root, participant_labels=missing)
        raise LayoutError(
            f"no participant {', '.join(missing)}",
            expected=f"some of {', '.join(sorted({x for k in known.values() for x in k}))}",
        )
    chosen = {root: [label for label in k if label in labels] for root, k in known.items()}
    return {root: k for root, k in chosen.items() if k}


def _usable_truth(root: Path, scan: Scan) -> Truth | None:
    """Return the truth of a raw series, if the series can be brought to it without motion."""
    truth = read_truth(root, scan.participant) if scan.origin == "raw" else None
    if truth is None:
        return None
    if truth.is_moving or scan.encoding is None:
        logger.warning(
            "%s: the truth is not used, %s; benchmarks/tensor_through_app.py scores the app's "
            "output on it",
            scan.name,
            "the head moves" if truth.is_moving else "the phase encoding is not stated",
        )
        return None
    return truth


def _find_trained_on(
    root: Path, request: Request, labels: Sequence[str]
) -> dict[str, frozenset[str]]:
    """Return the participants that each network was trained on, as its weights list them."""
    return {
        model: find_seen_of_dataset(
            root, request.weights.get(model, model), model=model, participant_labels=labels
        ).participants
        for model in request.networks
    }


def _describe_network(model: str, request: Request) -> dict[str, Any]:
    """Load the weights before the comparison, so that unusable ones end it at once."""
    path = request.weights.get(model)
    loaded = load_weights(path or model, model=model)
    return {
        "version": loaded.version,
        "sha256": loaded.sha256,
        "weights": "packaged" if path is None else path.name,
        "training_scans": loaded.training.get("scans", []),
    }
