"""Compare methods that estimate a tensor from one b=0 volume and six directions."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.registry import load_weights
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_networks.predict import predict_tensor
from dmri_fm_lab.evaluate.reference import Reference, make_reference
from dmri_fm_lab.evaluate.regions import CRITERIA
from dmri_fm_lab.evaluate.rivals import METHODS, ORACLE_SIGMAS, SERIES_DENOISERS, fit_gaussian
from dmri_fm_lab.evaluate.scores import Row, best_of, mean_rows, score
from dmri_fm_lab.evaluate.smoothing import brain_snr
from dmri_fm_lab.evaluate.subsets import SixSubset, choose_subsets
from dmri_fm_lab.scans import Scan, find_scans

__all__ = [
    "METHOD_TITLES",
    "Request",
    "compare_dataset",
    "compare_methods",
    "compare_scan",
    "versions",
]

logger = logging.getLogger(__name__)

#: Every method, in the order of tables. Upper marks know what no method may know.
METHOD_TITLES: dict[str, str] = {
    "wls": "WLS",
    "iwls": "IWLS",
    "gaussian": "Gaussian, WLS",
    "nlmeans": "non-local means, WLS",
    "tv": "total variation, WLS",
    "mppca": "MP-PCA of the seven, WLS",
    "patch2self": "Patch2Self of the seven, WLS",
    "network": "network",
    "gaussian-oracle": "Gaussian, best width of each column (upper mark)",
    "mppca-series": "MP-PCA of the whole series (upper mark)",
    "patch2self-series": "Patch2Self of the whole series (upper mark)",
}

#: Packages whose versions are in the output.
_PACKAGES = ("numpy", "scipy", "torch", "dipy", "scikit-image", "scikit-learn", "deepbet")

_NOTES = {
    "errors": "mean absolute errors against the reference; mm^2/s, degrees",
    "corrected": "rmse_corrected: root of the mean square minus the mean variance of the "
    "reference (wild bootstrap)",
    "fa": "noise raises the FA of a reference as it raises that of an estimate: where the "
    "reference is noisy, FA errors favour estimates that are as noisy; fa_bias_corrected takes "
    "off what the bootstrap finds of it",
    "shares_b0": "where the reference has the test's b=0, the noise of that volume is in "
    "neither errors nor variance: errors are too small, most of all of MD",
    "upper marks": "gaussian-oracle chooses its width by the error; the whole-series marks have "
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
        The same seven volumes out of the denoised whole series, by the upper mark's name;
        upper marks that are not there are left out.

    Returns
    -------
    dict
        Numbers by method and region, see :func:`~dmri_fm_lab.evaluate.scores.score`.
    """
    found: dict[str, dict[str, Row]] = {}
    for name in (n for n in METHOD_TITLES if n in request.methods):
        if name in METHODS:
            found[name] = score(METHODS[name](test), reference)
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
        "kind": scan.kind,
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
    wanted = [name for name in SERIES_DENOISERS if name in request.methods]
    whole = {name: SERIES_DENOISERS[name](scan.dwi) for name in wanted}
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
        record = clean({**compare_scan(scan, request), "is_trained_on": scan.brain_name in seen})
        series.append(record)
        if report is not None:
            report(record)
    if not any(record["subsets"] for record in series):
        raise GradientError(
            "no series with six directions and others for a reference",
            path=root,
            expected="a shell of 12 distinct directions or more, or repeated ones, and a b=0",
        )
    found: dict[str, Any] = clean(
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


def versions() -> dict[str, str | None]:
    """Return the versions of this package and of those that the numbers depend on."""
    from dmri_fm import __version__

    found: dict[str, str | None] = {"dmri_fm": __version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def clean(value: Any) -> Any:
    """Return a value for JSON: plain types, and None for what is not finite.

    Examples
    --------
    >>> clean({"a": (1, float("nan")), 2: np.float32(0.5)})
    {'a': [1, None], '2': 0.5}
    """
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [clean(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
