"""Design of the tensor fit: its volumes, its columns, and whether they determine a tensor."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ConfigError, GradientError
from dmri_fm.gradients import GradientTable

#: Shells up to here serve the tensor where they determine it, s/mm^2: above, the logarithm of
#: the signal bends away from a line. Scanners miss a nominal 1500 by a little.
LARGEST_BVAL = 1550.0

#: Fewest directions: a tensor has six unknowns, and half of fewer predicts no masked direction.
FEWEST_DIRECTIONS = 6

#: Highest condition number of the scaled design (seven columns) that is accepted. Skare's
#: six directions and one b=0 have 6.2.
LARGEST_CONDITION = 100.0

#: A step to higher b-values takes in those above the next one by this share: one shell whole.
STEP_SHARE = 0.05

#: Positions of D11, D22, D33 among the elements of a tensor D11, D12, D13, D22, D23, D33.
DIAGONAL = (0, 3, 5)

#: Positions of D11, D22, D33, D12, D13, D23 among the elements of a tensor, for sums that are
#: rounded in that order.
DIAGONAL_FIRST = (*DIAGONAL, 1, 2, 4)

#: Positions of the elements of the symmetric matrix, row by row, among those of a tensor.
_MATRIX = (0, 1, 2, 1, 3, 4, 2, 4, 5)

#: Positions of the elements of a tensor in the symmetric matrix, row by row.
_ELEMENTS = (0, 1, 2, 4, 5, 8)


def to_matrices(tensors: Any) -> Any:
    """Return the symmetric matrices (..., 3, 3) of tensors (..., 6), an array or torch tensor.

    Examples
    --------
    >>> to_matrices(np.arange(6)).tolist()
    [[0, 1, 2], [1, 3, 4], [2, 4, 5]]
    """
    return tensors[..., _MATRIX].reshape(*tensors.shape[:-1], 3, 3)


def elements_of(matrices: Any) -> Any:
    """Return the elements (..., 6) of symmetric matrices (..., 3, 3); undoes :func:`to_matrices`.

    Examples
    --------
    >>> elements_of(to_matrices(np.arange(6))).tolist()
    [0, 1, 2, 3, 4, 5]
    """
    return matrices.reshape(*matrices.shape[:-2], 9)[..., _ELEMENTS]


def quadratic_columns(x: Any, y: Any, z: Any) -> list[Any]:
    """Return x^2, 2xy, 2xz, y^2, 2yz, z^2 of components, which are arrays or torch tensors."""
    return [x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z]


def quadratic_terms(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return x^2, 2xy, 2xz, y^2, 2yz, z^2: the factors of D11, D12, D13, D22, D23, D33.

    Their product with a tensor is the apparent diffusivity along a direction.

    Parameters
    ----------
    directions
        Shape (..., 3).

    Returns
    -------
    ndarray
        Shape (..., 6).

    Examples
    --------
    >>> quadratic_terms(np.array([1.0, 2.0, 3.0])).tolist()
    [1.0, 4.0, 6.0, 4.0, 12.0, 9.0]
    """
    return np.stack(quadratic_columns(*np.moveaxis(directions, -1, 0)), axis=-1)


