"""Transform files: ITK text for affines, ITK composite HDF5 for warps.

A file `from-A_to-B` resamples an image of A into B: it takes points of B to points of A, in
ITK's LPS+ frame. In memory the same map works on RAS+ points.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from nibabel.affines import apply_affine
from nitransforms.linear import Affine, load
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from dmri_fm.errors import InputError
from dmri_fm.normalise.grid import Grid, PointMap, affine_map

_RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def write_affine(matrix: ArrayLike, path: str | Path) -> Path:
    """Write a 4 x 4 RAS+ pull matrix as an ITK text file."""
    Affine(np.asarray(matrix, dtype=np.float64)).to_filename(str(path), fmt="itk")
    return Path(path)


def read_affine(path: str | Path) -> NDArray[np.float64]:
    """Read a 4 x 4 RAS+ pull matrix from an ITK text file."""
    return np.asarray(load(str(path), fmt="itk").matrix, dtype=np.float64).reshape(4, 4)


def warp_map(displacement_mm: ArrayLike, grid: Grid) -> PointMap:
    """Return the map of a displacement field.

    Parameters
    ----------
    displacement_mm
        Shape (X, Y, Z, 3), RAS+ mm: a point p of the target goes to p + displacement(p).
    grid
        Grid of the displacement, which keeps the value of its edge beyond.
    """
    field = np.ascontiguousarray(np.moveaxis(np.asarray(displacement_mm, np.float32), -1, 0))
    to_voxels = np.linalg.inv(grid.affine)

    def apply(points: NDArray[np.float64]) -> NDArray[np.float64]:
        voxels = apply_affine(to_voxels, points).T
        moved = [map_coordinates(c, voxels, order=1, mode="nearest") for c in field]
        return np.asarray(points + np.stack(moved, axis=1))

    return apply


def write_warp(displacement_mm: ArrayLike, grid: Grid, path: str | Path) -> Path:
    """Write a displacement field as an ITK composite transform.

    Parameters
    ----------
    displacement_mm
        Shape (X, Y, Z, 3), RAS+ mm, from points of the target to points of the source.
    grid
        Grid of the displacement, in the target's space.
    path
        File ending in `.h5`.
    """
    lps = np.asarray(displacement_mm, dtype=np.float64) * _RAS_TO_LPS
    affine = np.diag([*_RAS_TO_LPS, 1.0]) @ grid.affine
    direction = affine[:3, :3] / grid.voxel_size_mm
    fixed = np.concatenate([grid.shape, affine[:3, 3], grid.voxel_size_mm, direction.ravel()])
    # ITK runs through x first, then y, then z, with the three components together.
    parameters = lps.transpose(2, 1, 0, 3).ravel().astype(np.float32)
    with h5py.File(path, "w", track_order=False) as file:
        group = file.create_group("TransformGroup")
        text = h5py.string_dtype("ascii")
        file.create_dataset("ITKVersion", (1,), dtype=text)[0] = b"5.4.0"
        file.create_dataset("HDFVersion", (1,), dtype=text)[0] = b"1.14"
        first = group.create_group("0")
        first.create_dataset("TransformType", (1,), dtype=text)[0] = (
            b"CompositeTransform_float_3_3"
        )
        field = group.create_group("1")
        field.create_dataset("TransformType", (1,), dtype=text)[0] = (
            b"DisplacementFieldTransform_float_3_3"
        )
        field.create_dataset("TransformFixedParameters", data=fixed.astype(np.float64))
        field.create_dataset("TransformParameters", data=parameters, compression="gzip")
    return Path(path)


def read_point_map(path: str | Path) -> PointMap:
    """Read a transform file as a map from target points to source points, RAS+ mm.

    Raises
    ------
    InputError
        If a composite file holds anything but one displacement field.
    """
    path = Path(path)
    if path.suffix != ".h5":
        return affine_map(read_affine(path))
    with h5py.File(path, "r") as file:
        groups = [g for g in file["TransformGroup"].values() if "TransformParameters" in g]
        if len(groups) != 1:
            found = f"{len(groups)} transforms in one file"
            raise InputError(found, path=path, expected="one displacement field")
        fixed = np.asarray(groups[0]["TransformFixedParameters"], dtype=np.float64)
        parameters = np.asarray(groups[0]["TransformParameters"], dtype=np.float32)
    x, y, z = (int(n) for n in fixed[:3])
    affine = np.eye(4)
    affine[:3, :3] = fixed[9:18].reshape(3, 3) * fixed[6:9]
    affine[:3, 3] = fixed[3:6]
    grid = Grid((x, y, z), np.diag([*_RAS_TO_LPS, 1.0]) @ affine)
    field = parameters.reshape(z, y, x, 3).transpose(2, 1, 0, 3) * _RAS_TO_LPS
    return warp_map(field, grid)
