"""A shell on other directions, by spherical harmonics."""

from __future__ import annotations

from functools import cache

import numpy as np
from dipy.reconst.shm import real_sh_descoteaux
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import GradientError

#: Fewest directions for each even order of spherical harmonics: as many as coefficients.
FEWEST_FOR_ORDER = {order: (order + 1) * (order + 2) // 2 for order in (8, 6, 4)}

#: Fewest directions that are resampled.
FEWEST_DIRECTIONS = FEWEST_FOR_ORDER[4]


def choose_order(n_directions: int, *, highest: int = 8) -> int:
    """Return the highest even order of spherical harmonics that directions determine.

    Raises
    ------
    GradientError
        If there are fewer than :data:`FEWEST_DIRECTIONS`.

    Examples
    --------
    >>> [choose_order(n) for n in (15, 27, 28, 45, 90)]
    [4, 4, 6, 8, 8]
    >>> choose_order(14)
    Traceback (most recent call last):
    ...
    dmri_fm.errors.GradientError: a shell of 14 directions
      expected: 15 distinct directions or more
    """
    for order, fewest in FEWEST_FOR_ORDER.items():
        if order <= highest and n_directions >= fewest:
            return order
    raise GradientError(
        f"a shell of {n_directions} directions",
        expected=f"{FEWEST_DIRECTIONS} distinct directions or more",
    )


def resampling_matrix(
    directions: ArrayLike, targets: ArrayLike, *, order: int | None = None
) -> NDArray[np.float64]:
    """Return the matrix that takes a shell to other directions.

    Exact for signals that spherical harmonics of the order hold.

    Parameters
    ----------
    directions, targets
        Shapes (N, 3) and (M, 3): unit vectors, of one frame.
    order
        Of the spherical harmonics; the highest that N directions determine, up to 8, if None.

    Returns
    -------
    ndarray
        Shape (M, N).

    Raises
    ------
    GradientError
        If there are too few directions, or they do not determine the coefficients.
    """
    given = np.asarray(directions, dtype=np.float64)
    order = choose_order(len(given)) if order is None else order
    design = _basis(given, order)
    rank = int(np.linalg.matrix_rank(design))
    if rank < design.shape[1]:
        raise GradientError(
            f"{len(given)} directions determine {rank} of {design.shape[1]} spherical harmonics",
            expected="distinct directions that are spread over the sphere",
        )
    return np.asarray(
        _basis(np.asarray(targets, dtype=np.float64), order) @ np.linalg.pinv(design)
    )


def _basis(directions: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    x, y, z = directions.T
    theta, phi = np.arccos(np.clip(z, -1.0, 1.0)), np.arctan2(y, x)
    basis, _, _ = real_sh_descoteaux(order, theta, phi, legacy=False)
    return np.asarray(basis)


@cache
def fibonacci_directions(n: int) -> NDArray[np.float64]:
    """Return n directions (n, 3) that are spread over the half-sphere z > 0 as on a spiral.

    Examples
    --------
    >>> fibonacci_directions(2).round(3).tolist()
    [[0.661, 0.0, 0.75], [-0.714, 0.654, 0.25]]
    """
    number = np.arange(n)
    z = 1.0 - (number + 0.5) / n
    angle = number * np.pi * (3.0 - np.sqrt(5.0))
    across = np.sqrt(1.0 - z**2)
    found = np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)
    found.setflags(write=False)
    return found
