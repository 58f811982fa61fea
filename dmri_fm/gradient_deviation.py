"""Deviation of the gradient coils from what the gradient files state, voxel by voxel.

Gradient coils are not linear over a head. Where the nominal gradient is g, tissue sees (I + L) g:
another direction, and a b-value larger by the squared length of that vector. The HCP pipelines
store L as `grad_dev.nii.gz` (Sotiropoulos et al. 2013, doi:10.1016/j.neuroimage.2013.05.057;
Bammer et al. 2003, doi:10.1002/mrm.10545).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm.gradients import fsl_to_ras
from dmri_fm.series import load_image, read_array, require_grid
from dmri_fm.tensor_design import elements_of, to_matrices

#: Largest plausible spectral norm of L: coils deviate by a few percent over a head, and by less
#: than this anywhere in a scanner. Below 1, I + L can be inverted.
LARGEST_DEVIATION = 0.5

#: Margin of the same limit after resampling and turning in single precision.
_ROUNDING = 1e-4

#: Entry of the records about the deviation: for a tensor fit that corrects it, for a model that
#: does not, and for the gradient files beside the series.
DEVIATION_KEY = "GradientNonlinearity"
VOXELWISE = "corrected: a b-matrix for each voxel, from the deviation of the gradient coils"
UNCHANGED = "not in these b-values and b-vectors, but corrected in the tensor fit"
NOMINAL = "not corrected: the nominal b-values and b-vectors are read"

#: Elements of a matrix.
N_ELEMENTS = 9


def read_gradient_deviation(
    path: str | Path, *, shape: tuple[int, ...], affine: ArrayLike
) -> NDArray[np.float32]:
    """Read the deviation of the coils in FSL's format, for a series on the same grid.

    The nine volumes are the components of the deviation of the x, then the y, then the z
    gradient, and act on b-vectors of FSL's files, as in FSL's `dtifit --gradnonlin`.

    Parameters
    ----------
    path
        4-D NIfTI image of nine volumes.
    shape
        X, Y, Z of the series.
    affine
        Shape (4, 4), voxel to RAS+ mm, of the series.

    Returns
    -------
    ndarray
        L, shape (X, Y, Z, 3, 3), RAS+, no unit.

    Raises
    ------
    ImageError
        If the image is damaged, on another grid, or holds no deviation of coils.
    """
    check_gradient_deviation(path, shape=shape, affine=affine)
    data = read_array(load_image(path, ndim=4), path=path)
    _require_small(as_matrices(data), LARGEST_DEVIATION, path=path)
    # Volumes 0 to 2 are the first column of L.
    fsl = data.reshape(*data.shape[:3], 3, 3).swapaxes(-1, -2)
    half = fsl_to_ras(fsl, affine).swapaxes(-1, -2)
    return np.asarray(fsl_to_ras(half, affine).swapaxes(-1, -2), dtype=np.float32)


def check_gradient_deviation(
    path: str | Path, *, shape: tuple[int, ...], affine: ArrayLike
) -> None:
    """Check the header of an image of the deviation, see :func:`read_gradient_deviation`.

    Raises
    ------
    ImageError
        If it has not nine volumes on the grid of the series.
    """
    image = load_image(path, ndim=4)
    wanted = (*shape[:3], N_ELEMENTS)
    require_grid(
        image,
        shape=wanted,
        affine=affine,
        path=path,
        noun="image",
        expected=f"{N_ELEMENTS} volumes on the grid of the series, {wanted}",
        advice="take the file that the pipeline wrote beside the series, or move it away",
    )


def _require_small(
    matrices: NDArray[np.floating], limit: float, *, path: str | Path | None = None
) -> None:
    """Refuse deviations (..., 3, 3) whose spectral norm is above a limit, or not finite."""
    # The Frobenius norm is never below the spectral one, and quick.
    bound = np.linalg.norm(matrices, axis=(-2, -1))
    if not np.isfinite(bound).all():
        largest = float("nan")
    elif (large := bound > limit).any():
        largest = float(np.linalg.norm(matrices[large], ord=2, axis=(-2, -1)).max())
    else:
        return
    if not largest <= limit:
        raise ImageError(
            f"deviations of the gradient coils up to {largest:.3g}",
            path=path,
            expected=f"shares of the nominal gradient, up to {LARGEST_DEVIATION:g} in any "
            "direction",
            advice="divide percentages by 100; or move the file away, to do without it",
        )


def as_matrices(volumes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return matrices (X, Y, Z, 3, 3), row by row, of an image of nine volumes (X, Y, Z, 9)."""
    return volumes.reshape(*volumes.shape[:-1], 3, 3)


def as_volumes(matrices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an image of nine volumes (X, Y, Z, 9) of matrices (X, Y, Z, 3, 3)."""
    return matrices.reshape(*matrices.shape[:-2], N_ELEMENTS)


def turn_deviation(deviation: ArrayLike, rotation: ArrayLike) -> NDArray[np.float32]:
    """Return deviations (..., 3, 3) in a frame into which a (3, 3) rotation turns directions."""
    turn = np.asarray(rotation, dtype=np.float64)
    return np.asarray(turn @ np.asarray(deviation) @ turn.T, dtype=np.float32)


def undo_deviation(tensors: ArrayLike, deviation: ArrayLike) -> NDArray[np.float64]:
    """Return the tensors whose fit with nominal gradients gave these.

    The signal of a tensor D under (I + L) g is that of D' = (I + L)^T D (I + L) under g. So the
    fit of D' with one b-matrix for all voxels is that of D with a b-matrix for each, least squares
    and weights included.

    Parameters
    ----------
    tensors
        Shape (..., 6): D', order D11, D12, D13, D22, D23, D33, RAS+.
    deviation
        Shape (..., 3, 3): L, RAS+.

    Returns
    -------
    ndarray
        D, shape (..., 6).

    Raises
    ------
    ImageError
        If a deviation is larger than coils have.

    Examples
    --------
    A coil that is 10 % too strong along x makes b, and so the apparent diffusivity, 21 % larger:

    >>> undo_deviation([1.21, 0, 0, 1, 0, 1], np.diag([0.1, 0, 0])).round(6).tolist()
    [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    """
    matrices = np.asarray(deviation, dtype=np.float64)
    _require_small(matrices, LARGEST_DEVIATION + _ROUNDING)
    inverse = np.linalg.inv(np.eye(3) + matrices)
    found = inverse.swapaxes(-1, -2) @ to_matrices(np.asarray(tensors, np.float64)) @ inverse
    return np.asarray(elements_of(found))
