"""Scans for pretraining, on the encoder's grid and on disk: real ones, and simulated brains.

Half precision, one volume after the other, so that a step reads the slices and directions it
needs and a cohort need not fit into memory. Scans are varied as they are drawn: mirrored, moved by
a few voxels, made noisier.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.tokens import ScanTokens, tokenise
from dmri_fm.errors import InputError
from dmri_fm.gradients import GradientTable
from dmri_fm.json_files import read_object
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.signal import CLIP
from dmri_fm.qspace import distinct_directions
from dmri_fm.tensor_design import FEWEST_DIRECTIONS
from dmri_fm_lab.grid_scans import place_scan
from dmri_fm_lab.scan_tables import LeftOut
from dmri_fm_lab.scans import Scan, find_scans, hash_participant_of, list_corrected

logger = logging.getLogger(__name__)

#: Folder of the scans in that of a run.
SCANS = "scans"

#: Name of the gradient table within a scan's folder; it is written last.
TABLE = "gradients.json"

#: File beside the scans that a process locks while it puts one there.
LOCK = ".lock"

#: Share of draws to which noise is added, and the range of the SNR at b=0 that it leaves.
NOISY_SHARE, SNR_RANGE = 0.25, (15.0, 60.0)

#: Largest random shift of a scan from left to right and from back to front, voxels.
MOST_SHIFT_VOXELS = 3

#: Least brain of a slab, as a share of that of the slab which holds most.
FEWEST_BRAIN_OF_SLAB = 0.1


class DrawnVolumes(NamedTuple):
    """Volumes (T, X, Y, Z) in S/S0, their mask (X, Y, Z) and gradient table, and their place."""

    volumes: NDArray[np.float32]
    mask: NDArray[np.bool_]
    gtab: GradientTable
    first_slice: int


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
        cls,
        folder: Path,
        signal: NDArray[np.float32],
        mask: NDArray[np.bool_],
        gtab: GradientTable,
        *,
        origin: Mapping[str, Any] | None = None,
    ) -> CachedScan:
        """Write a scan to its folder, in place of an earlier one, and only when it is complete.

        A scan with the same table and origin is kept: another process wrote it, and may read it.

        Parameters
        ----------
        folder
            Its name is that of the scan.
        signal, mask
            Shapes (X, Y, Z, N), S/S0, and (X, Y, Z).
        gtab
            Of the N volumes, RAS+.
        origin
            Description of grid and source file, in plain types.
        """
        partial = folder.with_name(f"{folder.name}.part-{os.getpid()}")
        partial.mkdir(parents=True, exist_ok=True)
        np.save(partial / "signal.npy", np.moveaxis(signal, 3, 0).astype(np.float16))
        np.save(partial / "mask.npy", mask)
        table = {
            "bvals": gtab.bvals.tolist(),
            "bvecs_ras": gtab.bvecs_ras.tolist(),
            "b0_threshold": gtab.b0_threshold,
            "origin": dict(origin or {}),
        }
        text = json.dumps(table)
        (partial / TABLE).write_text(text, encoding="utf-8")
        # What another process puts here between a look and the removal would be lost.
        with (folder.parent / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _holds(folder, text):
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
        shutil.rmtree(partial, ignore_errors=True)
        return cls.read(folder)

    @classmethod
    def read(cls, folder: Path) -> CachedScan:
        """Read a scan that :meth:`write` wrote; its images stay on disk."""
        table = read_object(folder / TABLE)
        gtab = GradientTable(table["bvals"], table["bvecs_ras"], table.get("b0_threshold"))  # type: ignore[arg-type]
        return cls(folder.name, folder, gtab, table.get("origin", {}))

    def draw(
        self,
        rng: np.random.Generator,
        config: DropeConfig,
        *,
        n_directions: int,
        n_slices: int | None = None,
    ) -> ScanTokens:
        """Return some directions of the scan or of a slab of it as tokens of a D-RoPE encoder.

        Parameters and variation are those of :meth:`draw_volumes`.
        """
        drawn = self.draw_volumes(rng, n_directions=n_directions, n_slices=n_slices)
        volumes = np.moveaxis(drawn.volumes, 0, 3)
        return tokenise(volumes, drawn.gtab, drawn.mask, config, origin=(0, 0, drawn.first_slice))

    def draw_volumes(
        self, rng: np.random.Generator, *, n_directions: int, n_slices: int | None = None
    ) -> DrawnVolumes:
        """Return some distinct directions of the scan or of a slab of it, varied at random.

        Parameters
        ----------
        rng
            Source of randomness.
        n_directions
            Number of directions, of those that differ, see
            :func:`dmri_fm.qspace.distinct_directions`; all of them if there are fewer.
        n_slices
            Slices of the slab, which begins at any slice; the whole scan if None.
        """
        which = self._choose_directions(rng, n_directions)
        mask = self.read_mask()
        first, slices = 0, slice(None)
        if n_slices is not None:
            first = int(rng.choice(slab_starts(mask, n_slices)))
            slices = slice(first, first + n_slices)
        stored = np.load(self.folder / "signal.npy", mmap_mode="r")
        volumes, mask = stored[which, :, :, slices].astype(np.float32), mask[:, :, slices]
        gtab = self.gtab.select(which)
        if rng.uniform() < 0.5:
            volumes, mask, gtab = volumes[:, ::-1], mask[::-1], mirrored(gtab)
        shift = rng.integers(-MOST_SHIFT_VOXELS, MOST_SHIFT_VOXELS + 1, 2)
        volumes = np.roll(volumes, shift, (1, 2))
        mask = np.roll(mask, shift, (0, 1))
        if rng.uniform() < NOISY_SHARE:
            sigma = np.float32(1.0 / np.exp(rng.uniform(*np.log(SNR_RANGE))))
            noise = sigma * rng.standard_normal((2, *volumes.shape), dtype=np.float32)
            volumes = np.hypot(volumes + noise[0], noise[1]).clip(*CLIP)
        return DrawnVolumes(volumes, mask, gtab, first)

    def read_mask(self) -> NDArray[np.bool_]:
        """Return the brain mask, shape (X, Y, Z)."""
        mask: NDArray[np.bool_] = np.load(self.folder / "mask.npy")
        return mask

    def read_volumes(
        self,
        rng: np.random.Generator,
        n_directions: int,
        *,
        first: int = 0,
        n_slices: int | None = None,
    ) -> tuple[NDArray[np.float32], GradientTable]:
        """Return random distinct directions of the scan, or of a slab of it, not varied.

        Parameters
        ----------
        rng, n_directions
            As of :meth:`draw`.
        first, n_slices
            First slice of the slab, and their number; all of them if None.

        Returns
        -------
        volumes
            Shape (X, Y, Z, N), S/S0.
        gtab
            Of the N volumes, RAS+.
        """
        which = self._choose_directions(rng, n_directions)
        stored = np.load(self.folder / "signal.npy", mmap_mode="r")
        slices = slice(first, None if n_slices is None else first + n_slices)
        volumes = stored[which, :, :, slices].astype(np.float32)
        return np.moveaxis(volumes, 0, 3), self.gtab.select(which)

    def _choose_directions(self, rng: np.random.Generator, n_directions: int) -> NDArray[np.int_]:
        groups = distinct_directions(self.gtab)
        some = np.sort(rng.permutation(len(groups))[:n_directions])
        return np.array([rng.choice(groups[k]) for k in some.tolist()])


def slab_starts(mask: NDArray[np.bool_], n_slices: int) -> NDArray[np.int_]:
    """Return the first slices of all slabs that hold a fair part of the brain."""
    area = mask.sum(axis=(0, 1)).astype(float)
    inside = np.convolve(area, np.ones(n_slices), mode="valid")
    return np.flatnonzero(inside >= FEWEST_BRAIN_OF_SLAB * inside.max())


def _holds(folder: Path, table: str) -> bool:
    """Return whether a folder holds a scan with a table, in JSON."""
    path = folder / TABLE
    return path.is_file() and path.read_text(encoding="utf-8") == table


def mirrored(gtab: GradientTable) -> GradientTable:
    """Return the table of the mirror image, left for right."""
    across = np.array([-1.0, 1.0, 1.0])
    return GradientTable(gtab.bvals, gtab.bvecs_ras * across, gtab.b0_threshold)


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
                folder / scan.name, placed.signal, placed.mask, placed.gtab, origin=origin
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
