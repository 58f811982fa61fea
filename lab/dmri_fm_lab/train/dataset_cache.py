"""Scans of a dataset, laid on an encoder's grid once and kept on disk for training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.errors import InputError
from dmri_fm.normalise.grid import Grid
from dmri_fm.tensor_design import FEWEST_DIRECTIONS
from dmri_fm_lab.grid_scans import place_scan
from dmri_fm_lab.scan_tables import LeftOut
from dmri_fm_lab.scans import Scan, find_scans, hash_participant_of, list_corrected
from dmri_fm_lab.train.scan_cache import TABLE, CachedScan

logger = logging.getLogger(__name__)

#: Folder of the scans in that of a run.
SCANS = "scans"


def cache_scans(
    root: str | Path,
    folder: str | Path,
    grid: Grid,
    *,
    participant_labels: Sequence[str] | None = None,
    prefers_template: bool = False,
) -> list[CachedScan]:
    """Lay the scans of a dataset on a grid, in one folder a scan.

    Those of an earlier call are kept, if their grid is the same and their file has not changed.

    Parameters
    ----------
    root, participant_labels, prefers_template
        See :func:`dmri_fm_lab.scans.find_scans`.
    folder
        Parent of the scans' folders.
    grid
        That of an encoder.

    Raises
    ------
    InputError
        If no scan has enough directions.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cached = {p.parent.name: CachedScan.read(p.parent) for p in folder.glob(f"*/{TABLE}")}
    kept: list[CachedScan] = []
    for scan in find_scans(
        root, participant_labels=participant_labels, prefers_template=prefers_template
    ):
        origin = _describe_origin(scan, grid)
        if scan.name not in cached or cached[scan.name].origin != origin:
            placed = place_scan(scan, grid)
            if placed is None:
                continue
            cached[scan.name] = CachedScan.write(
                folder / scan.name,
                placed.signal,
                placed.mask,
                placed.gtab,
                b0=placed.b0,
                origin=origin,
            )
            logger.info("%s: %d directions", scan.name, len(placed.gtab))
        if len(cached[scan.name].gtab) < FEWEST_DIRECTIONS:
            logger.warning("%s: skipped, fewer than %d directions", scan.name, FEWEST_DIRECTIONS)
            continue
        kept.append(cached[scan.name])
    if not kept:
        raise InputError(
            "no scan to train on",
            path=Path(root),
            expected=f"one or more with b=0 and {FEWEST_DIRECTIONS} directions",
        )
    return kept


def find_unusable(root: str | Path, kept: Sequence[str]) -> list[LeftOut]:
    """Return the scans with a corrected series that :func:`cache_scans` does not keep.

    Parameters
    ----------
    root
        Output folder of the app; the template's space was preferred.
    kept
        Names of the scans that are kept.
    """
    scans = list_corrected(root)
    uses_template = any(scans.values())
    return [
        LeftOut(
            name,
            "no series in the template's space"
            if uses_template and not in_template
            else f"no b=0, or fewer than {FEWEST_DIRECTIONS} directions",
        )
        for name, in_template in scans.items()
        if name not in kept
    ]


def hash_participants(scans: Sequence[CachedScan]) -> list[str]:
    """Return the sorted hashes of those whose scans these are, see :mod:`dmri_fm.participants`.

    Scans without a source file, simulated ones, are of nobody.

    Raises
    ------
    InputError
        If a dataset that they come from is no longer there, or has no name.
    """
    files = {str(scan.origin["file"]) for scan in scans if "file" in scan.origin}
    return sorted({hash_participant_of(file) for file in files})


def _describe_origin(scan: Scan, grid: Grid) -> dict[str, Any]:
    path = Path(str(scan.dwi.image.get_filename()))
    state = path.stat()
    return {
        "file": str(path.resolve()),
        "bytes": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "grid_shape": list(grid.shape),
        "affine": np.asarray(grid.affine).tolist(),
    }
