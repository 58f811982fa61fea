"""Scans on an encoder's grid, from three sources: both simulations, and datasets.

Evaluations score the voxels of that grid, because the encoder's patches lie there. Scans of a
dataset are laid on it by an affine registration to the template and one interpolation, which
correlates their noise; simulated scans are made on it, so that their noise is independent.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.gradients import GradientTable, rotation_part
from dmri_fm.normalise.grid import Grid, Image3D, affine_map
from dmri_fm.normalise.registration import register_affine
from dmri_fm.normalise.series import resample_series
from dmri_fm.normalise.signal import CLIP, normalise_b0
from dmri_fm.normalise.template import load_template
from dmri_fm.series import Dwi
from dmri_fm_lab.scans import Scan, find_scans
from dmri_fm_lab.simulate import draw_anatomy, draw_batch, draw_protocol
from dmri_fm_lab.simulate.anatomy import Shape
from dmri_fm_lab.simulate.scanner import Acquisition, acquire
from dmri_fm_lab.simulate.subject import Subject, Tissue, place_subject
from dmri_fm_lab.smoothing import noise_sigma

logger = logging.getLogger(__name__)

#: First number of the seeds of these scans: those of training have two or three smaller numbers.
EVALUATION = 910_000

#: Shells of simulated scans, taken in turn, s/mm^2. Their directions are shared out.
PROTOCOLS = ((1000.0,), (1000.0, 2500.0), (2500.0,))

#: Mark of scans that the network was trained on, after their name.
SEEN = " (seen in training)"

#: SNR of a scan without noise.
_NOISELESS = 1e9

#: SNR of white matter at b=0 in scans of the other generator.
HEAD_SNR = 25.0


class B0Volumes(NamedTuple):
    """The b=0 volumes of a scan: S/S0, shape (X, Y, Z, K), and b-values (K,), s/mm^2."""

    signal: NDArray[np.float32]
    bvals: NDArray[np.float64]

    @classmethod
    def of(cls, signal: NDArray[np.float32], gtab: GradientTable) -> B0Volumes:
        """Take them from a normalised series (X, Y, Z, N)."""
        return cls(signal[..., gtab.is_b0], gtab.bvals[gtab.is_b0])


@dataclass(frozen=True, eq=False)
class GridScan:
    """The weighted volumes of a scan on an encoder's grid.

    Attributes
    ----------
    name
        Of the scan.
    origin
        "training generator", "other generator", "raw" or "preprocessed".
    signal
        Shape (X, Y, Z, N), S/S0, zero outside the brain.
    gtab
        Of the N volumes, RAS+.
    mask
        Shape (X, Y, Z): the brain.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    noise
        Shape (X, Y, Z): deviation of the noise of S/S0, without that of S0, as estimated.
    clean
        The signal without noise, over the same S0, where it is known.
    b0
        The volumes that S0 is the mean of.
    """

    name: str
    origin: str
    signal: NDArray[np.float32]
    gtab: GradientTable
    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    noise: NDArray[np.float32]
    clean: NDArray[np.float32] | None = None
    b0: B0Volumes | None = None

    @classmethod
    def of(cls, dwi: Dwi, *, name: str, origin: str, clean: Dwi | None = None) -> GridScan:
        """Normalise a series with a brain mask, as the encoder's input is.

        Raises
        ------
        GradientError
            If it has no b=0 volume, or no other.
        """
        weighted = np.flatnonzero(~dwi.gtab.is_b0)
        if not weighted.size:
            raise GradientError("no diffusion-weighted volume", expected="one or more")
        mask = np.ones(dwi.shape[:3], dtype=bool) if dwi.mask is None else dwi.mask
        measured = normalise_b0(dwi.data, dwi.gtab, mask=mask)
        mask = mask & (measured.signal.max(axis=3) > 0)
        level = np.where(mask, measured.s0, np.float32(1))
        truth = None
        if clean is not None:
            ratio = clean.data[..., weighted] / level[..., None]
            truth = np.clip(ratio, *CLIP).astype(np.float32) * mask[..., None]
        return cls(
            name,
            origin,
            measured.signal[..., weighted] * mask[..., None],
            dwi.gtab.select(weighted),
            mask,
            np.asarray(dwi.affine),
            (mask * noise_sigma(dwi) / level).astype(np.float32),
            truth,
            B0Volumes.of(measured.signal * mask[..., None], dwi.gtab),
        )

    def select(self, index: NDArray[np.int_]) -> GridScan:
        """Return the scan with some of its volumes, in the given order."""
        return replace(
            self,
            signal=self.signal[..., index],
            gtab=self.gtab.select(index),
            clean=None if self.clean is None else self.clean[..., index],
        )

    def floor_rmse(self, volumes: NDArray[np.int_], where: NDArray[np.bool_]) -> float:
        """Return the error of a perfect prediction of the noise-free signal in volumes and voxels.

        Where that signal is not known: the estimated noise.
        """
        if self.clean is None:
            return float(np.sqrt(np.mean(self.noise[where].astype(np.float64) ** 2)))
        apart = self.signal[where][:, volumes].astype(np.float64) - self.clean[where][:, volumes]
        return float(np.sqrt(np.mean(apart**2)))


def _protocol(
    rng: np.random.Generator,
    number: int,
    n_directions: int,
    protocols: Sequence[Sequence[float]] = PROTOCOLS,
) -> GradientTable:
    bvals = protocols[number % len(protocols)]
    counts = [len(part) for part in np.array_split(np.arange(n_directions), len(bvals))]
    return draw_protocol(rng, scheme="multishell", n_directions=counts, bvals=list(bvals), n_b0=2)


def simulated_scans(
    grid: Grid,
    n_scans: int,
    *,
    n_directions: int = 30,
    seed: int = 0,
    protocols: Sequence[Sequence[float]] = PROTOCOLS,
) -> Iterator[GridScan]:
    """Yield scans of the training generator that no training run draws.

    A scan is drawn twice from one state, with noise and without, and so its truth is known.
    Protocols, shells each (s/mm^2), take turns.
    """
    affine = np.asarray(grid.affine)
    for number in range(n_scans):
        rng = np.random.default_rng([EVALUATION, 0, seed, number])
        gtab = _protocol(rng, number, n_directions, protocols)
        state = int(rng.integers(2**63))
        snr = float(np.exp(rng.uniform(np.log(12.0), np.log(50.0))))
        drawn = (
            draw_batch(
                torch.Generator().manual_seed(state),
                [gtab],
                shape=grid.shape,
                affine=torch.tensor(grid.affine, dtype=torch.float32),
                snr=level,
                with_truth=False,
            )
            for level in (snr, _NOISELESS)
        )
        series, truth = (
            Dwi.from_arrays(
                batch.signal[0].movedim(0, 3).numpy(), affine, gtab, mask=batch.mask[0].numpy()
            )
            for batch in drawn
        )
        name = f"training generator {number + 1}, SNR {snr:.0f}"
        yield GridScan.of(series, name=name, origin="training generator", clean=truth)


def embed(
    image: NDArray[np.float32], affine: NDArray[np.float64], grid: Grid
) -> NDArray[np.float32]:
    """Put an image (X, Y, Z, ...) on a grid, to the nearest voxel, without interpolation.

    Raises ConfigError if the voxels differ in size or orientation.
    """
    if not np.allclose(affine[:3, :3], grid.affine[:3, :3], atol=1e-6):
        raise ConfigError(
            f"voxels {affine[:3, :3].tolist()}", expected=f"{grid.affine[:3, :3].tolist()}"
        )
    offset = np.rint(np.linalg.solve(grid.affine[:3, :3], affine[:3, 3] - grid.affine[:3, 3]))
    out = np.zeros((*grid.shape, *image.shape[3:]), dtype=np.float32)
    here, there = [], []
    for start, n, size in zip(offset.astype(int), image.shape, grid.shape, strict=False):
        first, last = max(0, int(start)), min(size, int(start) + n)
        here.append(slice(first, last))
        there.append(slice(first - int(start), last - int(start)))
    out[tuple(here)] = image[tuple(there)]
    return out


def draw_subject(rng: np.random.Generator, grid: Grid, shape: Shape | None = None) -> Subject:
    """Draw a head of the generator that no network is trained on, of the grid's voxel size."""
    x, y, z = (float(s) for s in grid.voxel_size_mm)
    return place_subject(
        draw_anatomy(rng, shape or Shape()),
        Tissue(),
        voxel_size_mm=(x, y, z),
        rng=rng,
        field_peak_hz=0.0,
    )


