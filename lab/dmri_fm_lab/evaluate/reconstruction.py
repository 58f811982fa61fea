"""Reconstructions of masked directions and patches: an autoencoder beside baselines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmri_fm.encoders.drope.mae import MaskedAutoencoder
from dmri_fm.errors import ConfigError
from dmri_fm.qspace import distinct_directions
from dmri_fm_lab.evaluate.masked_scans import (
    choose_directions,
    mask_directions,
    mask_patches,
    mask_patches_apart,
    prepare_scan,
)
from dmri_fm_lab.evaluate.reconstruction_baselines import (
    DIRECTION_BASELINES,
    PATCH_BASELINES,
)
from dmri_fm_lab.evaluate.records import json_ready, score_each, versions
from dmri_fm_lab.evaluate.scores import Row, mean_rows
from dmri_fm_lab.grid_scans import GridScan
from dmri_fm_lab.markdown_tables import Column, markdown, table_cells

logger = logging.getLogger(__name__)

#: Title of every method, in the order of tables.
METHOD_TITLES: dict[str, str] = {
    "network": "network",
    **{name: baseline.title for name, baseline in DIRECTION_BASELINES.items()},
    **{name: baseline.title for name, baseline in PATCH_BASELINES.items()},
    "directions": "same voxel, other directions",
    "floor": "noise alone",
}

#: Maskings by title: whole directions; patches, the same in all directions; patches of each
#: direction by themselves, as in the authors' code, of which this encoder takes none.
_MASKINGS = {
    "diffusion": "masked directions",
    "spatial": "masked patches",
    "spatial-per-direction": "masked patches, masks of each direction",
}

#: Columns of the tables of scores, tensors and the authors' scores; errors of MD in 1e-3 mm^2/s.
_SCORES = {
    "rmse": Column("RMSE", ".4f"),
    "psnr": Column("PSNR, dB", ".2f"),
    "ssim": Column("SSIM", ".3f"),
    "rmse_truth": Column("RMSE to truth", ".4f"),
}
_TENSORS = {
    "fa": Column("FA error", ".4f"),
    "fa_white": Column("FA error, white", ".4f"),
    "md": Column("MD error", ".4f", 1e3),
    "md_white": Column("MD error, white", ".4f", 1e3),
}
_AUTHORS = {
    "authors_psnr": Column("authors' PSNR, dB", ".2f"),
    "authors_ms_ssim": Column("authors' SSIM", ".3f"),
    "authors_scales": Column("scales", ".0f"),
}

_NOTES = {
    "where": "masked voxels of the brain on the encoder's grid; S/S0, range 1",
    "directions": "distinct ones, one volume each: volumes of one shell within 5 degrees of each "
    "other measure one direction",
    "mean": "of the kept directions of the nearest b-value; of the visible voxels of the volume",
    "psnr": "10 log10(1 / MSE); authors_psnr is 10 log10(1 / sqrt(MSE)), half of it",
    "ssim": "ours: 3-D, Gaussian window of 1.5 voxels, the target in place of visible voxels",
    "authors": "authors_*: computed as the authors' code is described: visible patches as the "
    "network reconstructs them, error over voxels with a positive reconstruction, each slice "
    "scaled by its own maximum. Unlike in their code, all directions share the masks, and voxels "
    "outside the brain are zero",
    "spatial-per-direction": "masks per direction, as in the authors' code: most patches stay "
    "visible in some directions. Baselines only: the encoder takes one mask",
    "diffusion": "of 20 random sets of visible directions, the one that determines a tensor best; "
    "others would put baselines at a disadvantage",
    "truth": "rmse_truth and tensors of simulated scans: against the signal without noise",
    "tensors": "fa, md (mm^2/s): mean absolute errors of tensors fitted to visible and "
    "reconstructed volumes; in masked patches only, where patches are masked. The reference of "
    "real scans is the tensor of the measured, noisy volumes",
    "floor": "rmse of the signal without noise; of real scans from the estimated noise, which "
    "interpolation makes look less than it is",
    "fid": "the Frechet inception distance is not computed: it needs the weights of an image "
    "network, which are not available",
}


@dataclass(frozen=True)
class ReconstructionRequest:
    """Directions and masks of an evaluation.

    Attributes
    ----------
    directions
        Numbers of distinct directions to take from a scan; a scan that has fewer is skipped.
    n_masks
        Masks of each type.
    seed
        Seed of directions and masks.
    has_baselines
        Whether baselines are scored beside the network.
    """

    directions: tuple[int, ...] = (12, 30)
    n_masks: int = 2
    seed: int = 0
    has_baselines: bool = True

    def __post_init__(self) -> None:
        if not self.directions or min(self.directions) < 2 or self.n_masks < 1:
            raise ConfigError(
                f"{list(self.directions)} directions, {self.n_masks} masks",
                expected="two directions or more, a mask or more",
            )


def score_scan(
    network: MaskedAutoencoder, scan: GridScan, request: ReconstructionRequest
) -> dict[str, Any] | None:
    """Mask directions and patches of a scan, and score their reconstructions.

    Returns
    -------
    dict or None
        JSON-ready; None, with a warning, if the scan has too few distinct directions. `results` by
        number of directions and masking, means over masks: rows by
        method and b-value ("all" for all), errors of tensors, and the authors' scores.
    """
    record: dict[str, Any] = {
        "name": scan.name,
        "origin": scan.origin,
        "n_voxels": int(scan.mask.sum()),
        "shells": {f"{s.bval:.0f}": len(s.index) for s in scan.gtab.shells},
        "n_distinct": len(distinct_directions(scan.gtab)),
        "has_truth": scan.clean is not None,
        "results": {},
    }
    for n in request.directions:
        part = choose_directions(scan, n, gamma=network.config.encoder.gamma, seed=request.seed)
        if part is None:
            continue
        logger.info("%s: %d directions", scan.name, n)
        prepared = prepare_scan(network, part, has_baselines=request.has_baselines)
        scores: dict[str, list[dict[str, Any]]] = {masking: [] for masking in _MASKINGS}
        for number in range(request.n_masks):
            rng = np.random.default_rng([request.seed, n, number])
            scores["diffusion"].append(mask_directions(network, prepared, rng))
            scores["spatial"].append(mask_patches(network, prepared, rng))
            if request.has_baselines:
                scores["spatial-per-direction"].append(mask_patches_apart(network, prepared, rng))
        record["results"][str(n)] = {k: _mean_records(rows) for k, rows in scores.items() if rows}
    return json_ready(record) if record["results"] else None


def _mean_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means over masks; a number that some masks lack is averaged over the others."""
    methods = dict.fromkeys(m for record in records for m in record["rows"])
    return {
        "rows": {
            m: _mean_by_key([record["rows"].get(m, {}) for record in records]) for m in methods
        },
        "tensors": _mean_by_key([record["tensors"] for record in records]),
        "authors": {
            m: _mean_by_key([record["authors"][m] for record in records])
            for m in records[0]["authors"]
        },
    }


