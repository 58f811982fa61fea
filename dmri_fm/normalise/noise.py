"""What interpolation does to noise."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates, spline_filter1d

#: Voxels on each side of a point whose weights count; farther ones are below 1e-4.
_REACH = 8

#: Points between two voxels at which the gain is tabulated.
_N_FRACTIONS = 64


def spline_noise_gain(voxels: ArrayLike, order: int) -> NDArray[np.float32]:
    """Return the deviation, after interpolation, of white noise of deviation 1.

    An interpolated value is a weighted sum of voxels, whose squared weights add up to the
    variance: 1 on a voxel, least in the middle between eight.

    Parameters
    ----------
    voxels
        Shape (..., 3): points, voxel coordinates.
    order
        Order of the spline, 1 or 3.

    Returns
    -------
    ndarray
        Shape (...), float32.

    Examples
    --------
    >>> spline_noise_gain([[0, 0, 0], [0.5, 0, 0]], order=1).astype(float).round(3).tolist()
    [1.0, 0.707]
    """
    points = np.asarray(voxels, dtype=np.float64)
    fractions = np.linspace(0.0, 1.0, _N_FRACTIONS + 1)
    gains = np.interp(points - np.floor(points), fractions, _axis_gains(order))
    return np.asarray(gains.prod(axis=-1), dtype=np.float32)


@cache
def _axis_gains(order: int) -> NDArray[np.float64]:
    """Return the gain along one axis at fractions 0 to 1 between two voxels."""
    impulse = np.zeros(2 * _REACH + 2)
    impulse[_REACH] = 1.0
    spline = spline_filter1d(impulse, order, mode="mirror") if order > 1 else impulse
    fractions = np.linspace(0.0, 1.0, _N_FRACTIONS + 1)
    # The weight of a voxel k steps away is the response to an impulse, k steps from its centre.
    steps = np.arange(-_REACH + 1, _REACH)[:, None]
    where = (_REACH + steps + fractions).ravel()
    weights = map_coordinates(spline, [where], order=order, mode="mirror", prefilter=False)
    return np.asarray(np.sqrt(np.square(weights).reshape(len(steps), -1).sum(axis=0)))
