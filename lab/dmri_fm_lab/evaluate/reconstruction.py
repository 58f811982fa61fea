"""Score what a masked autoencoder fills in, beside baselines that see the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.encoders.drope.guided_mae import Autoencoder
from dmri_fm.errors import ConfigError
from dmri_fm.qspace import choose_spread
from dmri_fm_lab.evaluate.masked_scans import (
    mask_directions,
    mask_patches,
    mask_patches_apart,
    prepare_scan,
)
from dmri_fm_lab.evaluate.reconstruction_baselines import (
    DIRECTION_BASELINES,
    PATCH_BASELINES,
)
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.evaluate.scores import Row, mean_rows
from dmri_fm_lab.grid_scans import GridScan, ScanSources
from dmri_fm_lab.train.runs import load_autoencoder

__all__ = [
    "METHOD_TITLES",
    "ReconstructionRequest",
    "evaluate_reconstruction",
    "score_scan",
    "score_scans",
]

logger = logging.getLogger(__name__)

#: Title of every method, in the order of tables.
METHOD_TITLES: dict[str, str] = {
    "network": "network",
    "start": "where the network starts",
    **{name: baseline.title for name, baseline in DIRECTION_BASELINES.items()},
    **{name: baseline.title for name, baseline in PATCH_BASELINES.items()},
    "directions": "same voxel, other directions",
    "floor": "noise alone",
}

#: What is masked: whole directions; patches, the same in all directions; patches of each
#: direction by themselves, as in the authors' code, which the network here cannot be asked for.
MASKINGS = ("diffusion", "spatial", "spatial-per-direction")


_NOTES = {
    "where": "masked voxels of the brain on the encoder's grid; S/S0, range 1",
    "start": "the classical estimate that the network corrects, which no weights have a part in",
    "mean": "of the kept directions of the nearest b-value; of the visible voxels of the volume",
    "psnr": "10 log10(1 / MSE); authors_psnr is 10 log10(1 / sqrt(MSE)), half of it",
    "ssim": "ours: 3-D, Gaussian window of 1.5 voxels, the target in place of visible voxels",
    "authors": "authors_*: as their code computes them, from its description: visible patches "
    "as the network gives them back, error over voxels with a positive reconstruction, slices "
    "scaled by their maximum, each by its own. Masks are shared by all directions, other than "
    "in their code, and outside the brain everything is zero",
    "spatial-per-direction": "masks per direction, as in the authors' code: most patches stay "
    "visible in some directions. Baselines only: the encoder takes one mask",
    "diffusion": "of 20 random sets of visible directions the one that determines a tensor best, "
    "for the baselines' sake",
    "truth": "rmse_truth and tensors of simulated scans: against the signal without noise",
    "tensors": "fa, md (mm^2/s): mean absolute errors of tensors fitted to visible and "
    "reconstructed volumes; of masked patches only, if places were masked. The reference of real "
    "scans is the tensor of the measured volumes, as noisy as they are",
    "floor": "rmse of the signal without noise; of real scans from the estimated noise, which "
    "interpolation makes look less than it is",
    "fid": "the Frechet inception distance is not computed: it needs the weights of an image "
    "network, which are not at hand",
}


@dataclass(frozen=True)
class ReconstructionRequest:
    """What to mask.

    Attributes
    ----------
    directions
        Numbers of directions of a scan; those that it does not have are left out.
    n_masks
        Masks of each type.
    seed
        Of directions and masks.
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
    network: Autoencoder, scan: GridScan, request: ReconstructionRequest
) -> dict[str, Any]:
    """Mask directions and patches of a scan and score what comes back.

    Returns
    -------
    dict
        By number of directions and type of mask: rows by method and b-value ("all" for all),
        errors of tensors, and the authors' scores; JSON-ready, means over masks.
    """
    record: dict[str, Any] = {
        "name": scan.name,
        "origin": scan.origin,
        "n_voxels": int(scan.mask.sum()),
        "shells": {f"{s.bval:.0f}": len(s.index) for s in scan.gtab.shells},
        "has_truth": scan.clean is not None,
        "results": {},
    }
    for n in request.directions:
        if n > len(scan.gtab):
            logger.warning("%s: has no %d directions", scan.name, n)
            continue
        chosen = choose_spread(scan.gtab, n, seed=request.seed, gamma=network.config.encoder.gamma)
        part = scan.select(chosen)
        logger.info("%s: %d directions", scan.name, n)
        prepared = prepare_scan(network, part, has_baselines=request.has_baselines)
        found: dict[str, list[dict[str, Any]]] = {masking: [] for masking in MASKINGS}
        for number in range(request.n_masks):
            rng = np.random.default_rng([request.seed, n, number])
            found["diffusion"].append(mask_directions(network, prepared, rng))
            found["spatial"].append(mask_patches(network, prepared, rng))
            if request.has_baselines:
                found["spatial-per-direction"].append(mask_patches_apart(network, prepared, rng))
        record["results"][str(n)] = {k: _mean_records(rows) for k, rows in found.items() if rows}
    result: dict[str, Any] = json_ready(record)
    return result


