"""Receive-field bias of a series: one field, divided out of every volume after interpolation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dmri_fm.normalise.grid import Grid, Image3D, PointMap, resample_image
from dmri_fm.series import Dwi


def bring_bias(field: Image3D, grid: Grid, *, target2dwiref: PointMap) -> NDArray[np.float32]:
    """Bring a bias field to a grid.

    Parameters
    ----------
    field
        Factor of the signal, above 0, on the grid of the b=0 reference.
    grid
        Target grid.
    target2dwiref
        Takes points of the grid to points of the reference, RAS+ mm.

    Returns
    -------
    ndarray
        Shape of the grid, float32; 1 beyond the field.
    """
    moved = resample_image(field.data, field.affine, grid, target2source=target2dwiref)
    return np.where(moved > 0, moved, np.float32(1))


def remove_bias(dwi: Dwi, field: Image3D, *, target2dwiref: PointMap) -> Dwi:
    """Return a series, resampled before, with a bias field divided out of all volumes alike.

    Ratios of volumes stay as they are in every voxel, and with them the tensor.
    """
    factor = bring_bias(field, Grid(dwi.shape[:3], dwi.affine), target2dwiref=target2dwiref)
    return Dwi.from_arrays(dwi.data / factor[..., None], dwi.affine, dwi.gtab, mask=dwi.mask)
