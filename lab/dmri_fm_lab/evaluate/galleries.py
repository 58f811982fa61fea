"""Galleries of brains that differ in their microstructure alone.

Anatomy, mask, fibres and b=0 contrast are those of one head of the generator that no network is
trained on: otherwise the shape of a brain gives it away. The tissue is that generator's, a stick
and a zeppelin along each fibre, isotropic grey matter and CSF, computed voxel by voxel instead
of by trxscan, which would take minutes a scan. The brain takes about half a minute of one
processor, a scan of 12 directions on the 2 mm grid about one second.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid
from dmri_fm.series import Dwi
from dmri_fm_lab.grid_scans import EVALUATION, GridScan, draw_subject, embed
from dmri_fm_lab.simulate.anatomy import Shape
from dmri_fm_lab.simulate.subject import Tissue
from dmri_fm_lab.simulate.truth import true_peaks
from dmri_fm_lab.simulate.voxel_tissue import FACTORS, Geometry, add_noise, tissue_signal

#: Standard deviation of the logarithm of a factor.
DEVIATION = 0.1


def brain_geometry(grid: Grid, *, seed: int = 0, shape: Shape | None = None) -> Geometry:
    """Draw a head of the generator that no network is trained on, on an encoder's grid."""
    rng = np.random.default_rng([EVALUATION, 2, seed])
    subject = draw_subject(rng, grid, shape)
    parts = subject.fractions
    mask = embed(parts.mask.astype(np.float32), subject.affine, grid) > 0
    fractions = embed(np.stack([parts.wm, parts.gm, parts.csf], 3), subject.affine, grid)[mask]
    peaks = embed(true_peaks(subject), subject.affine, grid)[mask]
    length = np.linalg.norm(peaks, axis=2)
    total = np.maximum(length.sum(axis=1, keepdims=True), 1e-6)
    return Geometry(
        mask,
        np.asarray(grid.affine),
        (fractions / np.maximum(fractions.sum(axis=1, keepdims=True), 1e-6)).astype(np.float32),
        (peaks / np.maximum(length, 1e-6)[..., None]).astype(np.float32),
        (length / total).astype(np.float32),
    )


def draw_gallery(rng: np.random.Generator, n: int) -> list[Tissue]:
    """Draw tissues whose :data:`FACTORS` vary independently about the usual ones."""
    if n < 2:
        raise ConfigError(f"a gallery of {n}", expected="two or more")
    usual = Tissue()
    factors = np.exp(DEVIATION * rng.standard_normal((n, len(FACTORS))))
    return [
        replace(
            usual, **{name: getattr(usual, name) * f for name, f in zip(FACTORS, row, strict=True)}
        )
        for row in factors.tolist()
    ]


def acquire_tissue(
    geometry: Geometry,
    tissue: Tissue,
    gtab: GradientTable,
    *,
    snr: float,
    rng: np.random.Generator,
    name: str = "",
) -> GridScan:
    """Acquire a member of a gallery with Rician noise.

    Parameters
    ----------
    geometry, tissue, gtab
        See :func:`tissue_signal`.
    snr
        b=0 signal of white matter over the noise of one channel.
    rng
        Source of the noise.
    name
        Name of the scan.
    """
    signal = tissue_signal(geometry, tissue, gtab)
    return noisy_scan(geometry, signal, gtab, snr=snr, rng=rng, name=name)


def noisy_scan(
    geometry: Geometry,
    signal: NDArray[np.float32],
    gtab: GradientTable,
    *,
    snr: float,
    rng: np.random.Generator,
    name: str = "",
) -> GridScan:
    """Return a signal (V, N) with Rician noise as a scan; see :func:`acquire_tissue`."""
    dwi = noisy_series(geometry, signal, gtab, snr=snr, rng=rng)
    return GridScan.of(dwi, name=name, origin="gallery")


def noisy_series(
    geometry: Geometry,
    signal: NDArray[np.float32],
    gtab: GradientTable,
    *,
    snr: float,
    rng: np.random.Generator,
) -> Dwi:
    """Return a signal (V, N) with Rician noise as a series; see :func:`acquire_tissue`."""
    images = np.zeros((*geometry.mask.shape, len(gtab)), dtype=np.float32)
    images[geometry.mask] = add_noise(signal, snr=snr, rng=rng)
    return Dwi.from_arrays(images, geometry.affine, gtab, mask=geometry.mask)
