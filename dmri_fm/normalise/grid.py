"""Target grids, and reading an image at the points of one: the only interpolation there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates, spline_filter

from dmri_fm.errors import ImageError

__all__ = [
    "DROPE_GRID_1MM",
    "DROPE_GRID_2MM",
    "Grid",
    "PointMap",
    "affine_map",
    "compose",
    "identity_map",
    "linear_part",
    "mni_box",
    "resample_dwi",
    "resample_image",
]

#: Takes points, shape (M, 3), RAS+ mm, of the target to points of the source.
PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

#: Slices of the target that are worked on at once: bounds the memory of the coordinates.
_SLAB = 16


#: Half a voxel, and a little for rounding: how far an image reaches beyond its outermost centres.
HALF_VOXEL = 0.501


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxels of a target image.

    Parameters
    ----------
    shape
        X, Y, Z.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if len(self.shape) != 3 or min(self.shape) < 1 or affine.shape != (4, 4):
            raise ImageError(
                f"grid of shape {self.shape} with an affine of shape {affine.shape}",
                expected="three positive numbers of voxels and a 4 x 4 matrix",
            )
        affine.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    @property
    def voxel_size_mm(self) -> NDArray[np.float64]:
        """Shape (3,), mm."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    @classmethod
    def isotropic(cls, voxel_size_mm: float, *, low: ArrayLike, high: ArrayLike) -> Grid:
        """Return a RAS+ grid of cubic voxels that covers a box.

        Parameters
        ----------
        voxel_size_mm
            Edge of a voxel, mm.
        low, high
            Shape (3,): corners of the box, RAS+ mm.

        Examples
        --------
        >>> Grid.isotropic(2.0, low=[0, 0, 0], high=[10, 10, 3]).shape
        (6, 6, 3)
        """
        # Corners lie on multiples of the voxel size, so that equal brains get equal grids.
        first = np.floor(np.asarray(low, dtype=np.float64) / voxel_size_mm)
        last = np.ceil(np.asarray(high, dtype=np.float64) / voxel_size_mm)
        x, y, z = (int(n) for n in last - first + 1)
        affine = np.diag([voxel_size_mm, voxel_size_mm, voxel_size_mm, 1.0])
        affine[:3, 3] = first * voxel_size_mm
        return cls((x, y, z), affine)

    def points(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Return voxel centres of the slices `start` to `stop` along z, shape (M, 3), RAS+ mm."""
        stop = self.shape[2] if stop is None else stop
        index = np.indices((*self.shape[:2], stop - start), dtype=np.float64)
        index[2] += start
        return np.asarray(apply_affine(self.affine, index.reshape(3, -1).T))


def mni_box(shape: tuple[int, int, int], voxel_size_mm: float) -> Grid:
    """Return the grid of so many voxels of so many mm, from the corner of the models' box on."""
    affine = np.diag([voxel_size_mm, voxel_size_mm, voxel_size_mm, 1.0])
    # The brain of the 2009a template spans x -72 to 72, y -107 to 74, z -72 to 82 mm;
    # the box holds it with a margin, and both grids cover exactly the same volume.
    affine[:3, 3] = np.array([-96.0, -130.0, -88.0]) + (voxel_size_mm - 1.0) / 2
    return Grid(shape, affine)


#: The D-RoPE grid at 1 mm: 192 x 224 x 192 voxels in MNI152NLin2009aSym, RAS+.
DROPE_GRID_1MM = mni_box((192, 224, 192), 1.0)

#: The same box at 2 mm: 96 x 112 x 96 voxels.
DROPE_GRID_2MM = mni_box((96, 112, 96), 2.0)


def identity_map(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the points as they are."""
    return points


def affine_map(matrix: ArrayLike) -> PointMap:
    """Return the map of a 4 x 4 matrix, RAS+ mm.

    Examples
    --------
    >>> shift = np.eye(4)
    >>> shift[0, 3] = 3
    >>> affine_map(shift)(np.zeros((1, 3))).tolist()
    [[3.0, 0.0, 0.0]]
    """
    fixed = np.array(matrix, dtype=np.float64)

    def apply(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(apply_affine(fixed, points))

    return apply


def compose(*maps: PointMap) -> PointMap:
    """Return the map that applies the given ones from first to last."""

    def apply(points: NDArray[np.float64]) -> NDArray[np.float64]:
        for step in maps:
            points = step(points)
        return points

    return apply


def linear_part(point_map: PointMap, points: ArrayLike) -> NDArray[np.float64]:
    """Return the affine that fits a map best at the given points.

    Parameters
    ----------
    point_map
        Any map; an affine one is returned exactly.
    points
        Shape (M, 3), RAS+ mm, not in one plane.

    Returns
    -------
    ndarray
        Shape (4, 4).
    """
    source = np.asarray(points, dtype=np.float64)
    design = np.column_stack([source, np.ones(len(source))])
    solution, *_ = np.linalg.lstsq(design, point_map(source), rcond=None)
    matrix = np.eye(4)
    matrix[:3] = solution.T
    return matrix


def _slabs(depth: int) -> Iterator[tuple[int, int]]:
    edges = [*range(0, depth, _SLAB), depth]
    yield from pairwise(edges)


def _read(
    volume: NDArray[np.float32], voxels: NDArray[np.float64], order: int, *, outside: float
) -> NDArray[np.float32]:
    """Interpolate a volume (spline coefficients if order is above 1) at voxel coordinates.

    A voxel reaches half its size beyond its centre; further out `outside` is returned.
    """
    inside = np.clip(voxels, 0, np.array(volume.shape) - 1)
    values: NDArray[np.float32] = map_coordinates(
        volume, inside.T, order=order, mode="mirror", prefilter=False, output=np.float32
    )
    values[(np.abs(voxels - inside) > HALF_VOXEL).any(axis=1)] = outside
    return values


def _prepare(volume: NDArray[np.float32], order: int) -> NDArray[np.float32]:
    if order < 2:
        return volume
    filtered: NDArray[np.float32] = spline_filter(volume, order=order, output=np.float32,
                                                  mode="mirror")  # fmt: skip
    return filtered


def resample_image(
    data: ArrayLike,
    affine: ArrayLike,
    target: Grid,
    *,
    target2source: PointMap = identity_map,
    order: int = 1,
) -> NDArray[np.float32]:
    """Read an image at the voxels of a grid.

    Parameters
    ----------
    data
        Shape (X, Y, Z) or (X, Y, Z, C).
    affine
        Shape (4, 4), voxel to RAS+ mm, of `data`.
    target
        Grid to fill.
    target2source
        Map from the target's points to the image's.
    order
        0 nearest (labels), 1 linear (maps), 3 cubic spline (images).

    Returns
    -------
    ndarray
        Shape of the grid (and C), float32; zero outside the image.
    """
    image = np.asarray(data, dtype=np.float32)
    channels = image[..., None] if image.ndim == 3 else image
    prepared = [_prepare(channels[..., c], order) for c in range(channels.shape[3])]
    to_voxels = np.linalg.inv(np.asarray(affine, dtype=np.float64))
    out = np.empty((*target.shape, len(prepared)), dtype=np.float32)
    for start, stop in _slabs(target.shape[2]):
        voxels = apply_affine(to_voxels, target2source(target.points(start, stop)))
        for c, volume in enumerate(prepared):
            values = _read(volume, voxels, order, outside=0.0)
            out[:, :, start:stop, c] = values.reshape(*target.shape[:2], stop - start)
    return out[..., 0] if image.ndim == 3 else out


def resample_dwi(
    data: ArrayLike,
    affine: ArrayLike,
    target: Grid,
    *,
    target2dwiref: PointMap = identity_map,
    xfms: ArrayLike | None = None,
    field_hz: ArrayLike | None = None,
    shifts: Sequence[tuple[int, float]] | None = None,
    order: int = 3,
    n_threads: int = 1,
) -> NDArray[np.float32]:
    """Resample a series once: target space, head motion, eddy currents and distortion together.

    The point of volume n that belongs to a reference point r is
    ``xfms[n] @ r + shift_n * field(r)`` along the phase encoding; intensities are multiplied by
    the change of length along it, so that signal that was piled up or stretched is put back.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N), as acquired.
    affine
        Shape (4, 4), voxel to RAS+ mm; the reference has the same grid.
    target
        Grid to fill.
    target2dwiref
        Map from the target's points to the reference's.
    xfms
        Shape (N, 4, 4), reference points to points of the volume, RAS+ mm.
    field_hz
        Shape (X, Y, Z), off-resonance on the reference's grid, Hz.
    shifts
        For each volume the voxel axis of its phase encoding, and voxels per Hz along it
        (readout time in s, negative for `i-`, `j-`, `k-`).
    order
        Order of the spline, 1 or 3.
    n_threads
        Volumes worked on at once.

    Returns
    -------
    ndarray
        Shape of the grid and N, float32, not negative; NaN where a volume has no data.
    """
    series = np.asarray(data, dtype=np.float32)
    n_volumes = series.shape[3]
    matrices = (
        np.broadcast_to(np.eye(4), (n_volumes, 4, 4))
        if xfms is None
        else np.asarray(xfms, dtype=np.float64)
    )
    to_mm = np.asarray(affine, dtype=np.float64)
    to_voxels = np.asarray(np.linalg.inv(to_mm), dtype=np.float64)
    slabs = list(_slabs(target.shape[2]))
    reference = [target2dwiref(target.points(start, stop)) for start, stop in slabs]
    used = shifts if field_hz is not None and shifts is not None else [(1, 0.0)] * n_volumes
    displaced = _field_at(field_hz, to_voxels, reference, {axis for axis, _ in used})
    out = np.empty((*target.shape, n_volumes), dtype=np.float32)

    def fill(n: int) -> None:
        volume = _prepare(series[..., n], order)
        axis, per_hz = used[n]
        stretch = abs(float(np.linalg.det(matrices[n][:3, :3])))
        step_mm = to_mm[:3, axis]
        for position, (start, stop) in enumerate(slabs):
            points = apply_affine(matrices[n], reference[position])
            factor: NDArray[np.float64] | float = stretch
            if per_hz and displaced is not None:
                hz, slope = displaced[axis][position]
                points = points + (per_hz * hz)[:, None] * step_mm
                factor = stretch * np.maximum(1.0 + per_hz * slope, 0.0)
            voxels = apply_affine(to_voxels, points)
            values = _read(volume, voxels, order, outside=np.nan) * factor
            block = np.maximum(values, 0.0).reshape(*target.shape[:2], stop - start)
            out[:, :, start:stop, n] = block

    if n_threads == 1:
        for n in range(n_volumes):
            fill(n)
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(fill, range(n_volumes)))
    return out


def _field_at(
    field_hz: ArrayLike | None,
    to_voxels: NDArray[np.float64],
    reference: Sequence[NDArray[np.float64]],
    axes: set[int],
) -> dict[int, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] | None:
    """Return the field, Hz, and its slope per voxel along each axis, at the reference points."""
    if field_hz is None:
        return None
    field = np.asarray(field_hz, dtype=np.float32)
    slopes = {axis: np.gradient(field, axis=axis).astype(np.float32) for axis in axes}
    found: dict[int, list[tuple[NDArray[np.float32], NDArray[np.float32]]]] = {
        axis: [] for axis in axes
    }
    for points in reference:
        voxels = apply_affine(to_voxels, points)
        # Beyond the image the field goes on as it ends: no seam at the border.
        hz = map_coordinates(field, voxels.T, order=1, mode="nearest")
        for axis in axes:
            found[axis].append(
                (hz, map_coordinates(slopes[axis], voxels.T, order=1, mode="nearest"))
            )
    return found
