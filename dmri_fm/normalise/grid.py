"""Grids, maps of points, and reading an image at the points of a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates, spline_filter

from dmri_fm.errors import ImageError

#: Takes points, shape (M, 3), RAS+ mm, of the target to points of the source.
PointMap = Callable[[NDArray[np.float64]], NDArray[np.float64]]

#: Slices of the target that are worked on at once: bounds the memory of the coordinates.
_SLAB = 16

#: Margin around the brain in ACPC images, mm.
BRAIN_MARGIN_MM = 8.0

#: Margin of an image of the whole head: it may differ from the template's size, and is not cut at
#: the template's box.
HEAD_MARGIN_MM = 24.0

#: Points at which a map is probed, shape (M, 3), RAS+ mm.
PROBES_MM = np.array([[0, 0, 0], [80, 0, 0], [0, 80, 0], [0, 0, 80], [60, 60, 60]], dtype=float)
PROBES_MM.setflags(write=False)

#: Axes and edges of voxels that are off by this share are those of cubes nevertheless: rounding.
CUBE_TOLERANCE = 1e-4

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


@dataclass(frozen=True, eq=False)
class Image3D:
    """A 3-D image: `data` of shape (X, Y, Z) and its voxel-to-RAS+ mm `affine`."""

    data: NDArray[Any]
    affine: NDArray[np.float64]

    @property
    def grid(self) -> Grid:
        """The image's own voxels."""
        x, y, z = self.data.shape
        return Grid((x, y, z), self.affine)

    def centre_mm(self) -> NDArray[np.float64]:
        """Return the centre of the voxels above zero, RAS+ mm."""
        index = np.argwhere(self.data > 0)
        return np.asarray(apply_affine(self.affine, index.mean(axis=0)))


def number_slices(grid: Grid, source: Grid, target2source: PointMap) -> NDArray[np.int_]:
    """Return which slice of an image each voxel of a grid lies in.

    Parameters
    ----------
    grid
        Target grid.
    source
        Voxels of the image; its slices are stacked along its third axis.
    target2source
        Takes points of the grid to points of the image, RAS+ mm.

    Returns
    -------
    ndarray
        Shape (X, Y, Z): number of the nearest slice, from 0; -1 beyond the first and the last.

    Examples
    --------
    >>> thick = Grid((1, 1, 2), np.diag([1.0, 1.0, 4.0, 1.0]))
    >>> fine = Grid((1, 1, 8), np.diag([1.0, 1.0, 1.0, 1.0]))
    >>> number_slices(fine, thick, lambda points: points).ravel().tolist()
    [0, 0, 0, 1, 1, 1, -1, -1]
    """
    row = np.linalg.inv(source.affine)[2]
    numbers = np.full(grid.shape, -1)
    for z in range(grid.shape[2]):
        points = target2source(grid.points(z, z + 1))
        number = np.rint(points @ row[:3] + row[3]).astype(int).reshape(grid.shape[:2])
        numbers[..., z] = np.where((number >= 0) & (number < source.shape[2]), number, -1)
    return numbers


def brain_grid(
    mask: Image3D, image2target: ArrayLike, voxel_size_mm: float, *, margin_mm: float
) -> Grid:
    """Return an isotropic RAS+ grid around a brain.

    Parameters
    ----------
    mask
        The brain is above zero.
    image2target
        Shape (4, 4): points of the mask to points of the grid's space, RAS+ mm.
    voxel_size_mm
        Edge of a voxel, mm.
    margin_mm
        Space on each side, such as :data:`BRAIN_MARGIN_MM`.
    """
    points = apply_affine(np.asarray(image2target) @ mask.affine, np.argwhere(mask.data > 0))
    return Grid.isotropic(
        voxel_size_mm, low=points.min(axis=0) - margin_mm, high=points.max(axis=0) + margin_mm
    )


