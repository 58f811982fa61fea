"""Anatomy of simulated participants: a head with a folded cortex, deformed, aged and diseased."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from dmri_fm_lab.simulate.bundles import Streamlines, draw_streamlines, near_callosum
from dmri_fm_lab.simulate.fields import smooth_fields
from dmri_fm_lab.simulate.template import load_anatomy_maps

#: Deviations of the random affine and of the elastic displacement.
_TURN_DEG, _SHIFT_MM, _STRETCH, _WARP_MM = 4.0, 3.0, 0.04, 3.0
#: Distance of the warp's control points, mm: far enough for a map that is one to one.
_WARP_SPACING_MM = 35.0

#: Box that holds a head, RAS mm from the scanner's centre.
FIELD_OF_VIEW_MM = (192.0, 228.0, 186.0)
FIELD_OF_VIEW_CENTRE_MM = (0.0, -16.0, 8.0)

#: The pial surface of averaged hemispheres lies too deep by about this much, mm.
_PIAL_MM = 0.8

#: Half the width of the corpus callosum between its fans, MNI mm.
_CALLOSUM_HALF_WIDTH_MM = 12.0


@dataclass(frozen=True)
class Shape:
    """Ventricles, cortex, callosum and lesions of a head, against those of the average.

    Attributes
    ----------
    ventricles_mm
        Distance by which the ventricles' walls lie further out.
    cortex_mm
        Thickness that the cortex has beyond the average.
    callosum
        Share of the callosum's fibres that is left between the hemispheres; grey matter takes
        the place of the others.
    lesions
        Shape (N, 4): centres, MNI mm, and radii, mm, of lesions in white matter.
    size
        Length of the head over that of the average adult.
    """

    ventricles_mm: float = 0.0
    cortex_mm: float = 0.0
    callosum: float = 1.0
    lesions: tuple[tuple[float, float, float, float], ...] = ()
    size: float = 1.0


@dataclass(frozen=True, eq=False)
class Fractions:
    """Volume fractions on a grid, each (X, Y, Z), float32.

    White matter, grey matter (cortex, nuclei) and CSF add up to one inside the brain; a lesion
    is counted as the mixture of grey matter and CSF that it resembles. `scalp` lies outside.
    """

    wm: NDArray[np.float32]
    gm: NDArray[np.float32]
    csf: NDArray[np.float32]
    lesion: NDArray[np.float32]
    scalp: NDArray[np.float32]
    mask: NDArray[np.bool_]

    @classmethod
    def of(cls, *parts: NDArray[np.float32]) -> Fractions:
        """Take WM, GM, CSF, lesion, scalp; the mask is where brain fills half a voxel."""
        wm, gm, csf, lesion, scalp = parts
        return cls(wm, gm, csf, lesion, scalp, wm + gm + csf > 0.5)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One head in the scanner.

    Attributes
    ----------
    to_mni
        Shape (4, 4), scanner to MNI space, RAS mm: the linear part.
    warp_mm
        Shape (3, X, Y, Z), float32: displacement to add in MNI space, on a coarse grid.
    warp_affine
        Shape (4, 4), voxel of that grid to RAS mm of the scanner.
    shape
        Sizes of its parts, and lesions.
    fibres
        Streamlines in scanner space, RAS mm.
    """

    to_mni: NDArray[np.float64]
    warp_mm: NDArray[np.float32]
    warp_affine: NDArray[np.float64]
    shape: Shape
    fibres: Streamlines

    def mni_mm(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return where points (3, ...) of the scanner lie in MNI space, RAS mm."""
        flat = points.reshape(3, -1)
        inverse = np.linalg.inv(self.warp_affine)
        where = inverse[:3, :3] @ flat + inverse[:3, 3:]
        warp = [map_coordinates(w, where, order=1, mode="nearest") for w in self.warp_mm]
        moved = self.to_mni[:3, :3] @ flat + self.to_mni[:3, 3:] + np.stack(warp)
        mni_mm: NDArray[np.float32] = moved.astype(np.float32).reshape(points.shape)
        return mni_mm

    def fractions(
        self,
        shape: tuple[int, int, int],
        affine: ArrayLike,
        *,
        n_inside: tuple[int, int, int] = (1, 1, 1),
    ) -> Fractions:
        """Average the tissues over the voxels of a grid.

        Parameters
        ----------
        shape
            X, Y, Z.
        affine
            Shape (4, 4), voxel to RAS mm of the scanner.
        n_inside
            Points along each axis of a voxel.
        """
        affine = np.asarray(affine, dtype=np.float64)
        total: NDArray[np.float32] | None = None
        offsets = [(np.arange(n) + 0.5) / n - 0.5 for n in n_inside]
        for corner in np.stack(np.meshgrid(*offsets)).reshape(3, -1).T:
            moved = affine.copy()
            moved[:3, 3] += affine[:3, :3] @ corner
            parts = tissues_at(self.mni_mm(voxel_mm(shape, moved)), self.shape)
            total = parts if total is None else total + parts
        assert total is not None
        return Fractions.of(*(total / np.float32(np.prod(n_inside))))


def voxel_mm(shape: tuple[int, int, int], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the RAS mm of every voxel of a grid, shape (3, X, Y, Z)."""
    index = np.indices(shape, dtype=np.float32)
    linear = affine[:3].astype(np.float32)
    turned: NDArray[np.float32] = np.tensordot(linear[:, :3], index, 1)
    return turned + linear[:, 3].reshape(3, 1, 1, 1)


def smooth_field(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    spacing: float,
    n_channels: int = 1,
) -> NDArray[np.float32]:
    """Draw smooth fields (n_channels, X, Y, Z) by a numpy generator.

    `spacing` is the distance of the control points, voxels; see :func:`.fields.smooth_fields`.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    steps = torch.full((1, 3), spacing)
    return smooth_fields(generator, shape, spacing=steps, n_channels=n_channels)[0].numpy()


def draw_anatomy(rng: np.random.Generator, shape: Shape = Shape()) -> Anatomy:
    """Draw a head of a shape: pose, size, elastic deformation and fibres are random."""
    turn = Rotation.from_euler("xyz", rng.normal(0, _TURN_DEG, 3), degrees=True).as_matrix()
    linear = np.diag(np.exp(rng.normal(0, _STRETCH, 3))) @ turn / shape.size
    centre = np.array(FIELD_OF_VIEW_CENTRE_MM)
    to_mni = np.eye(4)
    to_mni[:3, :3] = linear
    to_mni[:3, 3] = centre - linear @ centre + rng.normal(0, _SHIFT_MM, 3)
    warp, warp_affine = _draw_warp(rng, _WARP_MM)
    fibres = draw_streamlines(rng)
    moved = _undo(fibres.points.T, to_mni, warp, warp_affine)
    return Anatomy(to_mni, warp, warp_affine, shape, Streamlines(moved.T.copy(), fibres.offsets))


def draw_residual(rng: np.random.Generator, shape: Shape, *, warp_mm: float) -> Anatomy:
    """Draw a head in MNI space, as registration leaves it: a warp alone, without streamlines.

    `warp_mm` is the deviation of the warp.
    """
    warp, warp_affine = _draw_warp(rng, warp_mm)
    none = Streamlines(np.zeros((0, 3)), np.zeros(1, dtype=np.intp))
    return Anatomy(np.eye(4), warp, warp_affine, shape, none)


def _draw_warp(
    rng: np.random.Generator, deviation_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return a displacement field (3, X, Y, Z), mm, and its voxel-to-mm affine."""
    step = 6.0
    size = [int(length / step) + 12 for length in FIELD_OF_VIEW_MM]
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = np.array(FIELD_OF_VIEW_CENTRE_MM) - step * (np.array(size) - 1) / 2
    warp = smooth_field(
        rng, (size[0], size[1], size[2]), spacing=_WARP_SPACING_MM / step, n_channels=3
    )
    return (np.float32(deviation_mm) * warp).astype(np.float32), affine


def _undo(
    points: NDArray[np.float64],
    to_mni: NDArray[np.float64],
    warp_mm: NDArray[np.float32],
    warp_affine: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Take points (3, N) of MNI space to the scanner: a fixed point of the smooth warp."""
    inverse, voxel = np.linalg.inv(to_mni), np.linalg.inv(warp_affine)
    found = inverse[:3, :3] @ points + inverse[:3, 3:]
    for _ in range(4):
        where = voxel[:3, :3] @ found + voxel[:3, 3:]
        warp = [map_coordinates(w, where, order=1, mode="nearest") for w in warp_mm]
        found = inverse[:3, :3] @ (points - np.stack(warp)) + inverse[:3, 3:]
    return found


def tissues_at(mni_mm: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    """Return WM, GM, CSF, lesion and scalp at points of MNI space, (5, ...), float32."""

    def inside(distance: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(np.float32(0.5) - distance, 0, 1)

    sampled = load_anatomy_maps().sample(mni_mm)
    white, pial, ventricle, brain, nuclei, below_white, below_grey = sampled
    within = inside(white)
    fluid = inside(ventricle - np.float32(shape.ventricles_mm))
    grown = np.float32(_PIAL_MM + shape.cortex_mm)
    hemisphere = np.maximum(inside(pial - grown), within)
    mask = np.maximum(inside(brain), hemisphere)
    wm = within * (1 - nuclei) * (1 - fluid) + (1 - hemisphere) * below_white
    gm = (hemisphere - within) + within * nuclei * (1 - fluid) + (1 - hemisphere) * below_grey
    if shape.callosum < 1:
        callosal = (white < 0) & (np.abs(mni_mm[0]) < _CALLOSUM_HALF_WIDTH_MM)
        callosal[callosal] = near_callosum(mni_mm[:, callosal])
        lost = np.where(callosal, wm * np.float32(1 - shape.callosum), 0)
        wm, gm = wm - lost, gm + lost
    spots = np.zeros_like(wm)
    for *centre, radius in shape.lesions:
        apart = mni_mm - np.array(centre, dtype=np.float32).reshape(3, *[1] * (mni_mm.ndim - 1))
        spots = np.maximum(spots, np.clip(radius + 0.5 - np.sqrt((apart**2).sum(axis=0)), 0, 1))
    lesion = wm * np.float32(0.9) * spots
    wm, gm = wm - lesion, gm + np.float32(0.6) * lesion
    csf = np.clip(mask - wm - gm, 0, 1)
    scalp = np.clip(np.minimum(brain - 9, 14 - brain), 0, 1)
    parts: NDArray[np.float32] = np.stack([wm, gm, csf, lesion, scalp]).astype(np.float32)
    return parts
