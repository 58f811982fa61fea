"""Patches of real and simulated scans: a `Dwi` with a mask each, of all volumes of its table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.series import Dwi
from dmri_fm_lab.simulate import draw_anatomy, draw_batch
from dmri_fm_lab.simulate.scanner import Acquisition, acquire
from dmri_fm_lab.simulate.subject import Tissue, place_subject

#: Patches that are measured, as large as the thinnest slab allows, voxels.
SHAPE = (32, 32, 16)

#: Patches of the picture, voxels.
PICTURE_SHAPE = (64, 64, 16)

#: Smallest share of brain in a patch.
FEWEST_BRAIN = 0.5

#: Draws per call of the simulator.
DRAWS = 4


def read_scan(dataset: Path, scanner: str) -> Dwi:
    """Read the AP series of a scanner, with a brain mask."""
    stem = dataset / f"sub-{scanner}" / "dwi" / f"sub-{scanner}_dir-AP_dwi"
    dwi = Dwi.from_files(*(stem.with_suffix(end) for end in (".nii.gz", ".bval", ".bvec")))
    return dwi.with_mask(brain_mask(dwi.mean_b0(), dwi.affine, contrast="b0").mask)


def crop(dwi: Dwi, corner: Sequence[int], shape: Sequence[int]) -> Dwi:
    """Cut a box out of a scan with a mask; parts of the box outside the scan are dropped."""
    box = tuple(slice(c, c + n) for c, n in zip(corner, shape, strict=True))
    affine = dwi.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(corner)
    assert dwi.mask is not None
    return Dwi.from_arrays(dwi.data[box], affine, dwi.gtab, mask=dwi.mask[box])


def brain_share(dwi: Dwi) -> float:
    """Return the share of the mask."""
    assert dwi.mask is not None
    return float(dwi.mask.mean())


def cut_patches(rng: np.random.Generator, scan: Dwi, n: int) -> list[Dwi]:
    """Cut patches at random positions of the brain; they overlap."""
    highest = np.array(scan.shape[:3]) - np.array(SHAPE)
    patches: list[Dwi] = []
    while len(patches) < n:
        patch = crop(scan, [int(i) for i in rng.integers(0, highest + 1)], SHAPE)
        if brain_share(patch) >= FEWEST_BRAIN:
            patches.append(patch)
    return patches


def matched_affine(rng: np.random.Generator, voxel_mm: NDArray[np.float64]) -> Tensor:
    """Return the grid of an upright patch of given voxel size, somewhere in the MNI brain."""
    centre = rng.uniform((-35.0, -65.0, -10.0), (35.0, 30.0, 45.0))
    affine = np.diag([*voxel_mm, 1.0])
    affine[:3, 3] = centre - voxel_mm * (np.array(SHAPE) - 1) / 2
    return torch.tensor(affine, dtype=torch.float32)


def simulate_patches(
    rng: np.random.Generator,
    gtab: GradientTable,
    n: int,
    *,
    shape: tuple[int, int, int] = SHAPE,
    voxel_mm: NDArray[np.float64] | None = None,
) -> list[Dwi]:
    """Draw patches as the training does, or upright ones of a given voxel size."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    patches: list[Dwi] = []
    while len(patches) < n:
        batch = draw_batch(
            generator,
            [gtab] * DRAWS,
            shape=shape,
            affine=None if voxel_mm is None else matched_affine(rng, voxel_mm),
            with_truth=False,
        )
        drawn = (
            Dwi.from_arrays(signal.movedim(0, 3).numpy(), affine, gtab, mask=mask.numpy())
            for signal, affine, mask in zip(batch.signal, batch.affine, batch.mask, strict=True)
        )
        patches += [patch for patch in drawn if brain_share(patch) >= FEWEST_BRAIN]
    return patches[:n]


def simulate_scan(rng: np.random.Generator, scan: Dwi) -> Dwi:
    """Scan a head as `dmri-fm simulate` does, with a scan's gradient table and voxel size."""
    x, y, z = scan.voxel_size_mm.tolist()
    subject = place_subject(
        draw_anatomy(rng), Tissue(), voxel_size_mm=(x, y, z), rng=rng, field_peak_hz=65.0
    )
    # White matter has some 450 at b=0: an SNR of about 20.
    data = acquire(subject, scan.gtab, Acquisition(sigma=22.0, ghost=0.005))
    return Dwi.from_arrays(data, subject.affine, scan.gtab, mask=subject.fractions.mask)


def centre_of_brain(scan: Dwi) -> Dwi:
    """Cut the picture's patch around the middle of the brain."""
    assert scan.mask is not None
    middle = np.argwhere(scan.mask).mean(axis=0)
    room = np.maximum(np.array(scan.shape[:3]) - PICTURE_SHAPE, 0)
    corner = np.clip(np.round(middle - np.array(PICTURE_SHAPE) / 2), 0, room).astype(int)
    return crop(scan, [int(c) for c in corner], PICTURE_SHAPE)
