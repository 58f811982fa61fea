"""Cubes of brain for the study, on the network's directions: simulated ones, and of real scans."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.encoders.artefact_unet.encoder import resample_shell
from dmri_fm.encoders.artefact_unet.network import UnetConfig
from dmri_fm.errors import InputError
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.shell_resampling import choose_shell, find_shell
from dmri_fm_lab.artefact_study.labels import (
    FEWEST_FOR_PEAKS,
    Labels,
    labels_by_fits,
    labels_of_truth,
)
from dmri_fm_lab.simulate import draw_batch, draw_protocol
from dmri_fm_lab.simulate.mixture import fibre_amounts
from dmri_fm_lab.train.artefact_unet import distinct_table
from dmri_fm_lab.train.scan_cache import CachedScan

logger = logging.getLogger(__name__)

#: Range of the centres of cubes, MNI mm: they hold white matter, grey matter and CSF.
_LOWEST_CENTRE, _HIGHEST_CENTRE = (-25.0, -55.0, 5.0), (25.0, 25.0, 35.0)

#: b-value, and directions of scans for the tasks and for pretraining, as published.
BVAL, TASK_DIRECTIONS, PRETRAINING_DIRECTIONS = 1000.0, 64, 90

#: SNR of white matter at b=0 of scans for the tasks (a hospital's), and for pretraining.
TASK_SNR, PRETRAINING_SNR = 20.0, 40.0

#: First number of the seeds of simulated cubes.
_SEED = 920_000

#: Fewest voxels of white matter with a peak in a cube.
FEWEST_WHITE = 30


@dataclass(frozen=True, eq=False)
class Cube:
    """A cube of a scan, and its labels.

    Attributes
    ----------
    name
        Of the scan.
    signal
        Shape (N, E, E, E), float16, S/S0 on the network's directions, zero outside the brain.
    brain
        Shape (E, E, E), bool.
    labels
        None where they are not needed.
    """

    name: str
    signal: Tensor
    brain: Tensor
    labels: Labels | None

    @property
    def n_labelled(self) -> int:
        """Number of white-matter voxels with a peak; 0 without labels."""
        if self.labels is None:
            return 0
        return int((self.labels.white & (self.labels.n_peaks > 0)).sum())


def simulate_cubes(
    seed: int, n: int, encoder: UnetConfig, *, edge: int, for_pretraining: bool = False
) -> list[Cube]:
    """Simulate cubes of n brains, each of its own, at b=1000.

    Parameters
    ----------
    seed
        Decides everything about them.
    n
        Number of cubes.
    encoder
        Its voxel size and number of directions are those of the cubes.
    edge
        Voxels along the edge of a cube.
    for_pretraining
        More directions, less noise, and no labels.
    """
    cubes: list[Cube] = []
    number = 0
    while len(cubes) < n:
        rng = np.random.default_rng([_SEED, seed, int(for_pretraining), number])
        cube = _simulate_cube(rng, encoder, edge=edge, for_pretraining=for_pretraining)
        number += 1
        if for_pretraining or cube.n_labelled >= FEWEST_WHITE:
            cubes.append(cube)
    return cubes


def _simulate_cube(
    rng: np.random.Generator, encoder: UnetConfig, *, edge: int, for_pretraining: bool
) -> Cube:
    n_directions = PRETRAINING_DIRECTIONS if for_pretraining else TASK_DIRECTIONS
    gtab = draw_protocol(rng, scheme="shell", n_directions=n_directions, bvals=BVAL)
    size = encoder.voxel_size_mm
    affine = np.diag([size, size, size, 1.0])
    affine[:3, 3] = rng.uniform(_LOWEST_CENTRE, _HIGHEST_CENTRE) - size * (edge - 1) / 2
    drawn = draw_batch(
        torch.Generator().manual_seed(int(rng.integers(2**62))),
        [gtab],
        shape=(edge, edge, edge),
        affine=torch.tensor(affine, dtype=torch.float32),
        snr=PRETRAINING_SNR if for_pretraining else TASK_SNR,
        with_truth=False,
    )
    mask = drawn.mask[0].numpy()
    series = drawn.signal[0].movedim(0, 3).numpy()
    signal = normalise_b0(series, gtab, mask=mask).signal[..., ~gtab.is_b0]
    labels = None
    if not for_pretraining:
        labels = labels_of_truth(
            drawn.fractions[0].numpy(),
            drawn.brains.fibres[0].numpy(),
            fibre_amounts(drawn.brains, drawn.tissues)[0].numpy(),
            mask,
        )
    return _resample("simulated", signal, gtab.bvecs_ras[~gtab.is_b0], mask, labels, encoder)


def _resample(
    name: str,
    signal: NDArray[np.float32],
    directions: NDArray[np.float64],
    mask: NDArray[np.bool_],
    labels: Labels | None,
    encoder: UnetConfig,
) -> Cube:
    volumes = resample_shell(
        np.moveaxis(signal, 3, 0), directions, n_directions=encoder.n_directions
    )
    brought = np.where(mask, volumes, np.float32(0.0)).astype(np.float16)
    return Cube(name, torch.from_numpy(brought), torch.from_numpy(mask), labels)


def cut_cubes(
    scans: Sequence[CachedScan], encoder: UnetConfig, *, edge: int, seed: int
) -> list[Cube]:
    """Cut a cube out of each real scan that can be labelled; the others are named in the log.

    Labels come from fits to the whole brain, see :func:`.labels.labels_by_fits`.

    Raises
    ------
    InputError
        If no scan has a shell of enough directions.
    """
    cubes = []
    for number, scan in enumerate(scans):
        shell = find_shell(distinct_table(scan))
        if shell is None or len(shell.index) < FEWEST_FOR_PEAKS:
            logger.warning(
                "%s: left out, the shell nearest to b=1000 has not the %d directions for peaks",
                scan.name,
                FEWEST_FOR_PEAKS,
            )
            continue
        rng = np.random.default_rng([_SEED, seed, 2, number])
        cube = _cut_cube(rng, scan, encoder, edge=edge)
        if cube.n_labelled < FEWEST_WHITE:
            logger.warning("%s: left out, too little white matter in its cube", scan.name)
            continue
        cubes.append(cube)
    if not cubes:
        raise InputError(
            f"none of {len(scans)} scans can be labelled",
            expected=f"a shell of {FEWEST_FOR_PEAKS} directions or more",
            advice="leave --scans out: labels are then those of simulated brains",
        )
    return cubes


def _cut_cube(
    rng: np.random.Generator, scan: CachedScan, encoder: UnetConfig, *, edge: int
) -> Cube:
    mask = scan.read_mask()
    volumes, gtab = scan.read_volumes(rng, len(scan.gtab))
    index = list(choose_shell(gtab).index)
    signal, table = volumes[..., index], gtab.select(index)
    corner = rng.uniform(_LOWEST_CENTRE, _HIGHEST_CENTRE) - encoder.voxel_size_mm * edge / 2
    voxel = (np.linalg.inv(encoder.grid.affine) @ [*corner, 1.0])[:3].round().astype(int)
    first = np.clip(voxel, 0, np.array(encoder.grid_shape) - edge)
    x, y, z = (slice(k, k + edge) for k in first)
    where = np.zeros_like(mask)
    where[x, y, z] = True
    labels = labels_by_fits(signal, table, mask, where=where)
    inside = Labels(labels.tissue[x, y, z], labels.n_peaks[x, y, z], labels.direction[:, x, y, z])
    return _resample(scan.name, signal[x, y, z], table.bvecs_ras, mask[x, y, z], inside, encoder)
