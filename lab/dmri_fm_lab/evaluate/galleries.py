"""Galleries of brains that differ in their microstructure alone.

Anatomy, mask, fibres and b=0 contrast are those of one head of the generator that no network is
trained on: otherwise the shape of a brain gives it away. The tissue is that generator's, a stick
and a zeppelin along each fibre, isotropic grey matter and CSF, computed voxel by voxel instead
of by trxscan, which would take minutes a scan. The brain takes about half a minute of one
processor, a scan of 12 directions on the 2 mm grid about one second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

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

#: Fields of :class:`Tissue` that differ between the members of a gallery.
FACTORS = ("stick_fraction", "stick", "parallel", "radial", "grey")

#: Standard deviation of the logarithm of a factor.
DEVIATION = 0.1

#: Intensities of white matter, grey matter and CSF without weighting, at one echo time.
INTENSITY = (0.70 * 0.30, 0.82 * 0.36, 1.0 * 0.91)


@dataclass(frozen=True, eq=False)
class Geometry:
    """Anatomy of one brain, V voxels.

    Attributes
    ----------
    mask
        Shape (X, Y, Z): the brain.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    fractions
        Shape (V, 3): white matter, grey matter, CSF.
    axes
        Shape (V, 3, 3): unit axes of up to three fibres, RAS+.
    shares
        Shape (V, 3): shares of white matter of each fibre; the rest diffuses as grey matter does.
    """

    mask: NDArray[np.bool_]
    affine: NDArray[np.float64]
    fractions: NDArray[np.float32]
    axes: NDArray[np.float32]
    shares: NDArray[np.float32]

    def __post_init__(self) -> None:
        n = int(self.mask.sum())
        if {len(a) for a in (self.fractions, self.axes, self.shares)} != {n}:
            raise ConfigError(f"{len(self.fractions)} voxels", expected=f"{n}, those of the mask")


class Fibres(NamedTuple):
    """White matter along fibres, see :class:`Tissue`; numbers, or arrays (V,) over voxels."""

    stick_fraction: float | NDArray[np.float32]
    stick: float | NDArray[np.float32]
    parallel: float | NDArray[np.float32]
    radial: float | NDArray[np.float32]

    @classmethod
    def of(cls, tissue: Tissue) -> Fibres:
        """Take those of a tissue."""
        return cls(*(getattr(tissue, name) for name in cls._fields))


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


def fibre_signal(
    axes: NDArray[np.float32],
    shares: NDArray[np.float32],
    fibres: Fibres,
    gtab: GradientTable,
) -> NDArray[np.float32]:
    """Return the signal (V, N) of fibres that is 1 where their `shares` (V, 3) add up to one.

    Parameters
    ----------
    axes, shares
        See :class:`Geometry`.
    fibres
        Of all voxels, or of each, mm^2/s.
    gtab
        RAS+.
    """
    b = gtab.bvals.astype(np.float32)
    signal = np.zeros((len(axes), len(gtab)), dtype=np.float32)
    fraction, stick, parallel, radial = (
        np.broadcast_to(np.asarray(x, dtype=np.float32), len(axes))[:, None] for x in fibres
    )
    for k in range(shares.shape[1]):
        has = shares[:, k] > 0
        along = b * (axes[has, k] @ gtab.bvecs_ras.T.astype(np.float32)) ** 2
        sticks = fraction[has] * np.exp(-stick[has] * along)
        across = radial[has]
        rest = (1 - fraction[has]) * np.exp(-across * b - (parallel[has] - across) * along)
        signal[has] += shares[has, k, None] * (sticks + rest)
    return signal


def tissue_signal(
    geometry: Geometry, tissue: Tissue, gtab: GradientTable, *, fibres: Fibres | None = None
) -> NDArray[np.float32]:
    """Compute the signal (V, N) without noise; that of b=0 does not depend on the tissue.

    Parameters
    ----------
    geometry
        The brain.
    tissue
        mm^2/s; its relaxation is not read.
    gtab
        RAS+.
    fibres
        White matter of each voxel, in place of the tissue's.
    """
    white, grey, csf = (geometry.fractions * np.array(INTENSITY, dtype=np.float32)).T
    white, grey = white + tissue.fibrous * grey, (1 - tissue.fibrous) * grey
    b = gtab.bvals.astype(np.float32)
    rest = grey + white * (1 - geometry.shares.sum(axis=1))
    signal = rest[:, None] * np.exp(-b * np.float32(tissue.grey))
    signal += csf[:, None] * np.exp(-b * np.float32(tissue.csf))
    fibres = fibres or Fibres.of(tissue)
    signal += white[:, None] * fibre_signal(geometry.axes, geometry.shares, fibres, gtab)
    return np.asarray(signal, dtype=np.float32)


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
    sigma = np.float32(INTENSITY[0] / snr)
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) * sigma
    images = np.zeros((*geometry.mask.shape, len(gtab)), dtype=np.float32)
    images[geometry.mask] = np.hypot(signal + noise[0], noise[1])
    dwi = Dwi.from_arrays(images, geometry.affine, gtab, mask=geometry.mask)
    return GridScan.of(dwi, name=name, origin="gallery")
