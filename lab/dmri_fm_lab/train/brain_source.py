"""Whole brains for pretraining: real scans, and simulated brains that are kept on disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from dmri_fm.encoders.artefact_unet.network import UnetConfig
from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.ssdiff.config import SsdiffConfig
from dmri_fm.errors import InputError
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.out_of_distribution import ScanSummary, fit_scan_reference
from dmri_fm_lab.grid_scans import B0Volumes
from dmri_fm_lab.simulate import draw_batch, draw_protocol
from dmri_fm_lab.train.config import EncoderPretraining
from dmri_fm_lab.train.loop import HELD_OUT, REFERENCE, TRAINING
from dmri_fm_lab.train.scan_cache import TABLE, CachedScan

#: Further purposes in seeds: choice of a step's scans, directions and masks; of held-out
#: participants; of a validation's brains. `loop.VALIDATION` is that of tensor networks: its number
#: is STEP's, and numpy seeds [3, n] and [3, n, 0] are one state.
STEP, HOLD_OUT, BRAIN_VALIDATION = 3, 6, 7

#: Folder of the simulated brains in that of a run.
BRAINS = "brains"

#: Missing-brain threshold: largest share of the brain (D-RoPE: of an octant of it) that a
#: reference scan lacks.
MOST_MISSING = 0.25

#: SNR of white matter at b=0 in simulated brains: lower ones would rule the squared error.
SNR_RANGE = (12.0, 80.0)


def simulate_brain(
    rng: np.random.Generator, grid: Grid, folder: Path, *, n_directions: int
) -> CachedScan:
    """Simulate a whole brain on a grid and write its volumes to a folder.

    One, two or three shells (b 400 to 3000) share the directions out; one to four b=0 volumes;
    SNR in :data:`SNR_RANGE`, log-uniform.
    """
    n_shells = min(int(rng.integers(1, 4)), n_directions)
    counts = [len(part) for part in np.array_split(np.arange(n_directions), n_shells)]
    bvals = np.sort(rng.uniform(400.0, 3000.0, n_shells)).round(-1)
    gtab = draw_protocol(
        rng,
        scheme="multishell",
        n_directions=counts,
        bvals=bvals.tolist(),
        n_b0=int(rng.integers(1, 5)),
    )
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    drawn = draw_batch(
        generator,
        [gtab],
        shape=grid.shape,
        affine=torch.tensor(grid.affine, dtype=torch.float32),
        snr=float(np.exp(rng.uniform(*np.log(SNR_RANGE)))),
        with_truth=False,
    )
    mask = drawn.mask[0].numpy()
    signal = normalise_b0(drawn.signal[0].movedim(0, 3).numpy(), gtab, mask=mask).signal
    weighted = np.flatnonzero(~gtab.is_b0)
    return CachedScan.write(
        folder, signal[..., weighted], mask, gtab.select(weighted), b0=B0Volumes.of(signal, gtab)
    )


@dataclass(frozen=True)
class BrainSource:
    """Training scans: real ones, and simulated brains, which are drawn once and kept.

    Attributes
    ----------
    config
        Of the encoder; brains lie on its grid.
    training
        Settings; a share `training.scan_share` of the scans is real, where there are any.
    folder
        Of the simulated brains, which are drawn when they are first needed.
    scans
        Real scans.
    purpose
        Part of the seeds, see :data:`.loop.TRAINING`.
    devices
        Number of devices that train together; each draws numbers of its own.
    """

    config: DropeConfig | SsdiffConfig | UnetConfig
    training: EncoderPretraining
    folder: Path
    scans: Sequence[CachedScan] = ()
    purpose: int = TRAINING
    devices: int = 1

    def choose(self, rng: np.random.Generator, n_brains: int) -> CachedScan:
        """Return a real scan, or one of the first simulated brains."""
        if self.scans and rng.uniform() < self.training.scan_share:
            return self.scans[int(rng.integers(len(self.scans)))]
        return self.brain(int(rng.integers(n_brains)))

    def brain(self, number: int) -> CachedScan:
        """Return a simulated brain by its number.

        Raises InputError if the folder holds brains on another grid.
        """
        folder = self.folder / f"purpose-{self.purpose}_seed-{self.seed}_brain-{number:05d}"
        if (folder / TABLE).exists():
            return self._check(CachedScan.read(folder))
        rng = np.random.default_rng([self.seed, self.purpose, number])
        n = self.training.scan_directions
        return simulate_brain(rng, self.config.grid, folder, n_directions=n)

    def _check(self, brain: CachedScan) -> CachedScan:
        shape = np.load(brain.folder / "mask.npy", mmap_mode="r").shape
        if shape != self.config.grid_shape:
            raise InputError(
                f"a simulated brain of {shape} voxels",
                path=brain.folder,
                expected=f"brains on the encoder's grid, {self.config.grid_shape} voxels",
                advice="give runs on another grid a folder of their own (--brains)",
            )
        return brain

    @property
    def seed(self) -> int:
        """Seed of the simulated brains."""
        return self.training.optimisation.seed

    def newest(self, step: int) -> int:
        """Return the number of simulated brains that are at hand in a step."""
        return min(1 + step // self.training.n_reuse, self.training.n_brains)


Source = TypeVar("Source", bound=BrainSource)


def hold_out(scans: Sequence[CachedScan], config: EncoderPretraining) -> list[CachedScan]:
    """Return the scans of the participants that are held out."""
    participants = sorted({scan.participant for scan in scans})
    rng = np.random.default_rng([config.optimisation.seed, HOLD_OUT])
    n = int(config.held_out_share * len(participants))
    chosen = set(rng.permutation(participants)[:n].tolist())
    return [scan for scan in scans if scan.participant in chosen]


def fit_reference(
    source: Source,
    held_out: Sequence[CachedScan],
    summarise: Callable[[Source, np.random.Generator, int], ScanSummary],
) -> dict[str, torch.Tensor]:
    """Return the reference statistics of an encoder's features.

    Parameters
    ----------
    source
        Scans of the training, whose settings say how many are encoded.
    held_out
        Scans for the percentiles; those of the training if there are none.
    summarise
        Called with a source, a generator and the number of brains to choose from; encodes a scan.
    """
    training = source.training
    reference = replace(source, purpose=REFERENCE)
    others = replace(source, purpose=HELD_OUT, scans=held_out or source.scans)
    return fit_scan_reference(
        _summarise_scans(reference, training.n_reference, summarise),
        _summarise_scans(others, training.n_held_out, summarise),
    )


def _summarise_scans(
    source: Source,
    n_scans: int,
    summarise: Callable[[Source, np.random.Generator, int], ScanSummary],
) -> list[ScanSummary]:
    """Encode scans; those that miss much of the brain are drawn again, up to a limit."""
    summaries: list[ScanSummary] = []
    for number in itertools.count():
        rng = np.random.default_rng([source.seed, source.purpose, number])
        summary = summarise(source, rng, n_scans)
        if not summary.indicators["missing"] > MOST_MISSING or number >= 2 * n_scans:
            summaries.append(summary)
        if len(summaries) == n_scans:
            break
    return summaries