def _mean_records(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Average what every mask gave; what some masks did not give is averaged over the others."""
    methods = dict.fromkeys(m for r in records for m in r["rows"])
    shells = {m: dict.fromkeys(s for r in records for s in r["rows"].get(m, {})) for m in methods}
    return {
        "rows": {
            m: {
                s: mean_rows([r["rows"][m][s] for r in records if s in r["rows"].get(m, {})])
                for s in shells[m]
            }
            for m in methods
        },
        "tensors": _mean_by_method([r["tensors"] for r in records]),
        "authors": _mean_by_method([r["authors"] for r in records]),
    }


def _mean_by_method(records: Sequence[Mapping[str, Row]]) -> dict[str, Row]:
    methods = dict.fromkeys(m for record in records for m in record)
    return {m: mean_rows([r[m] for r in records if m in r]) for m in methods}


def evaluate_reconstruction(
    source: str | Path,
    sources: ScanSources,
    request: ReconstructionRequest,
    *,
    model: str = "drope",
    device: str = "cpu",
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Load an autoencoder, and score what it fills in.

    Parameters
    ----------
    source, model
        The autoencoder, see :func:`dmri_fm_lab.train.runs.load_autoencoder`.
    sources
        Scans.
    request, report
        See :func:`score_scans`.
    device
        Of the network.
    """
    network = load_autoencoder(source, model=model).to(device)
    grid = network.config.encoder.grid
    scans = sources.scans(grid, n_directions=max(request.directions))
    found = score_scans(network, scans, request, report=report)
    return {"run": str(source), "model": model, **found}


def score_scans(
    network: Autoencoder,
    scans: Iterable[GridScan],
    request: ReconstructionRequest,
    *,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Score every scan.

    Parameters
    ----------
    network
        With its decoder.
    scans
        On its encoder's grid.
    request
        What to mask.
    report
        Called with the record of each scan as soon as it is there.

    Returns
    -------
    dict
        JSON-ready: a record per scan. Scans are not pooled.

    Raises
    ------
    ConfigError
        If there is no scan.
    """
    records = []
    for scan in scans:
        record = score_scan(network, scan, request)
        records.append(record)
        if report is not None:
            report(record)
    if not any(record["results"] for record in records):
        raise ConfigError(
            "no scan with enough directions",
            expected=f"scans with {min(request.directions)} directions or more",
            advice="name a dataset, or ask for simulated scans",
        )
    config = network.config
    found: dict[str, Any] = json_ready(
        {
            "request": {
                "directions": list(request.directions),
                "n_masks": request.n_masks,
                "seed": request.seed,
                "spatial_ratio": config.spatial_ratio,
                "diffusion_ratio": config.diffusion_ratio,
            },
            "versions": versions(),
            "notes": _NOTES,
            "scans": records,
        }
    )
    return found
