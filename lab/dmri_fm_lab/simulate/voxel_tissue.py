"""Signal of brains voxel by voxel: a stick and a zeppelin along each fibre, grey matter and CSF.

The tissue is that of trxscan's heads (:mod:`dmri_fm_lab.simulate.scanner`), without a scanner: no
artefact, no point spread, about a tenth of a second a scan on the 2 mm grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate.subject import Tissue

#: Fields of :class:`Tissue` that differ between brains.
FACTORS = ("stick_fraction", "stick", "parallel", "radial", "grey")

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


def add_noise(
    signal: NDArray[np.float32], *, snr: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the magnitude of a signal (V, N) with Rician noise.

    `snr` is the b=0 signal of white matter over the noise of one channel.
    """
    sigma = np.float32(INTENSITY[0] / snr)
    noise = rng.standard_normal((2, *signal.shape), dtype=np.float32) * sigma
    return np.asarray(np.hypot(signal + noise[0], noise[1]), dtype=np.float32)
