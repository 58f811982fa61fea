"""Shapes of masks: thick parts, necks and gaps; volumes, overlaps, fields of view.

Sizes are in mm. What lies beyond the field of view is taken to be as the voxels at its edge: a
brain that is cut by the field of view is not thin there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

from dmri_fm.series import load_image, read_array, require_grid

#: Field of view along the body below which a scan counts as a slab, mm.
WHOLE_HEAD_MM = 110.0


def is_slab(shape: tuple[int, ...], affine: ArrayLike) -> bool:
    """Tell whether a field of view is too short along the body for a whole head.

    Examples
    --------
    >>> is_slab((64, 64, 20), np.diag([3.5, 3.5, 4.2, 1]))
    True
    """
    corners_mm = np.abs(np.asarray(affine, dtype=np.float64)[2, :3]) * (np.array(shape[:3]) - 1)
    return float(corners_mm.sum()) < WHOLE_HEAD_MM


def volume_ml(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> float:
    """Return the volume of a mask, ml."""
    return int(mask.sum()) * abs(float(np.linalg.det(affine[:3, :3]))) / 1000.0


def overlap_dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the overlap of two masks of one shape, 0 to 1 (Dice); 0 if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 0.0


def load_given_mask(
    path: str | Path, image: str | Path, *, shape: tuple[int, ...], affine: ArrayLike
) -> SpatialImage:
    """Open a mask that was written beside an image (its path, shape and affine).

    Raises
    ------
    ImageError
        If it is damaged, or on another grid.
    """
    mask = load_image(path, ndim=3)
    require_grid(
        mask,
        shape=shape,
        affine=affine,
        path=path,
        noun="mask",
        expected=f"the grid of {Path(image).name}, {shape}",
        advice="take the mask that was written beside the image; or move it away: the brain is "
        "masked anew then",
    )
    return mask


def read_drawn_mask(
    path: str | Path, image: str | Path, *, shape: tuple[int, ...], affine: ArrayLike, noun: str
) -> NDArray[Any]:
    """Read the voxels of a mask that the user drew on an image (its path, shape and affine).

    Raises
    ------
    ImageError
        If it is damaged, or on another grid.
    """
    mask = load_image(path, ndim=3)
    name = Path(image).name
    require_grid(
        mask,
        shape=tuple(shape),
        affine=affine,
        path=path,
        noun=noun,
        expected=f"the grid of {name}, {tuple(shape)}: the mask is that of this image",
        advice=f"draw the mask on {name}, or resample it there by nearest neighbour",
    )
    return read_array(mask, path=path)


def describe_levels(levels: NDArray[Any]) -> str:
    """Say which values an image holds, of which a mask has two.

    Examples
    --------
    >>> describe_levels(np.array([0, 1, 2, 3, 4.5]))
    '5 different values (0, 1, 2, 3 ...)'
    """
    shown = ", ".join(f"{v:g}" for v in levels[:4])
    return f"{levels.size} different values ({shown}{' ...' if levels.size > 4 else ''})"


def thick_part(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], *, radius_mm: float
) -> NDArray[np.bool_]:
    """Return the voxels of a mask that lie in a ball of a radius within it (its opening).

    Examples
    --------
    >>> bar = np.zeros((20, 20, 20), dtype=bool)
    >>> bar[5:15, 5:15, 5:15], bar[9, 9, 15:] = True, True
    >>> thick = thick_part(bar, np.eye(4), radius_mm=2)
    >>> [bool(thick[9, 9, k]) for k in (5, 14, 19)]
    [True, True, False]
    """
    return _regrow(mask, _core(mask, affine, radius_mm), affine, radius_mm)


def cut_necks(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], *, radius_mm: float
) -> NDArray[np.bool_]:
    """Return the largest part of a mask, without what hangs on it by a neck.

    A neck is thinner than twice the radius. A mask that is so thin everywhere keeps its largest
    part whole.
    """
    core = largest_part(_core(mask, affine, radius_mm))
    if not core.any():
        return largest_part(mask)
    # One voxel more than an opening, which would round corners of the brain.
    reach_mm = radius_mm + float(_voxel_size_mm(affine).max())
    return largest_part(_regrow(mask, core, affine, reach_mm))


def largest_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the largest connected part of a mask; neighbours share a face."""
    parts, count = label(mask)
    if count < 2:
        return np.asarray(mask, dtype=bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax(), dtype=bool)


def fill_slices(mask: NDArray[np.bool_], *, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill gaps that a slice of any of the three axes encloses, where filling is allowed.

    A cavity with a way out through neighbouring slices is a gap of a slice, not of the volume.
    """
    filled = mask.copy()
    for axis in range(3):
        for k in range(mask.shape[axis]):
            plane = (slice(None),) * axis + (k,)
            filled[plane] |= binary_fill_holes(mask[plane]) & allowed[plane]
    return filled


def _voxel_size_mm(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(affine[:3, :3], axis=0))


def _core(
    mask: NDArray[np.bool_], affine: NDArray[np.float64], radius_mm: float
) -> NDArray[np.bool_]:
    """Return the voxels farther than a radius from all that is outside."""
    if mask.all():
        return np.asarray(mask, dtype=bool)
    size_mm = _voxel_size_mm(affine)
    margin = [int(n) for n in np.ceil(radius_mm / size_mm) + 1]
    padded = np.pad(mask, [(n, n) for n in margin], mode="edge")
    inner = tuple(slice(n, -n) for n in margin)
    return np.asarray(distance_transform_edt(padded, sampling=size_mm)[inner] > radius_mm)


def _regrow(
    mask: NDArray[np.bool_],
    core: NDArray[np.bool_],
    affine: NDArray[np.float64],
    reach_mm: float,
) -> NDArray[np.bool_]:
    """Return the voxels of a mask within reach of its core."""
    if not core.any():
        return core
    apart_mm = distance_transform_edt(~core, sampling=_voxel_size_mm(affine))
    return np.asarray(mask & (apart_mm <= reach_mm))
