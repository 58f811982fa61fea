"""Slabs against whole brains: training reads slabs, features are those of whole brains."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.encoders.drope.encoder import run_network
from dmri_fm.encoders.drope.mae import MaskedAutoencoder
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.errors import ConfigError
from dmri_fm.normalise.signal import CLIP
from dmri_fm.qspace import FEATURE_DIRECTIONS
from dmri_fm_lab.evaluate.direction_models import shell_means
from dmri_fm_lab.evaluate.masked_scans import (
    choose_directions,
    draw_direction_mask,
    reconstruct,
    seen_voxels,
)
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.evaluate.retrieval import agreement
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.markdown_tables import Column, markdown, table_cells

logger = logging.getLogger(__name__)

_COLUMNS = {
    "rmse_whole": Column("RMSE, whole", ".4f"),
    "rmse_slabs": Column("RMSE, slabs", ".4f"),
    "rmse_mean": Column("RMSE, mean of visible", ".4f"),
    "tokens": Column("tokens apart", ".4f"),
    "cls": Column("CLS apart", ".4f"),
}

_NOTES = {
    "rmse": "error of masked directions, the same mask and voxels of the brain for both",
    "tokens": "patch tokens, mean over directions, of slabs against those of the whole scan at "
    "the same positions: norm of the difference over the mean norm",
    "cls": "mean class token of the slabs against that of the whole scan, likewise",
    "between": "the same between two whole scans, at positions that both have; mean over pairs",
}


@dataclass(frozen=True, eq=False)
class WholeScan:
    """Features of a whole scan, to be compared with those of other scans.

    Attributes
    ----------
    index
        Shape (S,): indices of its patches on the grid.
    patches
        Shape (S, d): patch tokens, mean over directions.
    cls
        Shape (d,).
    """

    index: NDArray[np.int_]
    patches: NDArray[np.float64]
    cls: NDArray[np.float64]

    def apart(self, other: WholeScan) -> dict[str, float]:
        """Return relative distances of tokens, at common positions, and of class tokens."""
        _, own, others = np.intersect1d(self.index, other.index, return_indices=True)
        return {
            "tokens": _distance(self.patches[own], other.patches[others]),
            "cls": _distance(self.cls, other.cls),
        }


def _distance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return agreement(first.ravel(), second.ravel())["relative_distance"]


def cut_slabs(
    tokens: ScanTokens, network: MaskedAutoencoder, *, n_slices: int
) -> list[NDArray[np.int_]]:
    """Return the numbers of the patches of each slab that holds any, from below.

    Raises ConfigError if patches do not tile a slab.
    """
    config = network.config.encoder
    if n_slices < 1 or n_slices % config.patch[2]:
        raise ConfigError(
            f"slabs of {n_slices} slices", expected=f"a multiple of {config.patch[2]}"
        )
    layer = tokens.index % config.patch_grid[2] // (n_slices // config.patch[2])
    return [np.flatnonzero(layer == number) for number in np.unique(layer)]


def encode_whole(encoder: Drope, tokens: ScanTokens) -> WholeScan:
    """Encode what there is of a scan at once."""
    cls, patches = run_network(encoder, tokens)
    mean = patches.mean(dim=0).double().cpu().numpy()
    return WholeScan(tokens.index, mean, cls.double().cpu().numpy())


def score_slabs(
    network: MaskedAutoencoder, scan: GridScan, *, n_slices: int, seed: int = 0
) -> tuple[dict[str, float], WholeScan]:
    """Compare a scan as slabs with the whole of it.

    Parameters
    ----------
    network
        Autoencoder, with its decoder.
    scan
        Directions to read, on its encoder's grid.
    n_slices
        Slices of a slab; slabs lie one upon the other.
    seed
        Seed of the mask of directions.

    Returns
    -------
    row : dict
        Errors of masked directions, and distances of slabs from the whole, see the table's
        columns.
    whole : WholeScan
    """
    tokens = tokenise(scan.signal, scan.gtab, scan.mask, network.config.encoder)
    slabs = cut_slabs(tokens, network, n_slices=n_slices)
    rng = np.random.default_rng(seed)
    mask = draw_direction_mask(rng, network, scan.gtab, n_patches=len(tokens.index))
    kept = mask.kept[0].numpy()
    masked = np.setdiff1d(np.arange(len(scan.gtab)), kept)
    where = scan.mask & seen_voxels(tokens, network)
    target = scan.signal[where].astype(np.float64)
    at_once = reconstruct(network, scan, tokens, mask)[where]
    piecewise = np.zeros_like(at_once)
    for slab in slabs:
        # Outside its patches the reconstruction of a slab is zero.
        piecewise += reconstruct(network, scan, tokens.select_patches(slab), mask)[where]
    row = {
        name: _rms(np.clip(values[:, masked], *CLIP) - target[:, masked])
        for name, values in (("rmse_whole", at_once), ("rmse_slabs", piecewise))
    }
    mean = shell_means(target[:, kept], scan.gtab.select(kept), scan.gtab.select(masked))
    row["rmse_mean"] = _rms(mean - target[:, masked])
    whole = encode_whole(network.encoder, tokens)
    parts = [encode_whole(network.encoder, tokens.select_patches(slab)) for slab in slabs]
    joined = np.empty_like(whole.patches)
    for slab, part in zip(slabs, parts, strict=True):
        joined[slab] = part.patches
    cls = np.mean([part.cls for part in parts], axis=0)
    return row | whole.apart(WholeScan(whole.index, joined, cls)), whole


def _rms(error: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(error**2)))


def compare_slabs(
    network: MaskedAutoencoder,
    scans: Iterable[GridScan],
    *,
    n_slices: int,
    n_directions: int = FEATURE_DIRECTIONS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare slabs with whole scans, and whole scans with one another.

    Parameters
    ----------
    network, n_slices, seed
        See :func:`score_slabs`.
    scans
        On the grid of the network's encoder.
    n_directions
        Distinct directions of a scan; scans with fewer are skipped.

    Returns
    -------
    dict
        JSON-ready: `scans` by name, `between` different scans where there are several, and the
        spacing of the `grid`, mm.

    Raises
    ------
    ConfigError
        If no scan has enough directions, or patches do not tile a slab.
    """
    encoder = network.config.encoder
    rows: dict[str, dict[str, float]] = {}
    whole: list[WholeScan] = []
    for scan in scans:
        part = choose_directions(scan, n_directions, gamma=encoder.gamma, seed=seed)
        if part is None:
            continue
        rows[scan.name], features = score_slabs(network, part, n_slices=n_slices, seed=seed)
        whole.append(features)
        logger.info("%s: compared", scan.name)
    if not rows:
        raise ConfigError(
            "no scan to compare",
            expected=f"scans with {n_directions} distinct directions or more",
            advice="name a dataset, or ask for simulated scans",
        )
    return json_ready(
        {
            "grid_mm": encoder.voxel_size_mm,
            "patch": encoder.patch,
            "n_slices": n_slices,
            "n_directions": n_directions,
            "versions": versions(),
            "notes": _NOTES,
            "scans": rows,
            "between": _between(whole),
        }
    )


def _between(whole: Sequence[WholeScan]) -> dict[str, float] | None:
    """Return mean distances between different scans."""
    pairs = [a.apart(b) for a, b in combinations(whole, 2)]
    return {k: float(np.mean([p[k] for p in pairs])) for k in pairs[0]} if pairs else None


def format_slabs(record: Mapping[str, Any]) -> str:
    """Return the comparison as a markdown table."""
    rows = dict(record["scans"])
    if record["between"]:
        rows["two whole scans"] = record["between"]
    title = (
        f"slabs of {record['n_slices']} slices against whole brains, grid of "
        f"{record['grid_mm']:g} mm, patches of {' x '.join(map(str, record['patch']))} voxels, "
        f"{record['n_directions']} directions"
    )
    return f"{title}\n\n{markdown(table_cells(rows, _COLUMNS))}"
