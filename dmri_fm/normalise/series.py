"""A whole series, with its mask and gradients, on another grid."""

from __future__ import annotations

import numpy as np

from dmri_fm.normalise.grid import Grid, PointMap, identity_map, resample_dwi, resample_image
from dmri_fm.series import Dwi

__all__ = ["resample_series"]


def resample_series(dwi: Dwi, grid: Grid, *, target2dwi: PointMap = identity_map) -> Dwi:
    """Resample a series, and its brain mask if it has one, to a grid.

    Parameters
    ----------
    dwi
        A series.
    grid
        Where to, such as :func:`dmri_fm.feature_grid`.
    target2dwi
        Takes points of the grid to points of the series, RAS+ mm; by default they are the same.

    Returns
    -------
    Dwi
        Cubic splines; zero, and no brain, where a volume has no data. The gradient table is the
        one of the series: turn it (:meth:`~dmri_fm.gradients.GradientTable.rotated`) if the map
        turns.
    """
    data = resample_dwi(dwi.data, dwi.affine, grid, target2dwiref=target2dwi)
    mask = None
    if dwi.mask is not None:
        flags = dwi.mask.astype(np.float32)
        share = resample_image(flags, dwi.affine, grid, target2source=target2dwi)
        mask = np.isfinite(data).all(axis=3) & (share > 0.5)
    data = np.nan_to_num(data, copy=False)
    return Dwi.from_arrays(data, np.asarray(grid.affine), dwi.gtab, mask=mask)
