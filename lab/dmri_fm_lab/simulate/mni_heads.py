"""Heads in MNI space on a grid, a second each: every participant has an anatomy of their own.

Surfaces, ventricles, cortex and lesions of a head are exact: its tissues are those of
:mod:`dmri_fm_lab.simulate.anatomy` at each voxel. Courses of fibres are shared: a few are drawn as
streamlines, which takes trxscan some seconds each, and deformed with the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, map_coordinates

from dmri_fm.normalise.grid import Grid
from dmri_fm_lab.feature_cache import FeatureCache, Vectors
from dmri_fm_lab.simulate.anatomy import (
    Anatomy,
    Fractions,
    Shape,
    draw_residual,
    tissues_at,
)
from dmri_fm_lab.simulate.bundles import draw_streamlines
from dmri_fm_lab.simulate.subject import Tissue, place_subject
from dmri_fm_lab.simulate.template import load_anatomy_maps
from dmri_fm_lab.simulate.truth import true_peaks
from dmri_fm_lab.simulate.voxel_tissue import Geometry

#: First number of the seeds of fibres and heads in MNI space.
_FIBRES, _HEADS = 920_001, 920_002

#: Deviation of the anatomy that registration leaves, mm.
RESIDUAL_MM = 1.2

#: Voxels of the template's fibres, mm; ventricles of the head that they are drawn in are narrow,
#: so that white matter of narrow ventricles has fibres, too.
FIBRE_VOXEL_MM, _NARROW_MM = 2.0, -2.0

#: Points of a head are those within this distance of the template's brain, mm.
_REACH_MM = 6.0

#: Least white matter of a voxel with fibres.
_LEAST_WHITE = 0.05

#: Points in a voxel at which tissues are taken, voxels from its middle.
_INSIDE = ((-0.25, -0.25, -0.25), (0.25, 0.25, 0.25))


@dataclass(frozen=True, eq=False)
class FibreTemplate:
    """Courses of fibres in MNI space.

    Attributes
    ----------
    axes
        Shape (X, Y, Z, 3, 3), float32: unit axes of up to three fibres, RAS+.
    shares
        Shape (X, Y, Z, 3), float32: their shares, which add up to one.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    """

    axes: NDArray[np.float32]
    shares: NDArray[np.float32]
    affine: NDArray[np.float64]

    def at(self, mni_mm: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return axes (V, 3, 3) and shares (V, 3) at points (3, V): those of the nearest voxel."""
        inverse = np.linalg.inv(self.affine)
        index = np.rint(inverse[:3, :3] @ mni_mm + inverse[:3, 3:]).astype(int)
        last = np.array(self.shares.shape[:3])[:, None] - 1
        where = tuple(np.clip(index, 0, last))
        return self.axes[where], self.shares[where]


def draw_fibre_template(
    seed: int, *, voxel_mm: float = FIBRE_VOXEL_MM, cache: Path | None = None
) -> FibreTemplate:
    """Draw courses of fibres, or read those of an earlier call.

    Voxels without a fibre have those of the nearest voxel that has one. `cache` is a folder.
    """

    def draw() -> Vectors:
        rng = np.random.default_rng([_FIBRES, seed])
        shape = Shape(ventricles_mm=_NARROW_MM)
        still = draw_residual(rng, shape, warp_mm=0.0)
        anatomy = Anatomy(
            still.to_mni, still.warp_mm, still.warp_affine, shape, draw_streamlines(rng)
        )
        subject = place_subject(
            anatomy, Tissue(), voxel_size_mm=(voxel_mm,) * 3, rng=rng, field_peak_hz=0.0
        )
        peaks = true_peaks(subject)
        length = np.linalg.norm(peaks, axis=4)
        nearest = distance_transform_edt(
            length.sum(axis=3) == 0, return_distances=False, return_indices=True
        )
        peaks, length = peaks[tuple(nearest)], length[tuple(nearest)]
        return {
            "axes": peaks / np.maximum(length, 1e-6)[..., None],
            "shares": length / length.sum(axis=3, keepdims=True),
            "affine": subject.affine,
        }

    stored = FeatureCache.of(cache, _FIBRES, _NARROW_MM, voxel_mm, seed).get("fibres", draw)
    axes, shares = (np.asarray(stored[k], dtype=np.float32) for k in ("axes", "shares"))
    return FibreTemplate(axes, shares, np.asarray(stored["affine"]))


