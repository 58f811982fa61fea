"""Arrangements of the components of b-vectors: orders of the axes, and their signs.

A label says what the components of a table should be, in terms of those that it has: `-x,y,z`
negates the first row of a bvec file, `y,x,z` swaps the first two. As v and -v are one gradient,
24 of the 48 labels differ, and those with no more than one minus stand for all.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError

#: The arrangement that changes nothing.
AS_STORED = "x,y,z"


def arrangement_matrix(label: str) -> NDArray[np.float64]:
    """Return the signed permutation that a label stands for.

    Parameters
    ----------
    label
        Three different letters of `x`, `y` and `z`, each with or without a minus, parted by
        commas.

    Returns
    -------
    ndarray
        Shape (3, 3): the components that a table should have are this times those that it has.

    Raises
    ------
    ConfigError
        If the label is none.

    Examples
    --------
    >>> (arrangement_matrix("y,-x,z") @ [1, 2, 3]).tolist()
    [2.0, -1.0, 3.0]
    """
    words = [word.strip() for word in label.split(",")]
    letters = [word.removeprefix("-") for word in words]
    if sorted(letters) != ["x", "y", "z"]:
        raise ConfigError(
            f"{label!r} is no arrangement of the components of b-vectors",
            expected="x, y and z in any order, each with or without a minus, such as -x,y,z",
        )
    matrix = np.zeros((3, 3))
    for row, (word, letter) in enumerate(zip(words, letters, strict=True)):
        matrix[row, "xyz".index(letter)] = -1.0 if word.startswith("-") else 1.0
    return matrix


def name_arrangement(matrix: NDArray[np.float64]) -> str:
    """Return the label of a signed permutation, with no more than one minus.

    Examples
    --------
    >>> name_arrangement(np.diag([-1.0, -1.0, 1.0]))
    'x,y,-z'
    """
    signed = -matrix if (matrix < 0).sum() > 1 else matrix
    words = (
        ("-" if signed[row].sum() < 0 else "") + "xyz"[int(np.abs(signed[row]).argmax())]
        for row in range(3)
    )
    return ",".join(words)


def join_arrangements(first: str, then: str) -> str:
    """Return the label of two arrangements, one after the other.

    Examples
    --------
    >>> join_arrangements("y,x,z", "-x,y,z"), join_arrangements("-x,y,z", "-x,y,z")
    ('-y,x,z', 'x,y,z')
    """
    return name_arrangement(arrangement_matrix(then) @ arrangement_matrix(first))


def list_arrangements() -> dict[str, NDArray[np.float64]]:
    """Return the 24 arrangements that differ by more than the sign of the vector, by label."""
    labels = (
        ",".join(("-" if row == flipped else "") + letter for row, letter in enumerate(order))
        for order in itertools.permutations("xyz")
        for flipped in (None, 0, 1, 2)
    )
    return {label: arrangement_matrix(label) for label in labels}
