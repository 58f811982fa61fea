"""Tensors from one b=0 volume and six directions: networks and baselines against references."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm.identity import IDENTITIES, TENSOR_NETWORKS
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm.tensor_networks.predict import predict_tensor
from dmri_fm_lab.evaluate.baselines import (
    BASELINES,
    DENOISED,
    DIRECTION_ROWS,
    ORACLE_SIGMAS,
    SERIES_ORACLES,
    SMOOTHERS,
    WHOLE_SERIES,
    Bring,
    fit_denoised,
    fit_directions,
    fit_gaussian,
    keep,
)
from dmri_fm_lab.evaluate.reference import Reference, make_reference
from dmri_fm_lab.evaluate.scores import Row, best_of, mean_rows, score
from dmri_fm_lab.evaluate.subsets import SixSubset, choose_subsets
from dmri_fm_lab.evaluate.truth import Truth, undistort, undistorted_noise
from dmri_fm_lab.evaluate.verdicts import decides, error_draws, uncertainties
from dmri_fm_lab.scans import Scan
from dmri_fm_lab.smoothing import brain_snr

logger = logging.getLogger(__name__)

#: Titles of the methods, in the order of tables; networks have a row each, under their names.
#: Oracles know the reference, or have seen it.
METHOD_TITLES: dict[str, str] = {
    **{name: baseline.title for name, baseline in BASELINES.items()},
    "network": "network",
    "gaussian-oracle": "Gaussian, best width of each column (oracle)",
    **{name: oracle.title for name, oracle in SERIES_ORACLES.items()},
    **DIRECTION_ROWS,
    **WHOLE_SERIES,
}

#: Largest number of sets of six directions per shell that are compared with the truth: it leaves
#: no doubt that more sets would reduce.
MOST_TRUTH_SUBSETS = 2

#: Networks whose weights ship with the package.
PACKAGED = tuple(name for name in TENSOR_NETWORKS if IDENTITIES[name].is_packaged)


@dataclass(frozen=True)
class Request:
    """Methods, subsets and bootstrap of a comparison.

    Attributes
    ----------
    methods
        Keys of :data:`METHOD_TITLES`.
    n_subsets
        Sets of six directions per shell.
    models
        Networks, by their names in the registry: the rows of the method "network".
    weights
        Files in place of the weights that ship with the package, by model.
    seed
        Seed of every random choice.
    n_replicates
        Bootstrap replicates.
    """

    methods: tuple[str, ...] = tuple(METHOD_TITLES)
    n_subsets: int = 6
    models: tuple[str, ...] = PACKAGED
    weights: Mapping[str, Path] = field(default_factory=dict)
    seed: int = 0
    n_replicates: int = 40

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHOD_TITLES]
        if unknown or not self.methods:
            raise ConfigError(
                f"method {', '.join(unknown)}" if unknown else "no method",
                expected=f"some of {', '.join(METHOD_TITLES)}",
            )
        if unknown := [name for name in self.weights if name not in self.models]:
            raise ConfigError(
                f"weights of {', '.join(unknown)}", expected=f"of {', '.join(self.models)}"
            )
        for value, least, what in (
            (self.n_subsets, 1, "subsets"),
            (self.n_replicates, 2, "bootstrap replicates"),
            (self.seed, 0, "as the seed"),
        ):
            if value < least:
                raise ConfigError(f"{value} {what}", expected=f"{least} or more")

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks to compare; none where "network" is not among the methods."""
        return self.models if "network" in self.methods else ()


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods against one reference.

    Attributes
    ----------
    rows
        Numbers by method, networks under their names, and region, see
        :func:`~dmri_fm_lab.evaluate.scores.score`.
    uncertainties
        See :func:`~dmri_fm_lab.evaluate.verdicts.uncertainties`.
    estimated_snr
        Signal-to-noise ratio of the scan that smoothing is tuned to.
    snrs
        Signal-to-noise ratio of the scan by network, as the network's gate measures it.
    ood_fractions
        Share of the brain that is out-of-distribution by network, likewise; None where the
        network does not measure it.
    """

    rows: dict[str, dict[str, Row]]
    uncertainties: dict[str, dict[str, dict[str, Row]]]
    estimated_snr: float
    snrs: dict[str, float]
    ood_fractions: dict[str, float | None]


def compare_methods(
    acquired: Dwi,
    reference: Reference,
    request: Request,
    *,
    bring: Bring = keep,
    noise: NDArray[np.float32] | None = None,
    denoised: Mapping[str, Dwi] | None = None,
    more: Mapping[str, TensorMaps] | None = None,
) -> Comparison:
    """Estimate the tensor from seven volumes by every method, and score it.

    Networks and baselines that smooth see the volumes on the grid of the comparison and get the
    same noise, that of the volumes as acquired times the gain of the interpolation; methods that
    denoise begin with the volumes as acquired.

    Parameters
    ----------
    acquired
        One b=0 volume and six weighted ones, as acquired: methods that denoise begin here.
    reference
        Tensor on the grid of the comparison, with its noise.
    request
        Methods.
    bring
        Takes a series as acquired to that grid, with a brain mask.
    noise
        Shape (X, Y, Z), on that grid: noise that networks get, see
        :func:`~dmri_fm.tensor_networks.predict.predict_tensor`; its median in the brain is that
        of the smoothing. If None, all estimate it from the volumes on that grid, and too low
        where these are interpolated.
    denoised
        The same seven volumes out of the denoised whole series, by the oracle's name, on that
        grid.
    more
        Tensors of more volumes than the seven, by the method's name; those of the methods that
        have no entry here or in `denoised` are left out.
    """
    test = bring(acquired)
    sigma = None if noise is None else median_noise(noise, test)
    estimates = {}
    for name in (n for n in BASELINES if n in request.methods and n not in DENOISED):
        smooth = SMOOTHERS.get(name)
        estimates[name] = (
            BASELINES[name].apply(test) if smooth is None else smooth(test, noise=sigma)
        )
    for method in (m for m in DENOISED if m in request.methods):
        estimates[method] = fit_denoised(acquired, method=method, bring=bring)
    for model in request.networks:
        weights = request.weights.get(model)
        estimates[model] = predict_tensor(test, model=model, weights=weights, noise=noise)
    for name, seven in (denoised or {}).items():
        estimates[name] = fit_tensor(seven, shell="all")
    estimates |= more or {}
    rows = {name: score(maps, reference) for name, maps in estimates.items()}
    if "gaussian-oracle" in request.methods:
        rows["gaussian-oracle"] = _oracle(test, reference)
    judged = {n: m for n, m in estimates.items() if n in BASELINES or n in request.networks}
    draws = error_draws(judged, reference) if request.networks else {}
    return Comparison(
        {name: rows[name] for name in row_titles(request) if name in rows},
        uncertainties(rows, draws, reference, networks=request.networks),
        brain_snr(test, sigma),
        {m: 1 / max(estimates[m].metadata["NoiseOverMeanB0"], 1e-6) for m in request.networks},
        {m: estimates[m].metadata.get("OODFraction") for m in request.networks},
    )


def median_noise(noise: NDArray[np.float32], dwi: Dwi) -> float:
    """Return the median of a noise map in the brain of a series."""
    return float(np.median(noise[dwi.brain]))


def row_titles(request: Request) -> dict[str, str]:
    """Return the titles of the rows that a request may give, in the order of tables."""
    titles: dict[str, str] = {}
    for name in (n for n in METHOD_TITLES if n in request.methods):
        titles |= {m: m for m in request.models} if name == "network" else {}
        titles |= {name: METHOD_TITLES[name]} if name != "network" else {}
    return titles


def _oracle(test: Dwi, reference: Reference) -> dict[str, Row]:
    scores = [score(fit_gaussian(test, width), reference) for width in ORACLE_SIGMAS]
    return {region: best_of([s[region] for s in scores]) for region in scores[0]}


def compare_scan(scan: Scan, request: Request, *, truth: Truth | None = None) -> dict[str, Any]:
    """Compare methods on the six-direction subsets of a series.

    Parameters
    ----------
    scan
        The series.
    request
        Methods and subsets.
    truth
        Truth of a simulated series at rest, in place of a reference made of its volumes.

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
        "is_truth": truth is not None,
        "shape": dwi.shape[:3],
        "voxel_size_mm": [round(float(x), 3) for x in dwi.voxel_size_mm],
        "shells": {f"{s.bval:.0f}": len(s.index) for s in dwi.gtab.shells},
        "n_b0": int(dwi.gtab.is_b0.sum()),
        "titles": row_titles(request),
        "subsets": [],
        "means": {},
    }
    n_subsets = request.n_subsets if truth is None else min(request.n_subsets, MOST_TRUTH_SUBSETS)
    subsets = choose_subsets(dwi.gtab, n_subsets=n_subsets, seed=request.seed)
    if not subsets:
        logger.warning("%s: too few directions for six and a reference", scan.name)
        return record
    material = _Material.of(scan, request, bvals={s.bval for s in subsets}, truth=truth)
    brains = {
        b0: scan.brain(b0) if truth is None else truth.maps.mask
        for b0 in dict.fromkeys(s.reference_b0 for s in subsets)
    }
    for number, subset in enumerate(subsets):
        logger.info("%s: subset %d of %d", scan.name, number + 1, len(subsets))
        rng = np.random.default_rng([request.seed, number])
        brain = brains[subset.reference_b0]
        record["subsets"].append(_compare_subset(material, subset, brain, request, rng=rng))
    record["means"] = _means(record["subsets"])
    return record


