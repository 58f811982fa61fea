"""Do features of a scan depend on the brain, and not on how it was scanned?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError
from dmri_fm.qspace import FEATURE_DIRECTIONS, choose_spread
from dmri_fm_lab.evaluate.galleries import (
    FACTORS,
    Geometry,
    acquire_tissue,
    brain_geometry,
    draw_gallery,
)
from dmri_fm_lab.evaluate.records import json_ready, markdown, versions
from dmri_fm_lab.evaluate.representations import (
    FEATURES,
    encode,
    encode_in_parts,
    plain_features,
    untrained,
)
from dmri_fm_lab.evaluate.retrieval import (
    agreement,
    probe,
    rank_one,
    retrieve,
    retrieve_linked,
)
from dmri_fm_lab.grid_scans import EVALUATION, GridScan, ScanSources
from dmri_fm_lab.simulate.protocol import draw_shells

__all__ = [
    "ProtocolRequest",
    "compare_directions",
    "evaluate_gallery",
    "evaluate_protocols",
    "format_agreement",
    "format_gallery",
]

logger = logging.getLogger(__name__)

_Array = NDArray[np.float64]


#: Protocols of a gallery, all with directions of their own. The probe is trained on the first.
PROTOCOLS = {"A": 1000.0, "B": 1000.0, "C": 2000.0}


#: Ways to look brains up, in the order of tables; see _NOTES.
_WAYS = ("raw", "centred", "linked")

_NOTES = {
    "gallery": "one head of the generator that is not trained on; its members share geometry, "
    "mask and b=0 contrast and differ in five factors of the microstructure. Each protocol has "
    "directions and noise of its own; C has another b-value too",
    "raw": "rank-1 by Euclidean distance of the features as they are",
    "centred": "each feature standardised over the brains of its protocol, for every method",
    "linked": "rank-1 of brains that one protocol alone needs: a linear map between protocols was "
    "learnt from the other four fifths of the brains, scanned by both",
    "probe": "R^2 of held-out brains; ridge, trained on A, the penalty chosen within folds",
}


@dataclass(frozen=True)
class ProtocolRequest:
    """How large a gallery, and how it is scanned.

    Attributes
    ----------
    n_brains
        Members.
    n_directions
        Of each protocol.
    snr
        b=0 signal of white matter over the noise.
    seed
        Of everything but the geometry.
    """

    n_brains: int = 200
    n_directions: int = FEATURE_DIRECTIONS
    snr: float = 25.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_brains < 10 or self.n_directions < 7 or not self.snr > 0:
            raise ConfigError(
                f"{self.n_brains} brains, {self.n_directions} directions, SNR {self.snr:g}",
                expected="10 brains, 7 directions or more, an SNR above zero",
            )


def evaluate_protocols(
    encoder: Drope,
    sources: ScanSources,
    request: ProtocolRequest | None,
    *,
    n_directions: int = FEATURE_DIRECTIONS,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Compare features across directions of scans, and across protocols of a gallery.

    Parameters
    ----------
    encoder
        Trained.
    sources
        Scans for :func:`compare_directions`.
    request
        Gallery for :func:`evaluate_gallery`; None: no gallery.
    n_directions
        Directions of each of the two sets that a scan is cut into.
    report
        Called with the tables of each part as soon as they are there.

    Returns
    -------
    dict
        JSON-ready: `directions` and `gallery`, where there are scans, or a gallery.

    Raises
    ------
    ConfigError
        If neither scans nor a gallery are asked for.
    """
    if not (sources.has_scans or request):
        raise ConfigError("nothing to evaluate", expected="BIDS, --simulated or --gallery")
    grid, found = encoder.config.grid, {}
    if sources.has_scans:
        found["directions"] = compare_directions(
            encoder, sources.scans(grid), n_directions=n_directions, seed=sources.seed
        )
        report(format_agreement(found["directions"]))
    if request:
        geometry = brain_geometry(grid, seed=request.seed)
        found["gallery"] = evaluate_gallery(encoder, geometry, request)
        report(format_gallery(found["gallery"]))
    return found


def evaluate_gallery(
    encoder: Drope, geometry: Geometry, request: ProtocolRequest
) -> dict[str, Any]:
    """Scan a gallery by three protocols; retrieve its members, and predict their tissue.

    Returns
    -------
    dict
        JSON-ready: `retrieval` by representation and pair of protocols, `probe` by
        representation and factor.
    """
    rng = np.random.default_rng([EVALUATION, 3, request.seed])
    tissues = draw_gallery(rng, request.n_brains)
    tables = dict(
        zip(
            PROTOCOLS,
            draw_shells(rng, n_directions=request.n_directions, bvals=tuple(PROTOCOLS.values())),
            strict=True,
        )
    )
    plain = untrained(encoder, seed=request.seed)
    rows: dict[str, dict[str, list[_Array]]] = {f: {p: [] for p in PROTOCOLS} for f in FEATURES}
    for number, tissue in enumerate(tissues):
        if number % 20 == 0:
            logger.info("brain %d of %d", number + 1, request.n_brains)
        for protocol, gtab in tables.items():
            scan = acquire_tissue(geometry, tissue, gtab, snr=request.snr, rng=rng)
            found = {
                **encode_in_parts(encoder, scan),
                "untrained": encode(plain, scan),
                **plain_features(scan),
            }
            for name, features in found.items():
                rows[name][protocol].append(features)
    stacked = {f: {p: np.stack(v) for p, v in by.items()} for f, by in rows.items()}
    factors = {name: np.array([getattr(t, name) for t in tissues]) for name in FACTORS}
    result: dict[str, Any] = json_ready(
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
            "probe": {
                name: {k: _probe(by, y, request.seed) for k, y in factors.items()}
                for name, by in stacked.items()
            },
        }
    )
    return result


