"""A shell on other directions, by spherical harmonics."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable, Shell
from dmri_fm.qspace import PREFERRED_BVAL

#: Fewest distinct directions for each even order of spherical harmonics: as many as coefficients.
FEWEST_FOR_ORDER = {order: (order + 1) * (order + 2) // 2 for order in (8, 6, 4)}

#: Fewest distinct directions that are resampled.
FEWEST_DIRECTIONS = FEWEST_FOR_ORDER[4]

#: An order whose design has a higher condition number is not used: it would magnify noise. Sets
#: that are spread as scanners spread them stay below 15, even where they have only as many
#: directions as coefficients.
LARGEST_CONDITION = 30.0

#: Steps of electrostatic repulsion.
_REPULSION_STEPS = 200


def harmonics(
    axes: NDArray[np.float64], order: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the real even harmonics (N, functions) at axes (N, 3), and their degrees."""
    from dipy.reconst.shm import real_sh_descoteaux

    polar = np.arccos(np.clip(axes[:, 2], -1, 1))
    azimuth = np.arctan2(axes[:, 1], axes[:, 0])
    basis, _, degree = real_sh_descoteaux(order, polar, azimuth, legacy=False)
    return np.asarray(basis, dtype=np.float64), np.asarray(degree, dtype=np.float64)


def choose_order(directions: ArrayLike) -> int:
    """Return the highest even order of spherical harmonics, up to 8, that directions determine.

    Order 8 needs 45 distinct directions, order 6 needs 28, order 4 needs 15; an order is passed
    over where directions are spread too unevenly for it.

    Parameters
    ----------
    directions
        Shape (N, 3): unit vectors; v and -v are one direction.

    Raises
    ------
    GradientError
        If there are fewer than :data:`FEWEST_DIRECTIONS`, or they are spread too unevenly.

    Examples
    --------
    >>> [choose_order(fixed_directions(n)) for n in (16, 27, 28, 45, 90)]
    [4, 4, 6, 8, 8]
    >>> choose_order(fixed_directions(14))
    Traceback (most recent call last):
    ...
    dmri_fm.errors.GradientError: a shell of 14 distinct directions
      expected: 15 or more, for spherical harmonics of order 4
    """
    given = np.asarray(directions, dtype=np.float64)
    n = _count_axes(given)
    if n < FEWEST_DIRECTIONS:
        raise GradientError(
            f"a shell of {n} distinct directions",
            expected=f"{FEWEST_DIRECTIONS} or more, for spherical harmonics of order 4",
        )
    for order, fewest in FEWEST_FOR_ORDER.items():
        if n >= fewest and np.linalg.cond(harmonics(given, order)[0]) <= LARGEST_CONDITION:
            return order
    raise GradientError(
        f"{n} distinct directions that do not determine spherical harmonics of order 4",
        expected="directions that are spread over the sphere",
    )


def resampling_matrix(directions: ArrayLike, targets: ArrayLike) -> NDArray[np.float64]:
    """Return the matrix that takes the signal of a shell to other directions.

    Least squares in the basis of spherical harmonics of :func:`choose_order` (Descoteaux et al.
    2007, doi:10.1002/mrm.21277), not regularised: exact for signals that this basis holds.

    Parameters
    ----------
    directions, targets
        Shapes (N, 3) and (M, 3): unit vectors, both of one frame.

    Returns
    -------
    ndarray
        Shape (M, N).

    Raises
    ------
    GradientError
        As of :func:`choose_order`.
    """
    given = np.asarray(directions, dtype=np.float64)
    order = choose_order(given)
    to_coefficients = np.linalg.pinv(harmonics(given, order)[0])
    return np.asarray(harmonics(np.asarray(targets, dtype=np.float64), order)[0] @ to_coefficients)


@cache
def fixed_directions(n: int = 64) -> NDArray[np.float64]:
    """Return n axes (n, 3) that electrostatic repulsion has spread over the half-sphere.

    The same for every call: repulsion (dipy) starts from a spiral.

    Examples
    --------
    >>> axes = fixed_directions(64)
    >>> bool(np.allclose(np.linalg.norm(axes, axis=1), 1)), axes.shape
    (True, (64, 3))
    """
    from dipy.core.sphere import HemiSphere, disperse_charges

    number = np.arange(n)
    z = 1.0 - (number + 0.5) / n
    angle = number * np.pi * (3.0 - np.sqrt(5.0))
    across = np.sqrt(1.0 - z**2)
    spiral = np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)
    spread, _ = disperse_charges(HemiSphere(xyz=spiral), _REPULSION_STEPS)
    found = np.array(spread.vertices, dtype=np.float64)
    found.setflags(write=False)
    return found


def find_shell(gtab: GradientTable) -> Shell | None:
    """Return the shell nearest to 1000 s/mm^2 of those whose directions determine order 4."""
    usable = [shell for shell in gtab.shells if _is_usable(gtab.bvecs_ras[list(shell.index)])]
    return min(usable, key=lambda s: abs(np.log(s.bval / PREFERRED_BVAL)), default=None)


def choose_shell(gtab: GradientTable) -> Shell:
    """Return what :func:`find_shell` finds.

    Raises
    ------
    GradientError
        If no shell has enough directions.
    """
    shell = find_shell(gtab)
    if shell is None:
        counts = [f"{_count_axes(gtab.bvecs_ras[list(s.index)])} at b {s.bval:.0f}"
                  for s in gtab.shells]  # fmt: skip
        raise GradientError(
            f"too few distinct directions for spherical harmonics ({', '.join(counts) or 'none'})",
            expected=f"{FEWEST_DIRECTIONS} directions of one shell, spread over the sphere",
            advice="leave this encoder out for the series",
        )
    return shell


def _is_usable(directions: NDArray[np.float64]) -> bool:
    try:
        choose_order(directions)
    except GradientError:
        return False
    return True


def _count_axes(directions: NDArray[np.float64]) -> int:
    table = GradientTable(np.full(len(directions), PREFERRED_BVAL), directions)
    return table.count_directions()