@dataclass(frozen=True, eq=False)
class _Material:
    """What the subsets of a series share: the series, denoised or not, and fits of more of it.

    `dwi` and `denoised` are as acquired; `bring` takes them to the grid of `noise`. `more` has the
    maps by the b-value of the shell and by method.
    """

    dwi: Dwi
    denoised: dict[str, Dwi]
    more: dict[float, dict[str, TensorMaps]]
    truth: Truth | None
    bring: Bring
    noise: NDArray[np.float32] | None

    @classmethod
    def of(
        cls, scan: Scan, request: Request, *, bvals: set[float], truth: Truth | None
    ) -> _Material:
        dwi, bring, noise = scan.dwi, keep, None
        if truth is not None and scan.encoding is not None:
            bring = partial(undistort, truth=truth, encoding=scan.encoding)
            noise = undistorted_noise(dwi, truth, scan.encoding)
        wanted = {n for n in SERIES_ORACLES if n in request.methods}
        sources = {n: n.replace("-all", "-series") for n in WHOLE_SERIES if n in request.methods}
        series = {n: SERIES_ORACLES[n].apply(dwi) for n in sorted(wanted | {*sources.values()})}
        more: dict[float, dict[str, TensorMaps]] = {}
        for shell in (s for s in dwi.gtab.shells if s.bval in bvals):
            volumes = [*np.flatnonzero(dwi.gtab.is_b0), *shell.index]
            more[shell.bval] = {
                name: fit_tensor(bring(series[source].select(volumes)), shell="all")
                for name, source in sources.items()
            }
            # Above that b nothing is primary, so that no number of directions has to be found.
            if truth is not None and decides(shell.bval):
                rows = [name for name in DIRECTION_ROWS if name in request.methods]
                more[shell.bval] |= fit_directions(dwi.select(volumes), rows, bring=bring)
        return cls(dwi, {n: series[n] for n in wanted}, more, truth, bring, noise)


