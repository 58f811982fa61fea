"""Corruptions of scans, for tests of the out-of-distribution score.

Each function takes a scan on an encoder's grid and returns it corrupted, at one stated severity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, binary_erosion
from scipy.spatial.transform import Rotation

from dmri_fm.normalise.signal import CLIP
from dmri_fm_lab.grid_scans import GridScan

#: b=0 signal over the noise that is added.
NOISE_SNR = 3.0

#: Standard deviations of each volume's rotations, degrees, and shifts, voxels.
MOTION_DEG, MOTION_VOXELS = 6.0, 3.0

#: Shares of the volumes that lose slices, of their slices, and of the signal that remains there.
DROPPED_VOLUMES, DROPPED_SLICES, LEFT = 0.5, 0.3, 0.15

#: Share of the brain's height that is missing at the top.
MISSING_SHARE = 0.3

#: Diffusivity of the liquid in a phantom, um^2/ms, and its SNR.
PHANTOM_DIFFUSIVITY, PHANTOM_SNR = 2.0, 30.0

#: Severities of the corruptions in words, for tables.
SEVERITIES = {
    "noise": f"Rician, SNR {NOISE_SNR:g} at b=0",
    "motion": f"each volume turned by {MOTION_DEG:g} deg (deviation, three axes) and moved by "
    f"{MOTION_VOXELS:g} voxels",
    "drop-out": f"{DROPPED_SLICES:.0%} of the slices of {DROPPED_VOLUMES:.0%} of the volumes lose "
    f"{1 - LEFT:.0%} of their signal",
    "missing slab": f"the upper {MISSING_SHARE:.0%} of the brain is not there",
    "wrong orientation": "turned by 90 deg about the left-right axis",
    "non-brain": "liquid in the shape of the brain, isotropic, "
    f"{PHANTOM_DIFFUSIVITY:g} um^2/ms, SNR {PHANTOM_SNR:g}",
}

_Image = NDArray[np.float32]


def _with_noise(signal: _Image, snr: float, rng: np.random.Generator) -> _Image:
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) / np.float32(snr)
    return np.asarray(np.hypot(signal + noise[0], noise[1]), dtype=np.float32)


def add_noise(scan: GridScan, rng: np.random.Generator) -> GridScan:
    """Add Rician noise, and clip as the app does."""
    noisy = _with_noise(scan.signal, NOISE_SNR, rng).clip(*CLIP)
    return replace(scan, signal=noisy * scan.mask[..., None])


def move_volumes(scan: GridScan, rng: np.random.Generator) -> GridScan:
    """Turn and move each volume by itself; mask and gradients do not change."""
    centre = np.argwhere(scan.mask).mean(axis=0)
    out = np.empty_like(scan.signal)
    for v in range(scan.signal.shape[3]):
        turn = Rotation.from_euler("xyz", rng.normal(0, MOTION_DEG, 3), degrees=True).as_matrix()
        offset = centre - turn @ centre + rng.normal(0, MOTION_VOXELS, 3)
        out[..., v] = affine_transform(scan.signal[..., v], turn, offset, order=1)
    return replace(scan, signal=out * scan.mask[..., None])


def drop_slices(scan: GridScan, rng: np.random.Generator) -> GridScan:
    """Take most of the signal from axial slices of some volumes."""
    out = scan.signal.copy()
    n_volumes, depth = out.shape[3], out.shape[2]
    n_hit = max(1, round(DROPPED_VOLUMES * n_volumes))
    for v in rng.permutation(n_volumes)[:n_hit]:
        out[:, :, rng.uniform(size=depth) < DROPPED_SLICES, v] *= np.float32(LEFT)
    return replace(scan, signal=out)


def cut_slab(scan: GridScan, rng: np.random.Generator) -> GridScan:
    """Cut off the top of the brain, in images and mask."""
    levels = np.flatnonzero(scan.mask.any(axis=(0, 1)))
    mask = scan.mask.copy()
    mask[:, :, levels[-round(MISSING_SHARE * len(levels)) :]] = False
    return replace(scan, mask=mask, signal=scan.signal * mask[..., None])


def turn_brain(scan: GridScan, rng: np.random.Generator) -> GridScan:
    """Turn images and mask, not gradients, about the left-right axis, as a wrong header does."""
    centre = np.argwhere(scan.mask).mean(axis=0)
    turn = Rotation.from_euler("x", 90, degrees=True).as_matrix()
    middle = (np.array(scan.mask.shape) - 1) / 2
    offset = centre - turn @ middle

    def apply(image: NDArray[np.float32]) -> _Image:
        return np.asarray(affine_transform(image, turn, offset, order=1), dtype=np.float32)

    mask = apply(scan.mask.astype(np.float32)) > 0.5
    volumes = np.stack([apply(v) for v in np.moveaxis(scan.signal, 3, 0)], axis=3)
    return replace(scan, mask=mask, signal=volumes * mask[..., None])


def fill_with_liquid(scan: GridScan, rng: np.random.Generator) -> GridScan:
    """Replace the brain by liquid, with a border of partial volume."""
    level = np.exp(-1e-3 * scan.gtab.bvals * PHANTOM_DIFFUSIVITY).astype(np.float32)
    core = binary_erosion(scan.mask)
    amount = np.where(core, np.float32(1), np.float32(0.8)) * scan.mask
    signal = _with_noise(amount[..., None] * level, PHANTOM_SNR, rng)
    return replace(scan, signal=signal * scan.mask[..., None])


#: Corruptions by name, in the order of tables.
CORRUPTIONS: dict[str, Callable[[GridScan, np.random.Generator], GridScan]] = {
    "noise": add_noise,
    "motion": move_volumes,
    "drop-out": drop_slices,
    "missing slab": cut_slab,
    "wrong orientation": turn_brain,
    "non-brain": fill_with_liquid,
}
