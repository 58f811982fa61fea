"""Features across protocols: do they depend on the brain, and not on how it was scanned?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError
from dmri_fm.qspace import FEATURE_DIRECTIONS, choose_spread, one_of_each_direction
from dmri_fm_lab.evaluate.galleries import (
    acquire_tissue,
    brain_geometry,
    draw_gallery,
)
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.evaluate.reliability import format_reliability, score_reliability
from dmri_fm_lab.evaluate.representations import (
    FEATURES,
    baseline_features,
    compared_features,
    known_columns,
    stack_known,
    with_untrained,
)
from dmri_fm_lab.evaluate.retrieval import (
    agreement,
    probe,
    rank_one,
    retrieve,
    retrieve_linked,
)
from dmri_fm_lab.feature_cache import FeatureCache, Vectors
from dmri_fm_lab.grid_scans import EVALUATION, GridScan, ScanSources
from dmri_fm_lab.markdown_tables import markdown
from dmri_fm_lab.simulate.protocol import draw_shells
from dmri_fm_lab.simulate.subject import Tissue
from dmri_fm_lab.simulate.voxel_tissue import FACTORS, Geometry

logger = logging.getLogger(__name__)

_Array = NDArray[np.float64]

#: b-values of a gallery's protocols, which have directions of their own, s/mm^2. The probe is
#: trained on the first.
PROTOCOLS = {"A": 1000.0, "B": 1000.0, "C": 2000.0}

#: b-value and directions of the scans from which directions are drawn again and again.
DRAWN_BVAL, DRAWN_DIRECTIONS = 1000.0, 60

#: Retrievals, in the order of tables; see _NOTES.
_WAYS = ("raw", "centred", "linked")

_NOTES = {
    "gallery": "brains of one geometry, mask and b=0 contrast, from the generator that is not "
    "trained on; they differ in five factors of the microstructure. Each protocol has directions "
    "and noise of its own; C has another b-value too",
    "raw": "rank-1 by Euclidean distance of the raw features",
    "centred": "each feature standardised over the brains of its protocol, for every method",
    "linked": "rank-1 through a linear map between protocols, learnt from the other four fifths "
    "of the brains, which both protocols scanned",
    "probe": "R^2 of held-out brains; ridge, trained on A, the penalty chosen within folds",
}


@dataclass(frozen=True)
class ProtocolRequest:
    """Size of a gallery, and its scans.

    Attributes
    ----------
    n_brains
        Members of the gallery.
    n_directions
        Directions of each protocol.
    snr
        b=0 signal of white matter over the noise.
    seed
        Seed of geometry, tissues, protocols and noise.
    n_drawn
        Brains that are scanned with :data:`DRAWN_DIRECTIONS` directions, too, for the intraclass
        correlation over draws of `n_directions`; 0: none.
    n_draws
        Draws from each.
    """

    n_brains: int = 100
    n_directions: int = FEATURE_DIRECTIONS
    snr: float = 25.0
    seed: int = 0
    n_drawn: int = 20
    n_draws: int = 4

    def __post_init__(self) -> None:
        if self.n_brains < 10 or self.n_directions < 7 or not self.snr > 0:
            raise ConfigError(
                f"{self.n_brains} brains, {self.n_directions} directions, SNR {self.snr:g}",
                expected="10 brains, 7 directions or more, an SNR above zero",
            )
        if not 0 <= self.n_drawn <= self.n_brains or self.n_draws < 2:
            raise ConfigError(
                f"{self.n_draws} draws from each of {self.n_drawn} brains",
                expected=f"two draws or more, from {self.n_brains} brains or fewer",
            )


def evaluate_protocols(
    encoder: Drope,
    sources: ScanSources,
    request: ProtocolRequest | None,
    *,
    n_directions: int = FEATURE_DIRECTIONS,
    n_draws: int = 4,
    cache: Path | None = None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Compare features across directions of scans, and across protocols of a gallery.

    Parameters
    ----------
    encoder
        Trained encoder.
    sources
        Scans for :func:`compare_directions`.
    request
        Gallery for :func:`evaluate_gallery`; None: no gallery.
    n_directions
        Directions of each of the two sets that a scan is cut into, and of a draw.
    n_draws
        Draws of directions from each scan, for the intraclass correlation.
    cache
        Folder of the gallery's features, see :class:`FeatureCache`.
    report
        Function that receives the tables of each part when that is complete.

    Returns
    -------
    dict
        JSON-ready: `directions` and `reliability` with scans, `gallery` with a gallery.

    Raises
    ------
    ConfigError
        If neither scans nor a gallery are asked for.
    """
    if not (sources.has_scans or request):
        raise ConfigError("nothing to evaluate", expected="BIDS, --simulated or --gallery")
    grid, parts = encoder.config.grid, {}
    if sources.has_scans:
        parts["directions"] = compare_directions(
            encoder, sources.scans(grid), n_directions=n_directions, seed=sources.seed
        )
        report(format_agreement(parts["directions"]))
        parts["reliability"] = score_reliability(
            with_untrained(encoder, seed=sources.seed),
            sources.scans(grid, n_directions=DRAWN_DIRECTIONS),
            n_draws=n_draws,
            n_directions=n_directions,
            seed=sources.seed,
        )
        report(format_reliability(parts["reliability"]))
    if request:
        geometry = brain_geometry(grid, seed=request.seed)
        parts["gallery"] = evaluate_gallery(encoder, geometry, request, cache=cache)
        report(format_gallery(parts["gallery"]))
    return parts


