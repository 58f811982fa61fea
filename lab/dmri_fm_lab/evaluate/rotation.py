"""Does a network use the directions? Masked directions, with directions permuted and without.

R is the share of what the mean of the visible directions leaves unexplained, noise apart, that a
prediction explains: R = 1 - (e^2 - floor) / (e_mean^2 - floor), in white matter, where signals
depend on direction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.encoders.drope.mae import Mask, MaskedAutoencoder
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.errors import ConfigError
from dmri_fm.normalise.signal import CLIP
from dmri_fm.qspace import FEATURE_DIRECTIONS
from dmri_fm_lab.evaluate.masked_scans import (
    choose_directions,
    draw_direction_mask,
    fit_reference,
    reconstruct,
    seen_voxels,
    series,
)
from dmri_fm_lab.evaluate.permuted_directions import (
    Permuted,
    draw_permutation,
    permute_directions,
)
from dmri_fm_lab.evaluate.reconstruction_baselines import DIRECTION_BASELINES
from dmri_fm_lab.evaluate.records import json_ready, score_each, versions
from dmri_fm_lab.evaluate.scores import Row, mean_rows
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.markdown_tables import Column, markdown, table_cells

logger = logging.getLogger(__name__)

#: Permutations of a network by name: what is permuted, and whether in the decoder, too.
PERMUTATIONS: dict[str, tuple[Permuted, bool]] = {
    "distances, encoder": ("distances", False),
    "code, encoder": ("code", False),
    "both, encoder": ("both", False),
    "distances, encoder and decoder": ("distances", True),
    "code, encoder and decoder": ("code", True),
    "both, encoder and decoder": ("both", True),
}

#: Baselines beside the network, by their names in DIRECTION_BASELINES.
BASELINES = ("mean", "gaussian-process", "stacked")

#: Title of every row, in the order of tables.
TITLES = {
    "network": "network",
    **{name: f"permuted: {name}" for name in PERMUTATIONS},
    **{name: DIRECTION_BASELINES[name].title for name in BASELINES},
}

_COLUMNS = {
    "rmse": Column("RMSE", ".4f"),
    "r": Column("R", ".3f"),
    "spread": Column("spread of R", ".3f"),
    "of_process": Column("of the Gaussian process's R", ".2f"),
}

_NOTES = {
    "r": "1 - (e^2 - floor) / (e_mean^2 - floor), e the error of masked directions in white "
    "matter, e_mean that of the mean of the visible directions of the nearest b-value; squared "
    "errors are averaged over masks first",
    "white": "tensor, of all volumes of the scan, without noise where that is known: smoothed by "
    "a Gaussian of 0.7 voxel, FA > 0.25",
    "floor": "truth: noise of the masked volumes. repeats: half of the mean squared difference of "
    "two volumes within 2 degrees, which holds motion between them, too. estimate: from the "
    "residuals of the series on the grid, which "
    "interpolation makes look less than it is; R is then too low, for all methods",
    "permuted": "visible volumes of a shell swap directions, so that none keeps its own; images "
    "and the directions of masked volumes stay. distances: the rotations between directions. "
    "code: the code of direction and b that is added to tokens. both: distances and code. "
    "encoder: the decoder is told the true directions. Two visible volumes of a shell can only "
    "swap, which keeps their own distance: read distances of scans with one shell",
    "spread": "standard deviation over permutations",
    "directions": "distinct ones, one volume each: volumes of one shell within 5 degrees of each "
    "other measure one direction",
}


@dataclass(frozen=True)
class RotationRequest:
    """Directions, masks and permutations of an evaluation.

    Attributes
    ----------
    n_directions
        Distinct directions of a scan; scans with fewer are skipped.
    n_masks
        Masks of directions.
    n_permutations
        Permutations of each mask's visible directions; 0: the network is told the truth only.
    seed
        Seed of directions, masks and permutations.
    """

    n_directions: int = FEATURE_DIRECTIONS
    n_masks: int = 3
    n_permutations: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_directions < 4 or self.n_masks < 1 or self.n_permutations < 0:
            raise ConfigError(
                f"{self.n_directions} directions, {self.n_masks} masks, "
                f"{self.n_permutations} permutations",
                expected="four directions or more, a mask or more",
            )


@dataclass(frozen=True, eq=False)
class _Trial:
    """A scan with a mask of directions."""

    network: MaskedAutoencoder
    scan: GridScan
    tokens: ScanTokens
    where: NDArray[np.bool_]
    mask: Mask

    @property
    def kept(self) -> NDArray[np.int_]:
        return np.asarray(self.mask.kept[0].numpy())

    @property
    def masked(self) -> NDArray[np.int_]:
        return np.setdiff1d(np.arange(len(self.scan.gtab)), self.kept)

    def square(self, volumes: NDArray[np.float32]) -> float:
        """Return the mean squared error of the masked volumes (X, Y, Z, H)."""
        measured = self.scan.signal[self.where][:, self.masked].astype(np.float64)
        return float(np.mean((volumes[self.where] - measured) ** 2))

    def network_square(self) -> float:
        whole = reconstruct(self.network, self.scan, self.tokens, self.mask)
        return self.square(np.clip(whole[..., self.masked], *CLIP))

    def baseline_square(self, name: str) -> float:
        visible = series(self.scan, self.scan.signal).select(self.kept)
        wanted = self.scan.gtab.select(self.masked)
        return self.square(DIRECTION_BASELINES[name].apply(visible, wanted))

    def permuted_squares(self, rng: np.random.Generator) -> dict[str, float]:
        """Return errors of the network by permutation, all with one order of directions."""
        order = draw_permutation(rng, self.scan.gtab.select(self.kept))
        squares = {}
        for name, (what, in_decoder) in PERMUTATIONS.items():
            with permute_directions(
                self.network,
                order,
                kept=self.kept,
                n_directions=len(self.scan.gtab),
                what=what,
                in_decoder=in_decoder,
            ):
                squares[name] = self.network_square()
        return squares


def score_rotation(
    network: MaskedAutoencoder, scan: GridScan, request: RotationRequest
) -> dict[str, Any] | None:
    """Mask directions of a scan, and predict them with and without permutations.

    Returns
    -------
    dict or None
        JSON-ready; `rows` by method: `rmse`, `r`, and of permutations the `spread` of R. None,
        with a warning, if the scan has too few distinct directions or no white matter.
    """
    gamma = network.config.encoder.gamma
    part = choose_directions(scan, request.n_directions, gamma=gamma, seed=request.seed)
    if part is None:
        return None
    tokens = tokenise(part.signal, part.gtab, part.mask, network.config.encoder)
    _, regions = fit_reference(scan)
    seen = part.mask & seen_voxels(tokens, network)
    where = seen if regions is None else seen & regions.white
    if regions is None or not where.any():
        logger.warning("%s: skipped, no white matter", scan.name)
        return None
    trials = []
    for number in range(request.n_masks):
        rng = np.random.default_rng([request.seed, number])
        mask = draw_direction_mask(rng, network, part.gtab, n_patches=len(tokens.index))
        trials.append(_Trial(network, part, tokens, where, mask))
    source, floor = _noise_floor(scan, trials)
    squares = {"network": [_mean(t.network_square() for t in trials)]}
    permuted = [_permute_all(trials, request.seed, n) for n in range(request.n_permutations)]
    squares |= {name: [p[name] for p in permuted] for name in PERMUTATIONS if permuted}
    squares |= {name: [_mean(t.baseline_square(name) for t in trials)] for name in BASELINES}
    logger.info("%s: %d masks", scan.name, len(trials))
    return json_ready(
        {
            "name": scan.name,
            "origin": scan.origin,
            "shells": {f"{s.bval:.0f}": len(s.index) for s in part.gtab.shells},
            "n_voxels": int(where.sum()),
            "floor": {"source": source, "rmse": float(np.sqrt(floor))},
            "rows": _rows(squares, floor),
        }
    )


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _permute_all(trials: Sequence[_Trial], seed: int, number: int) -> dict[str, float]:
    """Return mean squared errors of the network over masks, by permutation."""
    squares = [
        trial.permuted_squares(np.random.default_rng([seed, number, k, 1]))
        for k, trial in enumerate(trials)
    ]
    return {name: _mean(s[name] for s in squares) for name in PERMUTATIONS}


def _rows(squares: Mapping[str, Sequence[float]], floor: float) -> dict[str, Row]:
    """Turn mean squared errors, several of each permutation, into rows of a table."""
    level = squares["mean"][0]
    rows: dict[str, Row] = {}
    for name, values in squares.items():
        r = np.array([explained(value, level, floor) for value in values])
        rows[name] = {
            "rmse": float(np.sqrt(np.mean(values))),
            "r": float(r.mean()),
            "spread": float(r.std(ddof=1)) if len(r) > 1 else None,
        }
    return _relate(rows)


def _relate(rows: Mapping[str, Row]) -> dict[str, Row]:
    """Add to each row its R over that of the Gaussian process."""
    process = rows["gaussian-process"]["r"]
    return {
        name: {
            **row,
            "of_process": row["r"] / process if process and row["r"] is not None else None,
        }
        for name, row in rows.items()
    }


def explained(square: float, mean_square: float, floor: float) -> float:
    """Return R of a squared error, given those of the mean and of the noise; NaN if undefined.

    Examples
    --------
    >>> explained(0.02, 0.05, 0.01)
    0.75
    >>> explained(0.01, 0.05, 0.01), explained(0.05, 0.05, 0.01)
    (1.0, 0.0)
    """
    if mean_square <= floor:
        return float("nan")
    return 1.0 - (square - floor) / (mean_square - floor)


def _noise_floor(scan: GridScan, trials: Sequence[_Trial]) -> tuple[str, float]:
    """Return the variance of the noise in the trials' voxels, and its source."""
    where = trials[0].where
    if scan.clean is not None:
        return "truth", _mean(t.scan.floor_rmse(t.masked, where) ** 2 for t in trials)
    shells = (scan.gtab.group_axes(shell.index) for shell in scan.gtab.shells)
    pairs = [group[:2] for of_shell in shells for group in of_shell if len(group) > 1]
    if pairs:
        first, second = (scan.signal[where][:, list(v)] for v in zip(*pairs, strict=True))
        return "repeats", float(np.mean((first.astype(np.float64) - second) ** 2) / 2)
    return "estimate", scan.floor_rmse(trials[0].masked, where) ** 2


