"""Picture tiles of volumes: orientation, choice of slices, grey levels, contours.

Every picture of the report follows one convention. The volume is first brought to the storage
order nearest to RAS+, then cut so that the left of the picture is the left of the body
(neurological convention), anterior or superior is up, and anterior is on the right of a sagittal
tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError

#: Printed on every picture and in the page.
CONVENTION = "Neurological convention: the left of the picture is the left of the body."

#: Axis that a view's slices are stacked along, in RAS order.
VIEW_AXES = {"axial": 2, "coronal": 1, "sagittal": 0}

#: Letters at the left and right edge of a tile, by view.
VIEW_SIDES = {"axial": ("L", "R"), "coronal": ("L", "R"), "sagittal": ("P", "A")}

#: A view with fewer voxels than this across a tile is not drawn (a scan of a few slices).
FEWEST_VOXELS_ACROSS = 8

#: Slices that hold less of the mask than this share of the fullest one are not shown.
SMALLEST_SLICE_SHARE = 0.15

#: Percentiles of intensities drawn black and white.
WINDOW_PERCENTILES = (1.0, 98.5)


@dataclass(frozen=True)
class Row:
    """One line of tiles, all of one view.

    Attributes
    ----------
    view
        "axial", "coronal" or "sagittal".
    indices
        Slice numbers along the view's axis, in the RAS-ordered volume, ascending.
    positions_mm
        Coordinate of each slice's centre along the nearest scanner axis, mm.
    box
        Two ranges (start, stop) that crop the other two axes.
    tile_mm
        Width and height of one tile, mm.
    """

    view: str
    indices: tuple[int, ...]
    positions_mm: tuple[float, ...]
    box: tuple[tuple[int, int], tuple[int, int]]
    tile_mm: tuple[float, float]

    @property
    def axis(self) -> int:
        """Axis the slices are stacked along."""
        return VIEW_AXES[self.view]

    @property
    def width_mm(self) -> float:
        """Width of the whole line, mm."""
        return self.tile_mm[0] * len(self.indices)


def to_ras(data: ArrayLike, affine: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Bring a volume to the storage order nearest to RAS+, without interpolation.

    Parameters
    ----------
    data
        Shape (X, Y, Z) or (X, Y, Z, C). Vectors in C must be in the scanner frame: they do not
        change when the storage order does.
    affine
        Shape (4, 4), voxel to RAS+ mm.

    Returns
    -------
    data
        The same voxels, axes permuted and flipped.
    affine
        Shape (4, 4), of the reordered volume.

    Raises
    ------
    ImageError
        If the volume has fewer than three or more than four dimensions.

    Examples
    --------
    >>> left_first = np.array([1, 0]).reshape(2, 1, 1)
    >>> to_ras(left_first, np.diag([-1, 1, 1, 1]))[0].ravel().tolist()
    [0, 1]
    """
    array = np.asarray(data)
    if array.ndim not in (3, 4):
        raise ImageError(f"array of shape {array.shape}", expected="3 or 4 dimensions")
    affine = np.asarray(affine, dtype=np.float64)
    orientation = nib.orientations.io_orientation(affine)
    reordered = nib.orientations.apply_orientation(array, orientation)
    return reordered, affine @ nib.orientations.inv_ornt_aff(orientation, array.shape[:3])


