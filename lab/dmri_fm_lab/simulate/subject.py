"""Simulated subjects: anatomy, tissue and susceptibility field on the grid of a series."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm_lab.simulate.anatomy import (
    FIELD_OF_VIEW_CENTRE_MM,
    FIELD_OF_VIEW_MM,
    Anatomy,
    Fractions,
    voxel_mm,
)

#: Points of the finer grid along each in-plane axis of a voxel.
OVERSAMPLING = 2

#: Bones and air near the brain, where the field is bent: MNI mm, width mm, share of the peak.
_FIELD_SOURCES = (
    ((0.0, 48.0, -28.0), 20.0, 1.0),
    ((45.0, -22.0, -38.0), 15.0, -0.7),
    ((-45.0, -22.0, -38.0), 15.0, -0.7),
)


@dataclass(frozen=True)
class Tissue:
    """Diffusivities of one head, mm^2/s, and relaxation.

    Attributes
    ----------
    stick_fraction, stick, parallel, radial
        White matter: share of restricted sticks and their diffusivity, and the diffusivities of
        the hindered rest along and across.
    grey, csf
        Diffusivities.
    fibrous
        Share of grey matter with the signal of white matter, as fibres reach it. Cortex has an FA
        of .1 to .2 (McNab et al. 2013, doi:10.1016/j.neuroimage.2012.11.065).
    t2_ms
        Of white matter, grey matter and CSF.
    """

    stick_fraction: float = 0.42
    stick: float = 1.6e-3
    parallel: float = 1.35e-3
    radial: float = 0.75e-3
    grey: float = 0.9e-3
    csf: float = 3.0e-3
    fibrous: float = 0.3
    t2_ms: tuple[float, float, float] = (70.0, 82.0, 900.0)


#: A head at birth: white matter holds little myelin and much water, with an MD of 1.2 to 1.5e-3
#: mm^2/s, a low FA and a longer T2 than grey matter (Dubois et al. 2014,
#: doi:10.1016/j.neuroscience.2013.12.044). The size is the share of an adult's length.
NEWBORN_SIZE = 0.62
NEWBORN = Tissue(
    stick_fraction=0.15,
    stick=1.9e-3,
    parallel=1.85e-3,
    radial=1.4e-3,
    grey=1.1e-3,
    fibrous=0.2,
    t2_ms=(190.0, 140.0, 1200.0),
)


@dataclass(frozen=True, eq=False)
class Subject:
    """A head on the grid of a series.

    Attributes
    ----------
    shape, affine
        Of the grid; the affine is RAS and diagonal.
    fractions
        On the grid.
    field_hz
        Shape (X, Y, Z), float32: the susceptibility field.
    tissue
        Its tissue.
    phantom
        trxscan's object.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    fractions: Fractions
    field_hz: NDArray[np.float32]
    tissue: Tissue
    phantom: Any


def grid(
    voxel_size_mm: tuple[float, float, float], *, size: float = 1.0
) -> tuple[tuple[int, int, int], NDArray[np.float64]]:
    """Return shape and RAS affine of a grid over the field of view of a head of a size."""
    shape = [
        2 * round(size * length / step / 2)
        for length, step in zip(FIELD_OF_VIEW_MM, voxel_size_mm, strict=True)
    ]
    affine = np.diag([*voxel_size_mm, 1.0])
    half = (np.array(shape) - 1) / 2 * voxel_size_mm
    affine[:3, 3] = np.array(FIELD_OF_VIEW_CENTRE_MM) - half
    return (shape[0], shape[1], shape[2]), affine


def draw_field_hz(
    rng: np.random.Generator, mni_mm: NDArray[np.float32], *, peak_hz: float
) -> NDArray[np.float32]:
    """Draw a susceptibility field (X, Y, Z), float32, Hz: bumps at sinuses and ears, smooth rest.

    `mni_mm` (3, X, Y, Z) are the positions of the voxels in MNI space; `peak_hz` is the field
    above the frontal sinus.
    """
    field = np.zeros(mni_mm.shape[1:], dtype=np.float32)
    for source, width, share in _FIELD_SOURCES:
        centre = np.array(source) + rng.normal(0.0, 3.0, 3)
        apart = mni_mm - centre.astype(np.float32)[:, None, None, None]
        size = peak_hz * share * rng.uniform(0.8, 1.2)
        field += np.float32(size) * np.exp(-(apart**2).sum(axis=0) / np.float32(2 * width**2))
    # The smooth rest: a plane wave or two of long wavelength.
    for _ in range(3):
        wave = rng.normal(0, 2 * np.pi / 150.0, 3).astype(np.float32)
        phase = np.tensordot(wave, mni_mm, 1) + np.float32(rng.uniform(0, 2 * np.pi))
        field += np.float32(0.04 * peak_hz) * np.sin(phase)
    return field


def place_subject(
    anatomy: Anatomy,
    tissue: Tissue,
    *,
    voxel_size_mm: tuple[float, float, float],
    rng: np.random.Generator,
    field_peak_hz: float,
) -> Subject:
    """Put a head on the grid of a series, with a random susceptibility field.

    Tissue outside the brain gives no signal, as where fat is suppressed well.
    """
    import trxscan

    shape, affine = grid(voxel_size_mm, size=anatomy.shape.size)
    fine = affine @ np.diag([1 / OVERSAMPLING, 1 / OVERSAMPLING, 1.0, 1.0])
    fine[:3, 3] -= 0.5 * (1 - 1 / OVERSAMPLING) * affine[:3, :3] @ [1, 1, 0]
    fine_shape = (shape[0] * OVERSAMPLING, shape[1] * OVERSAMPLING, shape[2])
    parts = anatomy.fractions(fine_shape, fine, n_inside=(1, 1, 2))
    field = draw_field_hz(rng, anatomy.mni_mm(voxel_mm(fine_shape, fine)), peak_hz=field_peak_hz)
    phantom = trxscan.objects.from_arrays(
        parts.wm + tissue.fibrous * parts.gm,
        (1 - tissue.fibrous) * parts.gm,
        parts.csf,
        oversample=OVERSAMPLING,
        voxel_mm=voxel_size_mm,
        fieldmap=field,
        affine=affine,
    )
    streamlines = trxscan.Streamlines(anatomy.fibres.points, anatomy.fibres.offsets)
    phantom = replace(phantom, streamlines=streamlines)
    fine_parts = (parts.wm, parts.gm, parts.csf, parts.lesion, parts.scalp)
    coarse = Fractions.of(*(coarser(part) for part in fine_parts))
    return Subject(shape, affine, coarse, coarser(field), tissue, phantom)


def coarser(fine: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average (X, Y, Z, ...) over the points of each voxel."""
    x, y, *rest = fine.shape
    blocks = fine.reshape(x // OVERSAMPLING, OVERSAMPLING, y // OVERSAMPLING, OVERSAMPLING, *rest)
    mean: NDArray[np.float32] = blocks.mean(axis=(1, 3))
    return mean
