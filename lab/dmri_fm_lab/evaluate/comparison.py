"""Compare methods that estimate a tensor from one b=0 volume and six directions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.registry import load_weights
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_networks.predict import predict_tensor
from dmri_fm_lab.evaluate.baselines import BASELINES, ORACLE_SIGMAS, SERIES_ORACLES, fit_gaussian
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.evaluate.reference import Reference, make_reference
from dmri_fm_lab.evaluate.regions import CRITERIA
from dmri_fm_lab.evaluate.scores import Row, best_of, mean_rows, score
from dmri_fm_lab.evaluate.subsets import SixSubset, choose_subsets
from dmri_fm_lab.scans import Scan, find_scans
from dmri_fm_lab.smoothing import brain_snr

__all__ = [
    "METHOD_TITLES",
    "Request",
    "compare_dataset",
    "compare_methods",
    "compare_scan",
]

logger = logging.getLogger(__name__)

#: Title of every method, in the order of tables. Oracles know what no method may know.
METHOD_TITLES: dict[str, str] = {
    **{name: baseline.title for name, baseline in BASELINES.items()},
    "network": "network",
    "gaussian-oracle": "Gaussian, best width of each column (oracle)",
    **{name: oracle.title for name, oracle in SERIES_ORACLES.items()},
}


_NOTES = {
    "errors": "mean absolute errors against the reference; mm^2/s, degrees",
    "corrected": "rmse_corrected: root of the mean square minus the mean variance of the "
    "reference (wild bootstrap)",
    "fa": "noise raises the FA of a reference as it raises that of an estimate: where the "
    "reference is noisy, FA errors favour estimates that are as noisy; fa_bias_corrected takes "
    "off what the bootstrap finds of it",
    "shares_b0": "where the reference has the test's b=0, the noise of that volume is in "
    "neither errors nor variance: errors are too small, most of all of MD",
    "oracles": "gaussian-oracle chooses its width by the error; the whole-series oracles have "
    "seen the reference's volumes, so their noise is not independent of it",
    "raw": "raw series are not corrected for motion, eddy currents or distortion; noise of "
    "preprocessed series is correlated between voxels",
    "iwls": "seven volumes determine the seven unknowns: IWLS is WLS",
}


@dataclass(frozen=True)
class Request:
    """What to compare, and how.

    Attributes
    ----------
    methods
        Keys of :data:`METHOD_TITLES`.
    n_subsets
        Sets of six directions per shell.
    model, weights
        Of the network; the weights that ship with the package if None.
    seed
        Of every random choice.
    n_replicates
        Of the bootstrap.
    """

    methods: tuple[str, ...] = tuple(METHOD_TITLES)
    n_subsets: int = 6
    model: str = "tensor-refiner"
    weights: Path | None = None
    seed: int = 0
    n_replicates: int = 40

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHOD_TITLES]
        if unknown or not self.methods:
            raise ConfigError(
                f"method {', '.join(unknown)}" if unknown else "no method",
                expected=f"some of {', '.join(METHOD_TITLES)}",
            )
        for value, least, what in (
            (self.n_subsets, 1, "subsets"),
            (self.n_replicates, 2, "bootstrap replicates"),
            (self.seed, 0, "as the seed"),
        ):
            if value < least:
                raise ConfigError(f"{value} {what}", expected=f"{least} or more")


def compare_methods(
    test: Dwi,
    reference: Reference,
    request: Request,
    *,
    denoised: Mapping[str, Dwi] | None = None,
) -> dict[str, dict[str, Row]]:
    """Estimate the tensor of a test by every method and score it.

    Parameters
    ----------
    test
        One b=0 volume and six weighted ones, with a brain mask.
    reference
        What to compare with, on the same grid.
    request
        Which methods.
    denoised
        The same seven volumes out of the denoised whole series, by the oracle's name;
        oracles that are not there are skipped.

    Returns
    -------
    dict
        Numbers by method and region, see :func:`~dmri_fm_lab.evaluate.scores.score`.
    """
    found: dict[str, dict[str, Row]] = {}
    for name in (n for n in METHOD_TITLES if n in request.methods):
        if name in BASELINES:
            found[name] = score(BASELINES[name].apply(test), reference)
        elif name == "network":
            maps = predict_tensor(test, model=request.model, weights=request.weights)
            found[name] = score(maps, reference)
        elif name == "gaussian-oracle":
            found[name] = _oracle(test, reference)
        elif denoised and name in denoised:
            found[name] = score(fit_tensor(denoised[name], shell="all"), reference)
    return found


def _oracle(test: Dwi, reference: Reference) -> dict[str, Row]:
    scores = [score(fit_gaussian(test, width), reference) for width in ORACLE_SIGMAS]
    return {region: best_of([s[region] for s in scores]) for region in scores[0]}


def compare_scan(scan: Scan, request: Request) -> dict[str, Any]:
    """Compare methods on the six-direction subsets of a series.

    Returns
    -------
    dict
        Numbers of each subset, and their means by shell; JSON-ready. Its `subsets` are empty
        where the series has no six directions and enough others for a reference.
    """
    subsets = choose_subsets(scan.dwi.gtab, n_subsets=request.n_subsets, seed=request.seed)
    record: dict[str, Any] = {
        "name": scan.name,
        "participant": scan.participant,
        "scanner": scan.scanner,
        "origin": scan.origin,
        "shape": list(scan.dwi.shape[:3]),
        "voxel_size_mm": [round(float(x), 3) for x in scan.dwi.voxel_size_mm],
        "shells": {f"{s.bval:.0f}": len(s.index) for s in scan.dwi.gtab.shells},
        "n_b0": int(scan.dwi.gtab.is_b0.sum()),
        "subsets": [],
        "means": {},
    }
    if not subsets:
        logger.warning("%s: too few directions for six and a reference", scan.name)
        return record
    wanted = [name for name in SERIES_ORACLES if name in request.methods]
    whole = {name: SERIES_ORACLES[name].apply(scan.dwi) for name in wanted}
    brains: dict[tuple[int, ...], NDArray[np.bool_]] = {}
    for number, subset in enumerate(subsets):
        logger.info("%s: subset %d of %d", scan.name, number + 1, len(subsets))
        if subset.reference_b0 not in brains:
            brains[subset.reference_b0] = scan.brain(subset.reference_b0)
        record["subsets"].append(
            _compare_subset(
                scan.dwi, subset, brains[subset.reference_b0], request, whole=whole, number=number
            )
        )
    record["means"] = _means(record["subsets"])
    return record


def _compare_subset(
    dwi: Dwi,
    subset: SixSubset,
    brain: NDArray[np.bool_],
    request: Request,
    *,
    whole: Mapping[str, Dwi],
    number: int,
) -> dict[str, Any]:
    rng = np.random.default_rng([request.seed, number])
    reference = make_reference(
        dwi, subset, brain=brain, rng=rng, n_replicates=request.n_replicates
    )
    test = dwi.select(subset.volumes).with_mask(brain)
    denoised = {
        name: series.select(subset.volumes).with_mask(brain) for name, series in whole.items()
    }
    noise = reference.noise
    return {
        **asdict(subset),
        "estimated_snr": brain_snr(test),
        "reference_free": None if noise is None else noise.n_free,
        "n_voxels": {name: int(region.sum()) for name, region in reference.regions.items()},
        "floor": {name: reference.floor(region) for name, region in reference.regions.items()},
        "methods": compare_methods(test, reference, request, denoised=denoised),
    }


def _means(subsets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over the subsets of each shell, of methods and floors, by region."""
    means: dict[str, Any] = {}
    for bval in sorted({s["bval"] for s in subsets}):
        here = [s for s in subsets if s["bval"] == bval]
        regions = list(here[0]["floor"])
        means[f"{bval:.0f}"] = {
            "n_subsets": len(here),
            "n_voxels": mean_rows([s["n_voxels"] for s in here]),
            "floor": {r: mean_rows([s["floor"][r] for s in here]) for r in regions},
            "methods": {
                m: {r: mean_rows([s["methods"][m][r] for s in here]) for r in regions}
                for m in here[0]["methods"]
            },
        }
    return means