def foreground(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a rough foreground of an image, shape (X, Y, Z), for choosing slices only."""
    finite = np.nan_to_num(np.asarray(image, dtype=np.float32))
    bright = float(np.percentile(np.abs(finite), 99))
    return np.abs(finite) > 0.15 * bright


def choose_slices(mask: NDArray[np.bool_], *, axis: int, count: int) -> tuple[int, ...]:
    """Choose evenly spaced slices, along an axis, that hold enough of a mask.

    They are the middle slices of `count` equal parts of the mask's span, ascending. There are
    fewer where the mask spans fewer slices.

    Examples
    --------
    >>> mask = np.zeros((1, 1, 12), bool); mask[..., 2:10] = True
    >>> choose_slices(mask, axis=2, count=4)
    (2, 4, 6, 8)
    """
    area = mask.sum(axis=tuple(a for a in range(3) if a != axis))
    if not area.any():
        area = np.ones_like(area)
    span = np.flatnonzero(area >= SMALLEST_SLICE_SHARE * area.max())
    middles = (np.arange(count) + 0.5) / count * (span[-1] - span[0] + 1) - 0.5
    chosen = span[0] + np.floor(middles + 1e-6).astype(int)
    return tuple(int(i) for i in np.unique(np.clip(chosen, span[0], span[-1])))


def plan_rows(
    mask: NDArray[np.bool_],
    affine: NDArray[np.float64],
    *,
    views: Sequence[str] = ("axial", "coronal", "sagittal"),
    n_widest: int = 7,
    margin_mm: float = 8.0,
) -> tuple[Row, ...]:
    """Lay out lines of tiles around a mask.

    Parameters
    ----------
    mask
        Shape (X, Y, Z), RAS order; an empty one means the whole volume.
    affine
        Shape (4, 4), voxel to RAS+ mm, RAS order.
    views
        The lines, from top to bottom. A view whose tiles would be only a few voxels across is
        not drawn, unless none would remain.
    n_widest
        Number of tiles in the line whose tiles are widest; the others hold as many as fit.
    margin_mm
        Room around the mask, mm.
    """
    voxel_mm = np.linalg.norm(affine[:3, :3], axis=0)
    whole = mask if mask.any() else np.ones_like(mask)
    crop = []
    for axis in range(3):
        inside = np.flatnonzero(whole.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(margin_mm / voxel_mm[axis]))
        crop.append((max(inside[0] - margin, 0), min(inside[-1] + 1 + margin, mask.shape[axis])))
    across = {view: [a for a in range(3) if a != VIEW_AXES[view]] for view in views}
    shown = [
        view
        for view in views
        if all(crop[a][1] - crop[a][0] >= FEWEST_VOXELS_ACROSS for a in across[view])
    ] or list(views)[:1]
    tile_mm = {
        view: tuple(float((crop[a][1] - crop[a][0]) * voxel_mm[a]) for a in across[view])
        for view in shown
    }
    line_mm = n_widest * max(width for width, _ in tile_mm.values())
    rows = []
    for view in shown:
        axis = VIEW_AXES[view]
        first, second = across[view]
        count = int(line_mm / tile_mm[view][0] + 1e-6)
        indices = choose_slices(whole, axis=axis, count=count)
        centre = np.array([(c[0] + c[1] - 1) / 2 for c in crop])
        positions = []
        for i in indices:
            centre[axis] = i
            positions.append(float(affine[axis, :3] @ centre + affine[axis, 3]))
        width, height = tile_mm[view]
        rows.append(
            Row(view, indices, tuple(positions), (crop[first], crop[second]), (width, height))
        )
    return tuple(rows)


def cut_tiles(volume: NDArray[Any], row: Row) -> list[NDArray[Any]]:
    """Cut the tiles of a line out of a RAS-ordered volume of shape (X, Y, Z) or (X, Y, Z, C).

    A tile has shape (height, width[, C]); its first row of pixels is the upper one.
    """
    (a0, a1), (b0, b1) = row.box
    stacked = np.moveaxis(volume, row.axis, 0)
    return [np.rot90(stacked[i, a0:a1, b0:b1]) for i in row.indices]


def cut_strip(volume: NDArray[Any], row: Row) -> NDArray[Any]:
    """Cut the tiles of a line and join them from left to right."""
    return np.concatenate(cut_tiles(volume, row), axis=1)


def intensity_window(
    image: NDArray[Any], mask: NDArray[np.bool_] | None = None
) -> tuple[float, float]:
    """Return the intensities to draw as black and white: percentiles of the finite values.

    They are measured inside the mask, or in the whole image if it is None or empty. Black is
    never above zero, so that the background of a magnitude image stays dark.
    """
    values = image[mask] if mask is not None and mask.any() else image.ravel()
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(x) for x in np.percentile(values, WINDOW_PERCENTILES))
    low = min(low, 0.0)
    return (low, high) if high > low else (low, low + 1.0)


def rescale(image: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Map a window of intensities to 0..255; NaN becomes 0."""
    low, high = window
    scaled = (np.nan_to_num(np.asarray(image, dtype=np.float32), nan=low) - low) / (high - low)
    return np.round(np.clip(scaled, 0.0, 1.0) * 255).astype(np.uint8)


def contour_lines(tile: NDArray[Any]) -> list[NDArray[np.float64]]:
    """Trace the 0.5 line of a tile, a mask or probability of shape (height, width).

    A line has shape (points, 2): x and y in pixels, the corner of the first pixel at (0, 0). It
    is closed even where the region touches the border of the tile.
    """
    from contourpy import contour_generator

    padded = np.pad(np.asarray(tile, dtype=np.float32), 1)
    lines = contour_generator(z=padded).lines(0.5)
    # Sample i of the padded tile is the centre of pixel i - 1, at i - 0.5.
    return [np.asarray(line) - 0.5 for line in lines if len(line) >= 4]


def tissue_boundary(image: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a soft map, 0 to 1, whose 0.5 line follows the brightest of three tissue classes.

    In a T1-weighted image that is the white-matter surface, a contour where no segmentation
    exists. `mask` is the brain; both have shape (X, Y, Z). The map is smoothed by half a voxel,
    and zero where the classes cannot be told apart.
    """
    from scipy.ndimage import gaussian_filter
    from skimage.filters import threshold_multiotsu

    inside = np.asarray(image, dtype=np.float32)[mask]
    if np.unique(inside).size < 16:
        return np.zeros(image.shape, dtype=np.float32)
    inside = np.clip(inside, *np.percentile(inside, (0.5, 99.5)))
    threshold = float(threshold_multiotsu(inside, classes=3, nbins=128)[-1])
    bright = (np.asarray(image) > threshold) & mask
    smooth: NDArray[np.float32] = gaussian_filter(bright.astype(np.float32), 0.5)
    return smooth
