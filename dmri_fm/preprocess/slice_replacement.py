"""Slices that lost signal to movement, replaced by what the other volumes say of them.

As FSL's eddy does (Andersson et al. 2016, doi:10.1016/j.neuroimage.2016.06.058), with the
prediction that found them. A slice is predicted where it was acquired, in the volume's own
voxels, so that the series is still interpolated once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, map_coordinates

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.preprocess.motion import MotionEstimate, rotate_bvecs
from dmri_fm.preprocess.shell_prediction import has_process, predict_volume
from dmri_fm.series import Dwi

#: What :func:`replace_slices` adds to the name of the method in the sidecar.
REPLACEMENT = "lost slices replaced by a Gaussian process"

#: Steps of the fixed-point iteration from points of a volume to those of the reference.
_INVERSION_STEPS = 6

#: Voxels around the brain that are replaced as well: interpolation reads them.
_MARGIN = 2

#: A volume does not predict a slice if more than this share of its points lies in a lost slice of
#: its own.
_LARGEST_LOST_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class ReplacedSlices:
    """A series whose lost slices were replaced.

    Attributes
    ----------
    data
        Shape (X, Y, Z, N), float32; that of the series itself where none was.
    replaced, left
        Volume and slice of those that were replaced, and of those that the other volumes do not
        determine, from 0.
    """

    data: NDArray[np.float32]
    replaced: tuple[tuple[int, int], ...]
    left: tuple[tuple[int, int], ...]

    def as_metadata(self) -> dict[str, dict[str, list[int]]]:
        """Return the entries of the sidecar: slices by volume, both from 0."""
        return {
            "SlicesReplaced": _by_volume(self.replaced),
            **({"SlicesLostNotReplaced": _by_volume(self.left)} if self.left else {}),
        }


def replace_slices(
    dwi: Dwi,
    motion: MotionEstimate,
    *,
    encodings: Sequence[PhaseEncoding],
    field: DistortionField | None = None,
) -> ReplacedSlices:
    """Replace lost slices of weighted volumes.

    Parameters
    ----------
    dwi
        The series as acquired; its mask is the brain in the undistorted reference.
    motion
        Position of each volume, and its lost slices.
    encodings
        Phase encoding of every volume.
    field
        Distortion field on the reference's grid.

    Returns
    -------
    ReplacedSlices
        Voxels in and around the brain are replaced. Slices of b=0, and of shells that do not
        determine a volume by the others, stay as they are.
    """
    lost = [(int(n), int(z)) for n, z in np.argwhere(motion.is_outlier)]
    if not lost:
        return ReplacedSlices(dwi.data, (), ())
    gtab = rotate_bvecs(dwi.gtab, motion)
    shell_of = {n: shell for shell in gtab.shells for n in shell.index}
    near = binary_dilation(dwi.brain, iterations=_MARGIN)
    data, replaced, left = dwi.data.copy(), [], []
    places = _Places.build(dwi, motion, encodings, field)
    for n, z in lost:
        voxels = np.argwhere(np.ones(dwi.shape[:2], dtype=bool))
        voxels = np.column_stack([voxels, np.full(len(voxels), z)])
        points = places.to_reference(voxels, n)
        inside = map_coordinates(near.astype(np.uint8), places.voxels_of(points).T, order=0) > 0
        voxels, points = voxels[inside], points[inside]
        if n not in shell_of or not len(points):
            left.append((n, z))
            continue
        others = [*np.flatnonzero(gtab.is_b0), *shell_of[n].index]
        used = [int(m) for m in others if m != n and not places.is_lost(points, int(m))]
        part = gtab.select([*used, n])
        members = [k for k, m in enumerate(used) if m in shell_of]
        if not has_process(part, members):
            left.append((n, z))
            continue
        signal = np.stack([places.sample(points, m) for m in (*used, n)])
        predicted = np.maximum(predict_volume(signal, part, members, len(used)), 0)
        data[(*voxels.T, np.full(len(voxels), n))] = predicted / places.stretch(points, n)
        replaced.append((n, z))
    return ReplacedSlices(data, tuple(replaced), tuple(left))


@dataclass(frozen=True, eq=False)
class _Places:
    """Where points of the reference lie in each volume of a series."""

    dwi: Dwi
    motion: MotionEstimate
    encodings: Sequence[PhaseEncoding]
    field: DistortionField | None
    jacobians: dict[PhaseEncoding, NDArray[np.float32]]

    @classmethod
    def build(
        cls,
        dwi: Dwi,
        motion: MotionEstimate,
        encodings: Sequence[PhaseEncoding],
        field: DistortionField | None,
    ) -> _Places:
        known = [e for e in dict.fromkeys(encodings) if e.direction is not None]
        jacobians = {} if field is None else {e: field.jacobian(e, dwi.affine) for e in known}
        return cls(dwi, motion, encodings, field, jacobians)

    def to_reference(self, voxels: NDArray[np.int_], n: int) -> NDArray[np.float64]:
        """Return the points of the reference, (P, 3) mm, that voxels of a volume show."""
        seen = apply_affine(self.dwi.affine, voxels)
        back = np.linalg.inv(self.motion.xfms[n])
        points = apply_affine(back, seen)
        for _ in range(_INVERSION_STEPS if self.field is not None else 0):
            points = apply_affine(back, seen - self._shift(points, n))
        return np.asarray(points)

    def voxels_of(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return voxel positions, (P, 3)."""
        return np.asarray(apply_affine(np.linalg.inv(self.dwi.affine), points))

    def sample(self, points: NDArray[np.float64], n: int) -> NDArray[np.float32]:
        """Return a volume at points of the reference, (P,), with its Jacobian."""
        values = map_coordinates(
            self.dwi.data[..., n], self._seen(points, n).T, order=1, mode="nearest"
        )
        return np.asarray(values * self.stretch(points, n), dtype=np.float32)

    def is_lost(self, points: NDArray[np.float64], n: int) -> bool:
        """Tell whether a volume shows points in slices that it lost."""
        flags = self.motion.is_outlier[n]
        slices = np.clip(np.rint(self._seen(points, n)[:, 2]).astype(int), 0, len(flags) - 1)
        return bool(flags[slices].mean() > _LARGEST_LOST_SHARE)

    def stretch(self, points: NDArray[np.float64], n: int) -> NDArray[np.float32]:
        """Return the Jacobian of the distortion of a volume, (P,), away from zero."""
        jacobian = self.jacobians.get(self.encodings[n])
        if jacobian is None:
            return np.ones(len(points), dtype=np.float32)
        values = map_coordinates(jacobian, self.voxels_of(points).T, order=1, mode="nearest")
        return np.asarray(np.maximum(values, 0.1), dtype=np.float32)

    def _seen(self, points: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        """Return the voxel positions at which a volume shows points of the reference."""
        return self.voxels_of(apply_affine(self.motion.xfms[n], points) + self._shift(points, n))

    def _shift(self, points: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        if self.field is None or self.encodings[n].direction is None:
            return np.zeros((len(points), 3))
        at = self.voxels_of(points).T
        hz = map_coordinates(self.field.hz, at, order=1, mode="nearest")
        return np.asarray(hz[:, None] * self.encodings[n].mm_per_hz(self.dwi.affine))


def _by_volume(slices: Sequence[tuple[int, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for volume, number in slices:
        found.setdefault(str(volume), []).append(number)
    return found
