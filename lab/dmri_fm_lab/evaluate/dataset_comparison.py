"""Comparison of methods on the series of datasets, and the verdicts of each scanner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from dmri_fm.errors import ConfigError, GradientError, LayoutError
from dmri_fm_lab.evaluate.comparison import Request, compare_scan, mean_of
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.evaluate.regions import CRITERIA
from dmri_fm_lab.evaluate.saved_scores import Networks, describe_networks
from dmri_fm_lab.evaluate.subsets import choose_subsets
from dmri_fm_lab.evaluate.truth import Truth, read_truth
from dmri_fm_lab.evaluate.verdicts import HIGHEST_BVAL, TO_BEAT, decides, nominal
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
    save: Callable[[dict[str, Any]], object] = lambda scores: None,
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
    save
        Function that receives all numbers so far: before the first series, which shows that they
        can be saved, and after each one.

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
    networks = describe_networks(request.networks, request.weights)
    head = {
        "datasets": [str(root) for root in roots],
        "versions": versions(),
        "networks": networks,
        "request": {k: v for k, v in asdict(request).items() if k not in ("models", "weights")},
        "regions": CRITERIA,
        "notes": _NOTES,
    }
    series: list[dict[str, Any]] = []

    def collect() -> dict[str, Any]:
        return json_ready({**head, "series": series, "scanners": summarise_scanners(series)})

    save(collect())
    for scan, root, trained_on in find_judged_scans(roots, participant_labels, request, networks):
        truth = _find_truth(root, scan)
        if truth.problem:
            logger.warning("%s: the truth is not used, %s", scan.name, truth.problem)
        compared = compare_scan(scan, request, truth=truth.usable)
        record = {**compared, "trained_on": trained_on, "is_simulated": truth.exists}
        series.append(json_ready(record))
        report(series[-1])
        save(collect())
    if not any(record["subsets"] for record in series):
        raise GradientError(
            "no series with six directions and others for a reference",
            path=roots[0],
            expected="a shell of 12 distinct directions or more, or repeated ones, and a b=0",
        )
    return collect()


def check_evidence(
    roots: Sequence[str | Path],
    request: Request,
    *,
    participant_labels: Sequence[str] | None = None,
) -> None:
    """Refuse datasets that cannot give any network a gate, before hours of computing.

    Parameters
    ----------
    roots, request, participant_labels
        As of :func:`compare_datasets`.

    Raises
    ------
    ConfigError
        If a baseline is not among the methods, or a network has no simulated scan with a truth
        that can be used, or no held-out scanner, at b-values that decide.
    """
    if lacking := [name for name in (*TO_BEAT, "network") if name not in request.methods]:
        raise ConfigError(
            f"no gate without the methods {', '.join(lacking)}",
            expected=f"{', '.join(TO_BEAT)} and network among --methods",
        )
    networks = describe_networks(request.networks, request.weights)
    found: dict[str, set[str]] = {model: set() for model in networks}
    problems = []
    for scan, root, trained_on in find_judged_scans(roots, participant_labels, request, networks):
        subsets = choose_subsets(scan.dwi.gtab, n_subsets=1, seed=request.seed)
        if not any(decides(subset.bval) for subset in subsets):
            continue
        truth = _find_truth(root, scan)
        problems += [f"{scan.name}: {truth.problem}"] if truth.problem else []
        evidence = "held-out" if not truth.exists else "truth" if truth.usable else "unusable"
        for model in (m for m in networks if m not in trained_on):
            found[model].add(evidence)
    expected = {
        "truth": "a simulated scan with its truth, of a head at rest (dmri-fm simulate --at-rest)",
        "held-out": "a scan of a held-out scanner, which the network was not trained on",
    }
    for model, of_model in found.items():
        for evidence, what in expected.items():
            if evidence not in of_model:
                raise ConfigError(
                    f"no evidence on {model}",
                    expected=f"{what}, with six directions at b <= {HIGHEST_BVAL:g} s/mm^2, "
                    "among the datasets",
                    advice="; ".join(problems) if evidence == "truth" and problems else None,
                )


def find_judged_scans(
    roots: Sequence[str | Path],
    participant_labels: Sequence[str] | None,
    request: Request,
    networks: Networks,
) -> Iterator[tuple[Scan, Path, list[str]]]:
    """Yield each series, its dataset, and the networks that were trained on its brain.

    Parameters
    ----------
    roots, participant_labels, request
        As of :func:`compare_datasets`.
    networks
        See :func:`~dmri_fm_lab.evaluate.saved_scores.describe_networks`.
    """
    for root, labels in _choose_participants(roots, participant_labels).items():
        seen = _find_trained_on(root, request, labels)
        for scan in find_scans(root, participant_labels=labels):
            yield (
                scan,
                root,
                [
                    model
                    for model, network in networks.items()
                    if scan.brain_name in network["training_scans"]
                    or scan.participant in seen[model]
                ],
            )


def summarise_scanners(series: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average the series of each scanner and b-value: the scanner is the unit.

    Parameters
    ----------
    series
        Records of series, see :func:`~dmri_fm_lab.evaluate.comparison.compare_scan`.

    Returns
    -------
    list of dict
        `scanner`, `bval` (to the nearest 100 s/mm^2), `is_truth`, `is_simulated`, names of the
        `series`, `trained_on`, `titles`, and means as of
        :func:`~dmri_fm_lab.evaluate.comparison.mean_of`.
    """
    groups: dict[tuple[str, int, bool], list[tuple[Mapping[str, Any], Any]]] = {}
    for record in series:
        for bval, means in record["means"].items():
            key = record["scanner"], nominal(float(bval)), record["is_truth"]
            groups.setdefault(key, []).append((record, means))
    return [
        {
            "scanner": scanner,
            "bval": bval,
            "is_truth": is_truth,
            "is_simulated": any(record.get("is_simulated") for record, _ in members),
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


class _FoundTruth(NamedTuple):
    """Truth of a series: whether there is one, and why it cannot be used."""

    exists: bool
    usable: Truth | None = None
    problem: str = ""


def _find_truth(root: Path, scan: Scan) -> _FoundTruth:
    """Return the truth of a raw series, if the series can be brought to it without motion."""
    truth = read_truth(root, scan.participant) if scan.origin == "raw" else None
    if truth is None:
        return _FoundTruth(exists=False)
    if truth.is_moving:
        return _FoundTruth(
            exists=True,
            problem="the head moves (dmri-fm simulate --at-rest makes heads at rest; "
            "benchmarks/tensor_through_app.py scores the app's output on moving ones)",
        )
    if scan.encoding is None:
        return _FoundTruth(exists=True, problem="the phase encoding is not stated")
    return _FoundTruth(exists=True, usable=truth)


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
