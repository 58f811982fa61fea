"""Tensors from one b=0 volume and six directions: a network and baselines against references."""

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
from dmri_fm_lab.evaluate.tables import Column, aligned, table_cells
from dmri_fm_lab.scans import Scan, find_scans
from dmri_fm_lab.smoothing import brain_snr

logger = logging.getLogger(__name__)

#: Titles of the methods, in the order of tables. Oracles know the reference, or have seen it.
METHOD_TITLES: dict[str, str] = {
    **{name: baseline.title for name, baseline in BASELINES.items()},
    "network": "network",
    "gaussian-oracle": "Gaussian, best width of each column (oracle)",
    **{name: oracle.title for name, oracle in SERIES_ORACLES.items()},
}

#: Columns of the tables; diffusivities in 1e-3 mm^2/s, angles in degrees.
_COLUMNS = {
    "tensor": Column("tensor", ".3f", 1e3),
    "fa": Column("FA", ".4f"),
    "md": Column("MD", ".4f", 1e3),
    "ad": Column("AD", ".4f", 1e3),
    "rd": Column("RD", ".4f", 1e3),
    "v1_deg": Column("V1", ".1f"),
    "v1_deg_fa03": Column("V1 FA>.3", ".1f"),
    "fa_bias": Column("FA bias", ".4f"),
    "fa_bias_corrected": Column("FA bias*", ".4f"),
    "md_bias": Column("MD bias", ".4f", 1e3),
    "fa_rmse_corrected": Column("FA rmse*", ".4f"),
    "md_rmse_corrected": Column("MD rmse*", ".4f", 1e3),
    "fa_coverage": Column("FA 90%", ".2f"),
    "md_coverage": Column("MD 90%", ".2f"),
}

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
    "raw": "raw series are not corrected for motion, eddy currents or distortion; noise of "
    "preprocessed series is correlated between voxels",
    "iwls": "seven volumes determine the seven unknowns: IWLS is WLS",
}


@dataclass(frozen=True)
class Request:
    """Methods, subsets and bootstrap of a comparison.

    Attributes
    ----------
    methods
        Keys of :data:`METHOD_TITLES`.
    n_subsets
        Sets of six directions per shell.
    model, weights
        Network and its weights; the packaged weights if None.
    seed
        Seed of every random choice.
    n_replicates
        Bootstrap replicates.
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
    """Estimate the tensor from seven volumes by every method, and score it.

    Parameters
    ----------
    test
        One b=0 volume and six weighted ones, with a brain mask.
    reference
        Tensor on the same grid, with its noise.
    request
        Methods.
    denoised
        The same seven volumes out of the denoised whole series, by the oracle's name; oracles
        without an entry are skipped.

    Returns
    -------
    dict
        Numbers by method and region, see :func:`~dmri_fm_lab.evaluate.scores.score`.
    """
    rows: dict[str, dict[str, Row]] = {}
    for name in (n for n in METHOD_TITLES if n in request.methods):
        if name in BASELINES:
            rows[name] = score(BASELINES[name].apply(test), reference)
        elif name == "network":
            maps = predict_tensor(test, model=request.model, weights=request.weights)
            rows[name] = score(maps, reference)
        elif name == "gaussian-oracle":
            rows[name] = _oracle(test, reference)
        elif denoised and name in denoised:
            rows[name] = score(fit_tensor(denoised[name], shell="all"), reference)
    return rows


def _oracle(test: Dwi, reference: Reference) -> dict[str, Row]:
    scores = [score(fit_gaussian(test, width), reference) for width in ORACLE_SIGMAS]
    return {region: best_of([s[region] for s in scores]) for region in scores[0]}


def compare_scan(scan: Scan, request: Request) -> dict[str, Any]:
    """Compare methods on the six-direction subsets of a series.

    Returns
    -------
    dict
        `subsets`: numbers of each subset, none where the series has no six directions and enough
        others for a reference. `means`: their means by shell.
    """
    dwi = scan.dwi
    record: dict[str, Any] = {
        "name": scan.name,
        "participant": scan.participant,
        "scanner": scan.scanner,
        "origin": scan.origin,
        "shape": dwi.shape[:3],
        "voxel_size_mm": [round(float(x), 3) for x in dwi.voxel_size_mm],
        "shells": {f"{s.bval:.0f}": len(s.index) for s in dwi.gtab.shells},
        "n_b0": int(dwi.gtab.is_b0.sum()),
        "subsets": [],
        "means": {},
    }
    subsets = choose_subsets(dwi.gtab, n_subsets=request.n_subsets, seed=request.seed)
    if not subsets:
        logger.warning("%s: too few directions for six and a reference", scan.name)
        return record
    oracles = (name for name in SERIES_ORACLES if name in request.methods)
    denoised = {name: SERIES_ORACLES[name].apply(dwi) for name in oracles}
    brains = {b0: scan.brain(b0) for b0 in dict.fromkeys(s.reference_b0 for s in subsets)}
    for number, subset in enumerate(subsets):
        logger.info("%s: subset %d of %d", scan.name, number + 1, len(subsets))
        rng = np.random.default_rng([request.seed, number])
        brain = brains[subset.reference_b0]
        record["subsets"].append(
            _compare_subset(dwi, subset, brain, request, denoised=denoised, rng=rng)
        )
    record["means"] = _means(record["subsets"])
    return record


def _compare_subset(
    dwi: Dwi,
    subset: SixSubset,
    brain: NDArray[np.bool_],
    request: Request,
    *,
    denoised: Mapping[str, Dwi],
    rng: np.random.Generator,
) -> dict[str, Any]:
    reference = make_reference(
        dwi, subset, brain=brain, rng=rng, n_replicates=request.n_replicates
    )

    def seven(series: Dwi) -> Dwi:
        return series.select(subset.volumes).with_mask(brain)

    test, noise = seven(dwi), reference.noise
    sevens = {name: seven(series) for name, series in denoised.items()}
    return {
        **asdict(subset),
        "estimated_snr": brain_snr(test),
        "reference_free": None if noise is None else noise.n_free,
        "n_voxels": {name: int(region.sum()) for name, region in reference.regions.items()},
        "floor": {name: reference.floor(region) for name, region in reference.regions.items()},
        "methods": compare_methods(test, reference, request, denoised=sevens),
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
    report: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Compare methods on every series of a dataset.

    Parameters
    ----------
    root
        A raw BIDS dataset, or the app's output folder.
    request
        Methods and subsets.
    participant_labels
        Participants to compare; all if None.
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
    DmriError
        If dataset or weights cannot be used.
    """
    network = _describe_network(request) if "network" in request.methods else None
    trained_on = network["training_scans"] if network else []
    series = []
    for scan in find_scans(root, participant_labels=participant_labels):
        is_trained_on = scan.brain_name in trained_on
        series.append(json_ready({**compare_scan(scan, request), "is_trained_on": is_trained_on}))
        report(series[-1])
    if not any(record["subsets"] for record in series):
        raise GradientError(
            "no series with six directions and others for a reference",
            path=root,
            expected="a shell of 12 distinct directions or more, or repeated ones, and a b=0",
        )
    options = {k: v for k, v in asdict(request).items() if k not in ("model", "weights")}
    return json_ready(
        {
            "dataset": str(root),
            "versions": versions(),
            "network": network,
            "request": options,
            "regions": CRITERIA["reference"],
            "notes": _NOTES,
            "series": series,
        }
    )


