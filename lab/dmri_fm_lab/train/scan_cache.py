"""Real scans for pretraining, laid on the encoder's grid once and read from disk after that.

Half precision, one volume after the other, so that a step reads the directions it needs and a
cohort need not fit into memory. Scans are varied as they are drawn: mirrored, moved by a few
voxels, made noisier.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.errors import InputError
from dmri_fm.gradients import GradientTable
from dmri_fm.json_files import read_object
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.signal import CLIP
from dmri_fm.tensor_design import FEWEST_DIRECTIONS
from dmri_fm_lab.grid_scans import GridScan, place_scan
from dmri_fm_lab.scans import Scan, find_scans

logger = logging.getLogger(__name__)

#: Share of draws to which noise is added, and the range of the SNR at b=0 that it leaves.
NOISY_SHARE, SNR_RANGE = 0.5, (10.0, 60.0)

#: Largest random shift of a scan along each axis, voxels.
MOST_SHIFT_VOXELS = 3


@dataclass(frozen=True, eq=False)
class CachedScan:
    """A scan on disk.

    Attributes
    ----------
    name
        Such as `sub-01_dir-AP`.
    folder
        Holds `signal.npy` (N, X, Y, Z), S/S0 in half precision, `mask.npy` (X, Y, Z) and
        `gradients.json`.
    gtab
        Of the N weighted volumes, RAS+.
    origin
        Grid and source file.
    """

    name: str
    folder: Path
    gtab: GradientTable
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def participant(self) -> str:
        """Such as `sub-01`."""
        return self.name.split("_")[0]

    @classmethod
    def write(
        cls, scan: GridScan, folder: Path, *, origin: Mapping[str, Any] | None = None
    ) -> CachedScan:
        """Write a scan to its folder, in place of an earlier one, and only when it is complete.

        `origin` describes grid and source file, in plain types.
        """
        partial = folder.with_name(f"{folder.name}.part-{os.getpid()}")
        partial.mkdir(parents=True, exist_ok=True)
        np.save(partial / "signal.npy", np.moveaxis(scan.signal, 3, 0).astype(np.float16))
        np.save(partial / "mask.npy", scan.mask)
        table = {
            "bvals": scan.gtab.bvals.tolist(),
            "bvecs_ras": scan.gtab.bvecs_ras.tolist(),
            "b0_threshold": scan.gtab.b0_threshold,
            "origin": dict(origin or {}),
        }
        (partial / "gradients.json").write_text(json.dumps(table), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> CachedScan:
        """Read a scan that :meth:`write` wrote; its images stay on disk."""
        table = read_object(folder / "gradients.json")
        gtab = GradientTable(table["bvals"], table["bvecs_ras"], table.get("b0_threshold"))  # type: ignore[arg-type]
        return cls(folder.name, folder, gtab, table.get("origin", {}))

    def draw(
        self, rng: np.random.Generator, config: DropeConfig, *, n_directions: int
    ) -> ScanTokens:
        """Return some directions of the scan, varied at random."""
        n = min(n_directions, len(self.gtab))
        which = np.sort(rng.permutation(len(self.gtab))[:n])
        volumes = np.load(self.folder / "signal.npy", mmap_mode="r")[which].astype(np.float32)
        mask = np.load(self.folder / "mask.npy")
        gtab = self.gtab.select(which)
        if rng.uniform() < 0.5:
            volumes, mask, gtab = volumes[:, ::-1], mask[::-1], mirrored(gtab)
        shift = rng.integers(-MOST_SHIFT_VOXELS, MOST_SHIFT_VOXELS + 1, 3)
        volumes = np.roll(volumes, shift, (1, 2, 3))
        mask = np.roll(mask, shift, (0, 1, 2))
        if rng.uniform() < NOISY_SHARE:
            sigma = np.float32(1.0 / np.exp(rng.uniform(*np.log(SNR_RANGE))))
            noise = sigma * rng.standard_normal((2, *volumes.shape), dtype=np.float32)
            volumes = np.hypot(volumes + noise[0], noise[1]).clip(*CLIP)
        return tokenise(np.moveaxis(volumes, 0, 3), gtab, mask, config)


def mirrored(gtab: GradientTable) -> GradientTable:
    """Return the table of the mirror image, left for right."""
    across = np.array([-1.0, 1.0, 1.0])
    return GradientTable(gtab.bvals, gtab.bvecs_ras * across, gtab.b0_threshold)


def cache_scans(
    root: str | Path,
    folder: str | Path,
    config: DropeConfig,
    *,
    participant_labels: Sequence[str] | None = None,
) -> list[CachedScan]:
    """Lay the scans of a dataset on an encoder's grid, in one folder a scan.

    Those of an earlier call are kept, if their grid is the same and their file has not changed.

    Parameters
    ----------
    root, participant_labels
        See :func:`dmri_fm_lab.scans.find_scans`.
    folder
        Parent of the scans' folders.
    config
        The encoder's.

    Raises
    ------
    InputError
        If no scan has enough directions.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    grid = config.grid
    cached = {p.parent.name: CachedScan.read(p.parent) for p in folder.glob("*/gradients.json")}
    kept: list[CachedScan] = []
    for scan in find_scans(root, participant_labels=participant_labels):
        origin = _describe_origin(scan, grid)
        if scan.name not in cached or cached[scan.name].origin != origin:
            placed = place_scan(scan, grid)
            if placed is None:
                continue
            cached[scan.name] = CachedScan.write(placed, folder / scan.name, origin=origin)
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