def _probe(by_protocol: Mapping[str, _Array], target: _Array, seed: int) -> dict[str, float]:
    as_is, centred = probe(list(by_protocol.values()), target, seed=seed)
    names = list(by_protocol)
    return {
        **dict(zip(names, as_is, strict=True)),
        **{f"{n} centred": r for n, r in zip(names, centred, strict=True)},
    }


def compare_directions(
    encoder: Drope,
    scans: Iterable[GridScan],
    *,
    n_directions: int = FEATURE_DIRECTIONS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare features of two disjoint sets of directions of the same scan.

    Both are spread over q-space.

    Parameters
    ----------
    encoder
        Trained; one untrained is put beside it.
    scans
        On its grid; of two or more, features of different scans are compared, too.
    n_directions
        Of each set; half of the scan's directions, if they are fewer.
    seed
        Of the choice of directions.

    Returns
    -------
    dict
        JSON-ready. `scans`: cosine and relative distance by scan; `between`: means of the same
        between different scans; `rank_one`: share of scans retrieved among the others.
    """
    plain = untrained(encoder, seed=seed)
    names: list[str] = []
    pairs: dict[str, list[tuple[_Array, _Array]]] = {}
    for scan in scans:
        n = min(n_directions, len(scan.gtab) // 2)
        if n < 1:
            logger.warning("%s: has no two directions", scan.name)
            continue
        gamma = encoder.config.gamma
        first = choose_spread(scan.gtab, n, seed=seed, gamma=gamma)
        rest = np.setdiff1d(np.arange(len(scan.gtab)), first)
        second = rest[choose_spread(scan.gtab.select(rest), n, seed=seed, gamma=gamma)]
        halves = [
            {**encode_in_parts(encoder, part), "untrained": encode(plain, part)}
            for part in (scan.select(first), scan.select(second))
        ]
        for name in halves[0]:
            pairs.setdefault(name, []).append((halves[0][name], halves[1][name]))
        names.append(f"{scan.name}, 2 x {n}")
    if not names:
        raise ConfigError("no scan with two directions", expected="one scan or more")
    result: dict[str, Any] = {}
    for name, found in pairs.items():
        same = [agreement(a, b) for a, b in found]
        other = [agreement(a, b) for i, (a, _) in enumerate(found) for j, (_, b) in
                 enumerate(found) if i != j]  # fmt: skip
        entry: dict[str, Any] = {"scans": dict(zip(names, same, strict=True))}
        if other:
            entry["between"] = {k: float(np.mean([o[k] for o in other])) for k in other[0]}
            apart = [[np.linalg.norm(a - b) for _, b in found] for a, _ in found]
            entry["rank_one"] = rank_one(np.array(apart))
        result[name] = entry
    cleaned: dict[str, Any] = json_ready(result)
    return cleaned


def format_gallery(found: Mapping[str, Any]) -> str:
    """Return retrieval and probe as markdown tables."""
    pairs = list(next(iter(found["retrieval"].values())))
    rows = [
        [
            FEATURES[name],
            *(" / ".join(f"{by[p][k]:.3f}" for k in _WAYS) for p in pairs),
            f"{by[pairs[0]]['chance']:.3f}",
        ]
        for name, by in found["retrieval"].items()
    ]
    titles = [f"rank-1, {' / '.join(_WAYS)}", *(f"{p}, b {_bvals(p)}" for p in pairs), "chance"]
    blocks = [markdown(titles, rows)]
    columns = [*PROTOCOLS, *(f"{p} centred" for p in PROTOCOLS)]
    rows = [
        [f"{FEATURES[name]}, {factor}", *(f"{scores[c]:.3f}" for c in columns)]
        for name, by in found["probe"].items()
        for factor, scores in by.items()
    ]
    return "\n\n".join([*blocks, markdown(["R^2, trained on A", *columns], rows)])


def _bvals(pair: str) -> str:
    return " and ".join(f"{PROTOCOLS[p]:.0f}" for p in pair.split("-"))


def format_agreement(found: Mapping[str, Any]) -> str:
    """Return the agreement of two sets of directions as a markdown table."""
    rows = []
    for name, entry in found.items():
        lines = {**entry["scans"], "different scans": entry.get("between")}
        for scan, values in lines.items():
            if values is not None:
                rows.append(
                    [
                        FEATURES[name],
                        scan,
                        f"{values['cosine']:.4f}",
                        f"{values['relative_distance']:.4f}",
                    ]
                )
    return markdown(["features", "scan", "cosine", "relative distance"], rows)
