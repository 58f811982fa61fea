"""Scans for pretraining, on the encoder's grid and on disk: real ones, and simulated brains.

Half precision, one volume after the other, so that a step reads the slices and directions it
needs and a cohort need not fit into memory. Scans are varied as they are drawn: mirrored, moved by
a few voxels, made noisier.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping
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
from dmri_fm.qspace import distinct_directions
from dmri_fm_lab.grid_scans import B0Volumes
from dmri_fm_lab.train.scan_variation import Variation, mirrored

#: Name of the gradient table within a scan's folder; it is written last.
TABLE = "gradients.json"

#: File beside the scans that a process locks while it puts one there.
LOCK = ".lock"

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
        Holds `signal.npy` (N, X, Y, Z) and, of the K b=0 volumes, `b0.npy` (K, X, Y, Z), S/S0 in
        half precision, `mask.npy` (X, Y, Z) and `gradients.json`.
    gtab
        Of the N weighted volumes, RAS+.
    origin
        Grid and source file.
    b0_bvals
        Of the K b=0 volumes, s/mm^2; empty in folders that earlier versions wrote without them.
    """

    name: str
    folder: Path
    gtab: GradientTable
    origin: Mapping[str, Any] = field(default_factory=dict)
    b0_bvals: tuple[float, ...] = ()

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
        b0: B0Volumes | None = None,
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
        b0
            The b=0 volumes, for encoders that read them.
        origin
            Description of grid and source file, in plain types.
        """
        partial = folder.with_name(f"{folder.name}.part-{os.getpid()}")
        partial.mkdir(parents=True, exist_ok=True)
        np.save(partial / "signal.npy", np.moveaxis(signal, 3, 0).astype(np.float16))
        np.save(partial / "mask.npy", mask)
        if b0 is not None:
            np.save(partial / "b0.npy", np.moveaxis(b0.signal, 3, 0).astype(np.float16))
        table = {
            "bvals": gtab.bvals.tolist(),
            "bvecs_ras": gtab.bvecs_ras.tolist(),
            "b0_threshold": gtab.b0_threshold,
            "b0_bvals": [] if b0 is None else b0.bvals.tolist(),
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
        b0_bvals = tuple(table.get("b0_bvals", ()))  # type: ignore[arg-type]
        return cls(folder.name, folder, gtab, table.get("origin", {}), b0_bvals)

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
        variation = Variation.draw(rng)
        if variation.is_mirrored:
            volumes, mask, gtab = volumes[:, ::-1], mask[::-1], mirrored(gtab)
        volumes = np.roll(volumes, variation.shift, (1, 2))
        mask = np.roll(mask, variation.shift, (0, 1))
        return DrawnVolumes(variation.add_noise(volumes, rng), mask, gtab, first)

    def draw_voxels(
        self,
        rng: np.random.Generator,
        voxels: NDArray[np.int_],
        *,
        n_directions: int,
        n_b0: int = 0,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], GradientTable]:
        """Return some volumes of the scan at voxels, varied at random.

        Parameters
        ----------
        rng, n_directions
            As of :meth:`draw_volumes`.
        voxels
            Shape (..., 3), after mirroring and shift; may lie outside the grid.
        n_b0
            Number of b=0 volumes; all of them if there are fewer.

        Returns
        -------
        values
            Shape (N, ...), S/S0, weighted volumes first.
        inside
            Shape (...): whether there is brain.
        gtab
            Of the N volumes, RAS+.

        Raises
        ------
        InputError
            If b=0 volumes are wanted of a scan that was written without them.
        """
        which = self._choose_directions(rng, n_directions)
        gtab, variation, mask = self.gtab.select(which), Variation.draw(rng), self.read_mask()
        source = voxels - np.array([*variation.shift, 0])
        if variation.is_mirrored:
            source[..., 0], gtab = len(mask) - 1 - source[..., 0], mirrored(gtab)
        nearest = source.clip(0, np.array(mask.shape) - 1)
        index = np.ravel_multi_index(tuple(np.moveaxis(nearest, -1, 0)), mask.shape)
        inside = mask.ravel()[index] & (source == nearest).all(axis=-1)
        stored = np.load(self.folder / "signal.npy", mmap_mode="r")
        volumes = [stored[k].ravel()[index] for k in which]
        if n_b0:
            some = self._choose_b0(rng, n_b0)
            stored = np.load(self.folder / "b0.npy", mmap_mode="r")
            volumes += [stored[k].ravel()[index] for k in some]
            bvals = np.concatenate([gtab.bvals, [self.b0_bvals[k] for k in some]])
            vectors = np.concatenate([gtab.bvecs_ras, np.zeros((len(some), 3))])
            gtab = GradientTable(bvals, vectors, gtab.b0_threshold)
        values = np.stack(volumes).astype(np.float32)
        return variation.add_noise(values, rng), inside, gtab

    def count_directions(self) -> int:
        """Return the number of directions that differ."""
        return len(distinct_directions(self.gtab))

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

    def _choose_b0(self, rng: np.random.Generator, n_b0: int) -> list[int]:
        if not self.b0_bvals:
            raise InputError(
                "a scan that was written without its b=0 volumes",
                path=self.folder,
                expected="b=0 volumes, which the encoder reads",
                advice="remove the folder, so that the scan is written again",
            )
        return sorted(rng.permutation(len(self.b0_bvals))[:n_b0].tolist())


def slab_starts(mask: NDArray[np.bool_], n_slices: int) -> NDArray[np.int_]:
    """Return the first slices of all slabs that hold a fair part of the brain."""
    area = mask.sum(axis=(0, 1)).astype(float)
    inside = np.convolve(area, np.ones(n_slices), mode="valid")
    return np.flatnonzero(inside >= FEWEST_BRAIN_OF_SLAB * inside.max())


def _holds(folder: Path, table: str) -> bool:
    """Return whether a folder holds a scan with a table, in JSON."""
    path = folder / TABLE
    return path.is_file() and path.read_text(encoding="utf-8") == table