def _mean_by_key(records: Sequence[Mapping[str, Row]]) -> dict[str, Row]:
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: mean_rows([r[key] for r in records if key in r]) for key in keys}


def score_scans(
    network: MaskedAutoencoder,
    scans: Iterable[GridScan],
    request: ReconstructionRequest,
    *,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Score the reconstructions of every scan.

    Parameters
    ----------
    network
        Autoencoder, with its decoder.
    scans
        Scans on its encoder's grid.
    request
        Directions and masks.
    report
        Function that receives the record of each scan when that is complete.

    Returns
    -------
    dict
        JSON-ready: a record per scan. Scans are not pooled.

    Raises
    ------
    ConfigError
        If no scan has enough directions.
    """
    records = score_each(
        scans,
        lambda scan: score_scan(network, scan, request),
        report=report,
        fewest_directions=min(request.directions),
    )
    return json_ready(
        {
            "request": {
                "directions": request.directions,
                "n_masks": request.n_masks,
                "seed": request.seed,
                "spatial_ratio": network.config.spatial_ratio,
                "diffusion_ratio": network.config.diffusion_ratio,
            },
            "versions": versions(),
            "notes": _NOTES,
            "scans": records,
        }
    )


def format_scan(record: Mapping[str, Any]) -> str:
    """Return the record of a scan as markdown: tables by number of directions and masking."""
    shells = ", ".join(f"{n} x b{b}" for b, n in record["shells"].items())
    blocks = [
        f"{record['name']} ({record['origin']}), {shells}, {record['n_distinct']} distinct "
        f"directions, {record['n_voxels']} voxels"
    ]
    for n, maskings in record["results"].items():
        for masking, scores in maskings.items():
            blocks.append(f"{_MASKINGS[masking]} of {n} directions")
            for rows, columns in (
                (_by_shell(scores["rows"]), _SCORES),
                (_titled(scores["tensors"]), _TENSORS),
                (_by_shell(scores["authors"]), _AUTHORS),
            ):
                if rows:
                    blocks.append(markdown(table_cells(rows, columns)))
    return "\n\n".join(blocks)


def _titled(rows: Mapping[str, Row], suffix: str = "") -> dict[str, Row]:
    """Return rows by the titles of their methods, in the order of tables."""
    return {f"{title}{suffix}": rows[m] for m, title in METHOD_TITLES.items() if m in rows}


def _by_shell(rows: Mapping[str, Mapping[str, Row]]) -> dict[str, Row]:
    """Return rows by the titles of methods, shell by shell."""
    shells = list(dict.fromkeys(shell for by_shell in rows.values() for shell in by_shell))
    titled: dict[str, Row] = {}
    for shell in shells:
        of_shell = {m: by_shell[shell] for m, by_shell in rows.items() if shell in by_shell}
        titled |= _titled(of_shell, "" if len(shells) == 1 else f", b {shell}")
    return titled