def evaluate_gallery(
    encoder: Drope,
    geometry: Geometry,
    request: ProtocolRequest,
    *,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Scan a gallery by three protocols; retrieve its members, and predict their tissue.

    `cache` is a folder of features, see :class:`FeatureCache`.

    Returns
    -------
    dict
        JSON-ready: `retrieval` by representation and pair of protocols, `probe` by
        representation and factor; `reliability`, see :func:`score_reliability`.
    """
    rng = np.random.default_rng([EVALUATION, 3, request.seed])
    tissues = draw_gallery(rng, request.n_brains)
    bvals = tuple(PROTOCOLS.values())
    gtabs = draw_shells(rng, n_directions=request.n_directions, bvals=bvals)
    encoders = with_untrained(encoder, seed=request.seed)
    stored = FeatureCache.of(cache, encoder, request, geometry, tissues, gtabs)
    rows: dict[str, dict[str, list[_Array]]] = {f: {p: [] for p in PROTOCOLS} for f in FEATURES}
    for number, tissue in enumerate(tissues):
        if number % 20 == 0:
            logger.info("brain %d of %d", number + 1, request.n_brains)
        for k, (protocol, gtab) in enumerate(zip(PROTOCOLS, gtabs, strict=True)):
            noise = np.random.default_rng([EVALUATION, 3, request.seed, number, k])
            acquire = partial(acquire_tissue, geometry, tissue, gtab, snr=request.snr, rng=noise)
            compute = partial(_all_features, encoders, acquire)
            for name, vector in stored.get(f"{protocol}-{number:04d}", compute).items():
                rows[name][protocol].append(vector)
    stacked = {name: stack_known(name, by) for name, by in rows.items()}
    factors = np.array([[getattr(t, name) for name in FACTORS] for t in tissues])
    drawn = _drawn_scans(geometry, tissues[: request.n_drawn], request)
    return json_ready(
        {
            "request": asdict(request),
            "protocols": PROTOCOLS,
            "versions": versions(),
            "notes": _NOTES,
            "retrieval": {
                name: {
                    f"A-{p}": {
                        **retrieve(by["A"], by[p]),
                        "linked": retrieve_linked(by["A"], by[p], seed=request.seed),
                    }
                    for p in list(PROTOCOLS)[1:]
                }
                for name, by in stacked.items()
            },
            "probe": {name: _probe(by, factors, request.seed) for name, by in stacked.items()},
            "reliability": score_reliability(
                encoders,
                drawn,
                n_draws=request.n_draws,
                n_directions=request.n_directions,
                seed=request.seed,
            ),
        }
    )


def _all_features(encoders: Mapping[str, Drope], acquire: Callable[[], GridScan]) -> Vectors:
    scan = acquire()
    return {**compared_features(encoders, scan), **baseline_features(scan)}


def _drawn_scans(
    geometry: Geometry, tissues: Sequence[Tissue], request: ProtocolRequest
) -> Iterator[GridScan]:
    """Scan brains with many directions, which are the same for all."""
    rng = np.random.default_rng([EVALUATION, 5, request.seed])
    (gtab,) = draw_shells(rng, n_directions=DRAWN_DIRECTIONS, bvals=(DRAWN_BVAL,))
    for number, tissue in enumerate(tissues):
        logger.info("draws from brain %d of %d", number + 1, len(tissues))
        name = f"brain {number + 1}"
        yield acquire_tissue(geometry, tissue, gtab, snr=request.snr, rng=rng, name=name)


def _probe(by_protocol: Mapping[str, _Array], targets: _Array, seed: int) -> dict[str, Any]:
    """Return R^2 by factor and protocol."""
    raw, centred = probe(list(by_protocol.values()), targets, seed=seed)
    names = [*by_protocol, *(f"{name} centred" for name in by_protocol)]
    scores = np.concatenate([raw, centred]).T.tolist()
    return {k: dict(zip(names, row, strict=True)) for k, row in zip(FACTORS, scores, strict=True)}


def compare_directions(
    encoder: Drope,
    scans: Iterable[GridScan],
    *,
    n_directions: int = FEATURE_DIRECTIONS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare features of two disjoint sets of distinct directions of the same scan.

    Both are spread over q-space.

    Parameters
    ----------
    encoder
        Trained encoder; its untrained twins are compared, too.
    scans
        Scans on its grid; with two or more, features of different scans are compared, too.
    n_directions
        Directions of each set; half of the scan's distinct ones, if they are fewer.
    seed
        Seed of the choice of directions.

    Returns
    -------
    dict
        JSON-ready. `scans`: cosine and relative distance by scan; `between`: means of the same
        between different scans; `rank_one`: share of scans retrieved among the others.
    """
    encoders, gamma = with_untrained(encoder, seed=seed), encoder.config.gamma
    names: list[str] = []
    pairs: dict[str, list[tuple[_Array, _Array]]] = {}
    for measured in scans:
        scan = measured.select(one_of_each_direction(measured.gtab))
        n = min(n_directions, len(scan.gtab) // 2)
        if n < 1:
            logger.warning("%s: has no two directions", scan.name)
            continue
        first = choose_spread(scan.gtab, n, seed=seed, gamma=gamma)
        rest = np.setdiff1d(np.arange(len(scan.gtab)), first)
        second = rest[choose_spread(scan.gtab.select(rest), n, seed=seed, gamma=gamma)]
        halves = [compared_features(encoders, scan.select(part)) for part in (first, second)]
        for name in halves[0]:
            pairs.setdefault(name, []).append((halves[0][name], halves[1][name]))
        names.append(f"{scan.name}, 2 x {n}")
    if not names:
        raise ConfigError("no scan with two directions", expected="one scan or more")
    return json_ready({name: _agreement(names, _known(name, of)) for name, of in pairs.items()})


def _known(feature: str, pairs: Sequence[tuple[_Array, _Array]]) -> list[tuple[_Array, _Array]]:
    """Leave out the features that are unknown in a set of directions of any scan."""
    known = known_columns(feature, [row for pair in pairs for row in pair])
    return [(a[known], b[known]) for a, b in pairs]


def _agreement(names: Sequence[str], pairs: Sequence[tuple[_Array, _Array]]) -> dict[str, Any]:
    """Compare features within scans and between them."""
    same = [agreement(a, b) for a, b in pairs]
    other = [
        agreement(a, b)
        for i, (a, _) in enumerate(pairs)
        for j, (_, b) in enumerate(pairs)
        if i != j
    ]
    entry: dict[str, Any] = {"scans": dict(zip(names, same, strict=True))}
    if other:
        entry["between"] = {k: float(np.mean([o[k] for o in other])) for k in other[0]}
        apart = [[np.linalg.norm(a - b) for _, b in pairs] for a, _ in pairs]
        entry["rank_one"] = rank_one(np.array(apart))
    return entry


def format_gallery(record: Mapping[str, Any]) -> str:
    """Return retrieval, probe and intraclass correlations as markdown tables."""
    pairs = list(next(iter(record["retrieval"].values())))
    retrieval = [
        [f"rank-1, {' / '.join(_WAYS)}", *(f"{p}, b {_bvals(p)}" for p in pairs), "chance"],
        *(
            [
                FEATURES[name],
                *(" / ".join(f"{by[p][k]:.3f}" for k in _WAYS) for p in pairs),
                f"{by[pairs[0]]['chance']:.3f}",
            ]
            for name, by in record["retrieval"].items()
        ),
    ]
    columns = [*PROTOCOLS, *(f"{p} centred" for p in PROTOCOLS)]
    probes = [
        ["R^2, trained on A", *columns],
        *(
            [f"{FEATURES[name]}, {factor}", *(f"{scores[c]:.3f}" for c in columns)]
            for name, by in record["probe"].items()
            for factor, scores in by.items()
        ),
    ]
    reliability = format_reliability(record["reliability"])
    return "\n\n".join([markdown(retrieval), markdown(probes), reliability])


def _bvals(pair: str) -> str:
    return " and ".join(f"{PROTOCOLS[p]:.0f}" for p in pair.split("-"))


def format_agreement(record: Mapping[str, Any]) -> str:
    """Return the agreement of two sets of directions as a markdown table."""
    lines = [["features", "scan", "cosine", "relative distance"]]
    for name, entry in record.items():
        between = {"different scans": entry["between"]} if "between" in entry else {}
        lines += [
            [FEATURES[name], scan, f"{v['cosine']:.4f}", f"{v['relative_distance']:.4f}"]
            for scan, v in {**entry["scans"], **between}.items()
        ]
    return markdown(lines)