def compare_dataset(
    root: str | Path,
    request: Request,
    *,
    participant_labels: Sequence[str] | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Compare methods on every series of a dataset.

    Parameters
    ----------
    root
        A raw BIDS dataset, or the app's output folder.
    request
        What to compare.
    participant_labels
        All participants if None.
    report
        Called with the record of each series as soon as it is there.

    Returns
    -------
    dict
        JSON-ready. Series are kept apart: the scanner is the unit, and nothing is pooled.

    Raises
    ------
    GradientError
        If no series has six directions of a shell and enough others for a reference.
    DmriError
        If dataset or weights cannot be used.
    """
    network = _describe_network(request) if "network" in request.methods else None
    seen = [] if network is None else network["training_scans"]
    series = []
    for scan in find_scans(root, participant_labels=participant_labels):
        record = json_ready(
            {**compare_scan(scan, request), "is_trained_on": scan.brain_name in seen}
        )
        series.append(record)
        if report is not None:
            report(record)
    if not any(record["subsets"] for record in series):
        raise GradientError(
            "no series with six directions and others for a reference",
            path=root,
            expected="a shell of 12 distinct directions or more, or repeated ones, and a b=0",
        )
    found: dict[str, Any] = json_ready(
        {
            "dataset": str(root),
            "versions": versions(),
            "network": network,
            "request": {
                "methods": list(request.methods),
                "n_subsets": request.n_subsets,
                "seed": request.seed,
                "n_replicates": request.n_replicates,
            },
            "regions": CRITERIA["reference"],
            "notes": _NOTES,
            "series": series,
        }
    )
    return found


def _describe_network(request: Request) -> dict[str, Any]:
    """Load the weights once, to say which they are before any work is done."""
    loaded = load_weights(request.weights or request.model, model=request.model)
    return {
        "model": request.model,
        "version": loaded.version,
        "sha256": loaded.sha256,
        "weights": "packaged" if request.weights is None else request.weights.name,
        "training_scans": loaded.training.get("scans", []),
    }