def other_generator_scans(
    grid: Grid, n_scans: int, *, n_directions: int = 30, seed: int = 0
) -> Iterator[GridScan]:
    """Yield scans of the generator that no network is trained on, undistorted and at rest.

    They lie on the grid to half a voxel. Protocols take turns, see :data:`PROTOCOLS`.
    """
    for number in range(n_scans):
        rng = np.random.default_rng([EVALUATION, 1, seed, number])
        gtab = _protocol(rng, number, n_directions)
        subject = draw_subject(rng, grid)
        clean = acquire(subject, gtab, Acquisition(is_distorted=False))
        parts = subject.fractions
        sigma = float(np.median(clean[parts.wm > 0.9][:, gtab.is_b0])) / HEAD_SNR
        # The same noise as trxscan's, without another half a minute: that of a magnitude.
        noise = sigma * rng.standard_normal((2, *clean.shape), dtype=np.float32)
        noisy = np.hypot(clean + noise[0], noise[1])
        mask = embed(parts.mask.astype(np.float32), subject.affine, grid) > 0
        series, truth = (
            Dwi.from_arrays(
                embed(data, subject.affine, grid), np.asarray(grid.affine), gtab, mask=mask
            )
            for data in (noisy, clean)
        )
        name = f"other generator {number + 1}, SNR {HEAD_SNR:.0f}"
        yield GridScan.of(series, name=name, origin="other generator", clean=truth)