@dataclass(frozen=True, eq=False)
class Head:
    """A head on a grid: what its signal is computed from, and its tissues.

    Attributes
    ----------
    geometry
        Brain, without lesions as a tissue of their own: they count as grey matter and CSF.
    mni_mm
        Shape (3, V): where the voxels of the brain lie in the template.
    lesions_ml
        Volume of lesions.
    """

    geometry: Geometry
    mni_mm: NDArray[np.float32]
    lesions_ml: float


def draw_head(seed: tuple[int, ...], grid: Grid, shape: Shape, fibres: FibreTemplate) -> Head:
    """Draw the head of a participant on a grid.

    Parameters
    ----------
    seed
        Of the participant: the same gives the same deformation, whatever the shape.
    grid
        In MNI space.
    shape
        Ventricles, cortex, callosum, lesions.
    fibres
        Their courses, which are deformed with the head.
    """
    rng = np.random.default_rng([_HEADS, *seed])
    anatomy = draw_residual(rng, shape, warp_mm=RESIDUAL_MM)
    near, points = _points_near(grid.shape, grid.affine.tobytes())
    total = np.zeros((5, points.shape[1]), dtype=np.float32)
    for inside in _INSIDE:
        offset = np.asarray(grid.affine[:3, :3] @ inside, dtype=np.float32)[:, None]
        total += tissues_at(anatomy.mni_mm(points + offset), shape)
    parts = Fractions.of(*(total / np.float32(len(_INSIDE))))
    brain = parts.mask
    mask = np.zeros(grid.shape, dtype=bool)
    mask[near] = brain
    own = points[:, brain]
    mni_mm = anatomy.mni_mm(own)
    fractions = np.stack([parts.wm, parts.gm, parts.csf], axis=1)[brain]
    axes, shares = fibres.at(mni_mm)
    white = fractions[:, 0] > _LEAST_WHITE
    axes[white] = _turned(axes[white], anatomy, own[:, white])
    return Head(
        Geometry(
            mask,
            np.asarray(grid.affine),
            fractions / fractions.sum(axis=1, keepdims=True),
            axes,
            np.where(white[:, None], shares, np.float32(0)),
        ),
        mni_mm,
        float(parts.lesion.sum() * abs(np.linalg.det(grid.affine[:3, :3])) / 1000),
    )


@lru_cache(maxsize=2)
def _points_near(
    shape: tuple[int, int, int], affine: bytes
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return which voxels (X, Y, Z) lie near the template's brain, and their RAS mm (3, V)."""
    matrix = np.frombuffer(affine).reshape(4, 4)
    index = np.indices(shape, dtype=np.float32).reshape(3, -1)
    points = (matrix[:3, :3] @ index + matrix[:3, 3:]).astype(np.float32)
    maps = load_anatomy_maps()
    where = points - maps.origin_mm[:, None]
    apart = map_coordinates(maps.channels[3], where, order=0, mode="nearest")
    # Beyond the map's edge its last value says nothing.
    last = np.array(maps.channels.shape[1:], dtype=np.float32)[:, None]
    is_near = (apart < _REACH_MM) & ((where > 0) & (where < last)).all(axis=0)
    return is_near.reshape(shape), points[:, is_near]


def _turned(
    axes: NDArray[np.float32], anatomy: Anatomy, points: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return axes (V, 3, 3) of the template as they lie in a head whose map is a warp alone.

    A step u of the head is the step (1 + dw/dx) u of the template: axes turn by its inverse, to
    first order 1 - dw/dx.
    """
    inverse = np.linalg.inv(anatomy.warp_affine)
    where = inverse[:3, :3] @ points + inverse[:3, 3:]
    slopes = [np.gradient(w, anatomy.warp_affine[0, 0]) for w in anatomy.warp_mm]
    turned = axes.copy()
    for i in range(3):
        for j in range(3):
            slope = map_coordinates(slopes[i][j], where, order=1, mode="nearest")
            turned[:, :, i] -= slope[:, None] * axes[:, :, j]
    length = np.linalg.norm(turned, axis=2, keepdims=True)
    return np.asarray(turned / np.maximum(length, 1e-6), dtype=np.float32)