def _describe_network(request: Request) -> dict[str, Any]:
    """Load the weights before the comparison, so that unusable ones end it at once."""
    loaded = load_weights(request.weights or request.model, model=request.model)
    return {
        "model": request.model,
        "version": loaded.version,
        "sha256": loaded.sha256,
        "weights": "packaged" if request.weights is None else request.weights.name,
        "training_scans": loaded.training.get("scans", []),
    }


def format_series(record: Mapping[str, Any]) -> str:
    """Return the record of a series as text: a table for each shell and region."""
    edges = " x ".join(f"{x:g}" for x in record["voxel_size_mm"])
    title = f"{record['scanner']}, {record['name']}, {record['origin']}, {edges} mm"
    if record.get("is_trained_on"):
        title += ", the network was TRAINED on this brain"
    if not record["subsets"]:
        return f"{title}: too few directions for six and a reference"
    blocks = []
    for bval, means in record["means"].items():
        subsets = [s for s in record["subsets"] if f"{s['bval']:.0f}" == bval]
        blocks.append(f"{title}, b = {bval} s/mm^2\n{_describe(subsets)}")
        for region, count in means["n_voxels"].items():
            rows = {METHOD_TITLES[m]: r[region] for m, r in means["methods"].items()}
            rows |= _floor_rows(means["floor"][region])
            table = aligned(table_cells(rows, _COLUMNS))
            blocks.append(f"{region}, {count:.0f} voxels\n{table}")
    return "\n\n".join(blocks)


def _floor_rows(floor: Mapping[str, float | None]) -> dict[str, Row]:
    """Return the rows of the reference's own noise; none where it is unknown."""
    rows: dict[str, Row] = {}
    for suffix in ("bootstrap", "halves"):
        row = {k.removesuffix(f"_{suffix}"): v for k, v in floor.items() if k.endswith(suffix)}
        if row:
            angles = {"v1_deg": row.get("v1"), "v1_deg_fa03": row.get("v1_fa03")}
            rows[f"reference's noise, {suffix}"] = {**row, **angles}
    return rows


def _describe(subsets: Sequence[Mapping[str, Any]]) -> str:
    """Return subsets and reference of a shell in words."""
    conditions = [s["condition_number"] for s in subsets]
    angles = [s["skare_angle_deg"] for s in subsets]
    numbers = [len(s["reference_weighted"]) for s in subsets]
    snrs = [s["estimated_snr"] for s in subsets if s["estimated_snr"]]
    is_well_conditioned = all(s["is_well_conditioned"] for s in subsets)
    b0 = "the SAME b=0" if any(s["shares_b0"] for s in subsets) else "another b=0"
    free = subsets[0]["reference_free"]
    return "\n".join(
        [
            f"{len(subsets)} subsets, condition number {_range(conditions, 2)}"
            f"{'' if is_well_conditioned else ' (NOT below 3)'}, mean angle to Skare's "
            f"{_range(angles, 1)} degrees, SNR {_range(snrs, 0)}",
            f"reference: WLS of {_range(numbers, 0)} other weighted volumes and {b0}",
            "the reference's noise is unknown: too few volumes"
            if free is None
            else f"*: without the reference's noise, from {free} residual degrees of freedom",
        ]
    )


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{f(values):.{digits}f}" for f in (min, max)) if values else ("?", "?")
    return low if low == high else f"{low} to {high}"