def dataset_scans(
    root: str | Path,
    grid: Grid,
    *,
    participant_labels: Sequence[str] | None = None,
    seen: frozenset[str] = frozenset(),
) -> Iterator[GridScan]:
    """Yield the series of a dataset on a grid; see :func:`~dmri_fm_lab.scans.find_scans`.

    The names of scans of `seen` participants say that training has seen them.
    """
    for scan in find_scans(root, participant_labels=participant_labels):
        placed = place_scan(scan, grid)
        if placed is not None:
            is_seen = scan.participant in seen
            yield replace(placed, name=f"{placed.name}{SEEN}") if is_seen else placed


def place_scan(scan: Scan, grid: Grid) -> GridScan | None:
    """Lay a series on a grid of the template's space, which it is registered to or lies in.

    None, with a warning, if it lacks b=0 or weighted volumes.
    """
    placed = place_series(scan, grid)
    return None if placed is None else GridScan.of(placed, name=scan.name, origin=scan.origin)


def place_series(scan: Scan, grid: Grid) -> Dwi | None:
    """Lay a series on a grid, in scanner units; see :func:`place_scan`."""
    b0 = np.flatnonzero(scan.dwi.gtab.is_b0)
    if not b0.size or len(b0) == len(scan.dwi.gtab):
        logger.warning("%s: skipped, it needs b=0 and weighted volumes", scan.name)
        return None
    dwi = scan.dwi.with_mask(scan.brain(b0))
    return resample_series(dwi, grid) if scan.is_in_template else lay_on_grid(dwi, grid)


def lay_on_grid(dwi: Dwi, grid: Grid) -> Dwi:
    """Register a series with a brain mask to the template (affine) and resample it once."""
    assert dwi.mask is not None
    template = load_template(2)
    brain = Image3D(dwi.mean_b0() * dwi.mask, dwi.affine)
    start = np.eye(4)
    target = Image3D(template.t1, np.asarray(template.grid.affine))
    start[:3, 3] = brain.centre_mm() - target.centre_mm()
    matrix = register_affine(brain, template, initial=start)
    placed = resample_series(dwi, grid, target2dwi=affine_map(matrix))
    table = dwi.gtab.rotated(rotation_part(np.linalg.inv(matrix)))
    return replace(placed, gtab=table)


@dataclass(frozen=True)
class ScanSources:
    """Scans that an evaluation is asked for, from up to three sources.

    Attributes
    ----------
    bids
        Dataset, see :func:`dataset_scans`; None: no real scan.
    participant_labels
        Participants of the dataset; all if None.
    n_simulated
        Held-out scans of the training generator.
    n_other
        Scans of the generator that no network is trained on.
    seed
        Of the simulated scans.
    seen
        Labels of participants that the network was trained on; their scans are marked.
    """

    bids: Path | None = None
    participant_labels: Sequence[str] | None = None
    n_simulated: int = 0
    n_other: int = 0
    seed: int = 0
    seen: frozenset[str] = frozenset()

    @property
    def has_scans(self) -> bool:
        """Whether any scan is asked for."""
        return bool(self.bids or self.n_simulated or self.n_other)

    def scans(self, grid: Grid, *, n_directions: int = 30) -> Iterator[GridScan]:
        """Yield the scans on a grid; `n_directions` is that of simulated ones."""
        for draw, n in (
            (simulated_scans, self.n_simulated),
            (other_generator_scans, self.n_other),
        ):
            yield from draw(grid, n, n_directions=n_directions, seed=self.seed)
        if self.bids:
            yield from dataset_scans(
                self.bids, grid, participant_labels=self.participant_labels, seen=self.seen
            )