def has_cubic_axes(affine: ArrayLike) -> bool:
    """Tell whether voxels are cubes along the axes of the frame, in any order and direction.

    Examples
    --------
    >>> has_cubic_axes(np.diag([-2, 2, 2, 1])), has_cubic_axes(np.diag([2, 2, 3, 1]))
    (True, False)
    """
    linear = np.abs(np.asarray(affine, dtype=np.float64)[:3, :3])
    edges = linear.max(axis=0)
    is_along = np.allclose(linear.sum(axis=0), edges, rtol=CUBE_TOLERANCE)
    return bool(is_along and np.allclose(edges, edges.mean(), rtol=CUBE_TOLERANCE))


def own_brain_grid(mask: Image3D, *, margin_mm: float) -> Grid:
    """Return the image's own voxels around its brain, in RAS+ order, as far as it reaches.

    Parameters
    ----------
    mask
        The brain is above zero; its axes are those of :func:`has_cubic_axes`.
    margin_mm
        Space on each side.
    """
    x, y, z = mask.data.shape
    ends = apply_affine(mask.affine, [[0, 0, 0], [x - 1, y - 1, z - 1]])
    first, last = ends.min(axis=0), ends.max(axis=0)
    size_mm = float(np.linalg.norm(mask.affine[:3, :3], axis=0).mean())
    points = apply_affine(mask.affine, np.argwhere(mask.data > 0))
    low = np.floor((points.min(axis=0) - margin_mm - first) / size_mm).clip(0)
    n = np.ceil((points.max(axis=0) + margin_mm - first) / size_mm)
    high = np.minimum(n, np.round((last - first) / size_mm))
    affine = np.diag([size_mm, size_mm, size_mm, 1.0])
    affine[:3, 3] = first + low * size_mm
    nx, ny, nz = (int(k) for k in high - low + 1)
    return Grid((nx, ny, nz), affine)


def mni_box(shape: tuple[int, int, int], voxel_size_mm: float) -> Grid:
    """Return a grid in MNI152NLin2009aSym that starts at the corner of the encoders' box.

    192 x 224 x 192 voxels of 1 mm, or 96 x 112 x 96 of 2 mm, fill the box. It holds the brain of
    the template, which spans x -72 to 72, y -107 to 74, z -72 to 82 mm, with a margin.
    """
    affine = np.diag([voxel_size_mm, voxel_size_mm, voxel_size_mm, 1.0])
    affine[:3, 3] = np.array([-96.0, -130.0, -88.0]) + (voxel_size_mm - 1.0) / 2
    return Grid(shape, affine)


def identity_map(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points unchanged."""
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


def linear_part(point_map: PointMap, points: ArrayLike = PROBES_MM) -> NDArray[np.float64]:
    """Return the affine that fits a map best at the given points.

    Parameters
    ----------
    point_map
        Any map; an affine one is returned exactly.
    points
        Shape (M, 3), RAS+ mm, not in one plane; by default five that span a head.

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


def slabs(depth: int) -> Iterator[tuple[int, int]]:
    """Yield first and last slice of the pieces in which a grid is filled."""
    edges = [*range(0, depth, _SLAB), depth]
    yield from pairwise(edges)


def read_at(
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


def spline_of(volume: NDArray[np.float32], order: int) -> NDArray[np.float32]:
    """Return the coefficients that :func:`read_at` interpolates; up to order 1, the volume."""
    if order < 2:
        return volume
    return np.asarray(spline_filter(volume, order=order, output=np.float32, mode="mirror"))


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
    prepared = [spline_of(channels[..., c], order) for c in range(channels.shape[3])]
    to_voxels = np.linalg.inv(np.asarray(affine, dtype=np.float64))
    out = np.empty((*target.shape, len(prepared)), dtype=np.float32)
    for start, stop in slabs(target.shape[2]):
        voxels = apply_affine(to_voxels, target2source(target.points(start, stop)))
        for c, volume in enumerate(prepared):
            values = read_at(volume, voxels, order, outside=0.0)
            out[:, :, start:stop, c] = values.reshape(*target.shape[:2], stop - start)
    return out[..., 0] if image.ndim == 3 else out