def _compare_subset(
    material: _Material,
    subset: SixSubset,
    brain: NDArray[np.bool_],
    request: Request,
    *,
    rng: np.random.Generator,
) -> dict[str, Any]:
    reference = (
        make_reference(
            material.dwi, subset, brain=brain, rng=rng, n_replicates=request.n_replicates
        )
        if material.truth is None
        else material.truth.reference()
    )

    def seven(series: Dwi) -> Dwi:
        part = series.select(subset.volumes)
        return part.with_mask(brain) if material.truth is None else part

    acquired, noise = seven(material.dwi), reference.noise
    found = compare_methods(
        acquired,
        reference,
        request,
        bring=material.bring,
        noise=material.noise,
        denoised={n: material.bring(seven(s)) for n, s in material.denoised.items()},
        more=material.more[subset.bval],
    )
    return {
        **asdict(subset),
        "estimated_snr": found.estimated_snr,
        "network_snrs": found.snrs,
        "network_ood_fractions": found.ood_fractions,
        "reference_free": None if noise is None else noise.n_free,
        "n_voxels": {name: int(region.sum()) for name, region in reference.regions.items()},
        "floor": {name: reference.floor(region) for name, region in reference.regions.items()},
        "methods": found.rows,
        "uncertainties": found.uncertainties,
    }


def _means(subsets: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over the subsets of each shell, see :func:`mean_of`."""
    means: dict[str, Any] = {}
    for bval in sorted({s["bval"] for s in subsets}):
        here = [s for s in subsets if s["bval"] == bval]
        means[f"{bval:.0f}"] = {"n_subsets": len(here), **mean_of(here)}
    return means


def mean_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means of voxels, floors, errors and uncertainties over subsets, or over series."""

    def average(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        deep = [k for k, v in parts[0].items() if isinstance(v, Mapping)]
        if not deep:
            return mean_rows(parts)
        return {k: average([p[k] for p in parts if k in p]) for k in deep}

    names = ("n_voxels", "network_snrs", "floor", "methods", "uncertainties")
    means = {name: average([r[name] for r in records]) for name in names}
    # Records that earlier versions saved lack it.
    oods = average([r.get("network_ood_fractions", {}) for r in records])
    return {**means, "network_ood_fractions": oods}