def b_columns(bvals: NDArray[np.float64], directions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the negative b-matrix, columns in the order of the tensor: (N, 6), unit of `bvals`.

    Products start with b: in another order the last bits of fitted tensors differ.
    """
    b, (x, y, z) = bvals, directions.T
    columns = [b * x * x, 2 * b * x * y, 2 * b * x * z, b * y * y, 2 * b * y * z, b * z * z]
    return np.stack([-c for c in columns], axis=1)


def design_matrix(gtab: GradientTable) -> NDArray[np.float64]:
    """Return the negative b-matrix, columns in the order of the tensor, and ones: (N, 7)."""
    columns = b_columns(gtab.bvals, gtab.bvecs_ras)
    return np.column_stack([columns, np.ones(len(gtab))])


def design_scale(gtab: GradientTable) -> float:
    """Return the divisor of the first six columns that makes all seven alike, s/mm^2."""
    return float(max(gtab.bvals.max(initial=0.0), 1.0))


def design_condition(gtab: GradientTable) -> float:
    """Return the condition number of the scaled design; infinite if it is rank deficient."""
    if len(gtab) < FEWEST_DIRECTIONS + 1:
        return np.inf
    return float(np.linalg.cond(design_matrix(gtab) / ([design_scale(gtab)] * 6 + [1.0])))


def _is_determined(gtab: GradientTable) -> bool:
    return (
        gtab.count_directions() >= FEWEST_DIRECTIONS
        and design_condition(gtab) <= LARGEST_CONDITION
    )


def select_shells(
    gtab: GradientTable, *, shell: Literal["auto", "all"] | float = "auto"
) -> NDArray[np.int_]:
    """Choose the volumes that a tensor is fitted to.

    Parameters
    ----------
    gtab
        Gradient table of the series.
    shell
        `"auto"`: b-values up to :data:`LARGEST_BVAL`; where these do not determine a tensor (six
        directions, full rank, condition number up to :data:`LARGEST_CONDITION`), as few higher
        ones, in ascending order, as do. `"all"`; or the b-value of one shell, s/mm^2, which is
        taken together with b=0.

    Returns
    -------
    ndarray
        Positions in the series, ascending.

    Raises
    ------
    ConfigError
        If the series has no such shell.
    """
    everything = np.arange(len(gtab))
    if shell == "all":
        return everything
    if shell == "auto":
        limit, largest = LARGEST_BVAL, float(gtab.bvals.max(initial=0.0))
        while limit < largest:
            low = everything[gtab.bvals <= limit]
            if _is_determined(gtab.select(low)):
                return low
            limit = (1.0 + STEP_SHARE) * float(gtab.bvals[gtab.bvals > limit].min())
        return everything
    shells = gtab.shells
    if isinstance(shell, str) or not shells:
        raise ConfigError(
            f"shell {shell!r} of a series with shells {[round(s.bval) for s in shells]}",
            expected="'auto', 'all' or a b-value",
        )
    nearest = min(shells, key=lambda s: abs(s.bval - shell))
    if abs(nearest.bval - shell) > 0.1 * shell:
        raise ConfigError(
            f"no shell at b = {shell:g} s/mm^2",
            expected=f"one of {[round(s.bval) for s in shells]}",
        )
    return np.sort(np.concatenate([np.flatnonzero(gtab.is_b0), nearest.index]))


def determines_tensor(gtab: GradientTable) -> bool:
    """Tell whether a tensor can be fitted to a series, by its gradients.

    Examples
    --------
    >>> axes = np.array([[0, 0, 0], [1, 1, 0], [1, -1, 0], [1, 0, 1], [1, 0, -1], [0, 1, 1],
    ...                  [0, 1, -1]]) / np.sqrt(2)
    >>> determines_tensor(GradientTable([0] + [1000] * 6, axes))
    True
    >>> determines_tensor(GradientTable([0] + [1000] * 5, axes[:6]))
    False
    """
    return _is_determined(gtab.select(select_shells(gtab)))


def describe_widening(gtab: GradientTable, index: NDArray[np.int_]) -> str | None:
    """Return a note that the automatic choice went above :data:`LARGEST_BVAL`, or None."""
    used = gtab.bvals[index]
    if not used.size or used.max() <= LARGEST_BVAL:
        return None
    return (
        f"b-values up to {used.max():.0f} s/mm^2: those up to {LARGEST_BVAL:.0f} do not determine "
        "a tensor"
    )


def check_design(gtab: GradientTable) -> float:
    """Return the condition number of the scaled design; refuse one without a tensor.

    Raises
    ------
    GradientError
        If there are fewer than six directions, or they do not determine a tensor.
    """
    n_directions = gtab.count_directions()
    if n_directions < FEWEST_DIRECTIONS:
        raise GradientError(
            f"{n_directions} distinct directions",
            expected=f"{FEWEST_DIRECTIONS} or more, as a tensor has six unknowns",
            advice="leave the tensor out for this series, or give one with more directions",
        )
    condition = design_condition(gtab)
    if condition > LARGEST_CONDITION:
        problem = (
            f"directions that do not determine a tensor (condition number {condition:.3g})"
            if gtab.is_b0.any() or len(gtab.shells) > 1
            else "no b=0 volume beside a single shell"
        )
        raise GradientError(
            problem,
            expected="b=0 and directions spread over the sphere: condition number "
            f"{LARGEST_CONDITION:g} or less",
            advice="check the b-vectors: they may lie in one plane or on one cone",
        )
    return condition