def score_rotations(
    network: MaskedAutoencoder,
    scans: Iterable[GridScan],
    request: RotationRequest,
    *,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Score every scan.

    Parameters
    ----------
    network
        Autoencoder, with its decoder.
    scans
        Scans on its encoder's grid.
    request
        Directions, masks and permutations.
    report
        Function that receives the record of each scan when that is complete.

    Returns
    -------
    dict
        JSON-ready: a record per scan, and `means` of the rows by origin of the scans.

    Raises
    ------
    ConfigError
        If no scan can be scored.
    """
    records = score_each(
        scans,
        lambda scan: score_rotation(network, scan, request),
        report=report,
        fewest_directions=request.n_directions,
    )
    return json_ready(
        {
            "request": asdict(request),
            "versions": versions(),
            "notes": _NOTES,
            "scans": records,
            "means": mean_by_origin(records),
        }
    )


def mean_by_origin(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Row]]:
    """Return means of the rows over the scans of each origin."""
    origins = dict.fromkeys(record["origin"] for record in records)
    return {
        origin: _relate(
            {
                name: mean_rows([r["rows"][name] for r in records if r["origin"] == origin])
                for name in records[0]["rows"]
            }
        )
        for origin in origins
    }


def format_rotation(record: Mapping[str, Any]) -> str:
    """Return the record of a scan as a markdown table."""
    shells = ", ".join(f"{n} x b{b}" for b, n in record["shells"].items())
    floor = record["floor"]
    title = (
        f"{record['name']} ({record['origin']}), {shells}, {record['n_voxels']} voxels of white "
        f"matter, noise {floor['rmse']:.4f} ({floor['source']})"
    )
    return f"{title}\n\n{format_rows(record['rows'])}"


def format_rows(rows: Mapping[str, Row]) -> str:
    """Return rows as a markdown table."""
    titled = {title: rows[name] for name, title in TITLES.items() if name in rows}
    return markdown(table_cells(titled, _COLUMNS))
