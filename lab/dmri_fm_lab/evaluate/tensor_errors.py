"""Errors of tensor maps against a reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm.tensor_maps import TensorMaps

#: Smallest FA of the reference where main axes are compared: below it they mean little.
AXIS_FA = 0.3


@dataclass(frozen=True)
class ScalarErrors:
    """Errors of a scalar map in a mask, in the map's unit.

    Attributes
    ----------
    mean_absolute, root_mean_square, bias
        Of estimate minus reference.
    n_voxels
        Voxels compared.
    """

    mean_absolute: float
    root_mean_square: float
    bias: float
    n_voxels: int


@dataclass(frozen=True)
class TensorErrors:
    """Errors of tensor maps in a mask.

    Attributes
    ----------
    tensor
        Sum of the absolute errors of the six elements, mean over the mask, mm^2/s.
    fa, md, ad, rd
        Errors of the scalars.
    v1_angle_deg
        Mean angle between the main axes where the reference's FA is above 0.3, degrees; NaN
        without such voxels.
    n_axes
        Voxels whose axes were compared.
    """

    tensor: float
    fa: ScalarErrors
    md: ScalarErrors
    ad: ScalarErrors
    rd: ScalarErrors
    v1_angle_deg: float
    n_axes: int


def scalar_errors(estimate: ArrayLike, reference: ArrayLike, *, mask: ArrayLike) -> ScalarErrors:
    """Compare a scalar map with a reference.

    Parameters
    ----------
    estimate, reference
        Shape (X, Y, Z), same unit and grid.
    mask
        Shape (X, Y, Z): voxels to compare.

    Raises
    ------
    ImageError
        If shapes differ, the mask is empty, or a compared voxel is not finite.

    Examples
    --------
    >>> scalar_errors([[[0.75, 0.5]]], [[[0.5, 0.5]]], mask=[[[1, 1]]]).bias
    0.125
    """
    inside = np.asarray(mask) > 0
    shapes = {np.shape(estimate), np.shape(reference), inside.shape}
    if len(shapes) > 1:
        raise ImageError(f"maps of unlike shapes {sorted(shapes)}", expected="one grid")
    if not inside.any():
        raise ImageError("the mask is empty", expected="voxels to compare")
    a = np.asarray(estimate, dtype=np.float64)[inside]
    b = np.asarray(reference, dtype=np.float64)[inside]
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ImageError("voxels that are not finite", expected="numbers within the mask")
    difference = a - b
    return ScalarErrors(
        mean_absolute=float(np.abs(difference).mean()),
        root_mean_square=float(np.sqrt((difference**2).mean())),
        bias=float(difference.mean()),
        n_voxels=int(inside.sum()),
    )


def axis_angle_deg(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Return the angle between axes, 0 to 90 degrees; an axis has no sign.

    Parameters
    ----------
    a, b
        Shape (..., 3), not zero.

    Examples
    --------
    >>> float(axis_angle_deg([1, 0, 0], [-1, 0, 0])), float(axis_angle_deg([1, 0, 0], [0, 2, 0]))
    (0.0, 90.0)
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    # The arctangent stays exact near zero, where the arccosine does not.
    across = np.linalg.norm(np.cross(first, second), axis=-1)
    along = np.abs((first * second).sum(axis=-1))
    return np.asarray(np.rad2deg(np.arctan2(across, along)))


def tensor_errors(
    estimate: TensorMaps, reference: TensorMaps, *, mask: ArrayLike | None = None
) -> TensorErrors:
    """Compare tensor maps with a reference.

    Parameters
    ----------
    estimate, reference
        Maps on one grid.
    mask
        Shape (X, Y, Z): voxels to compare within the masks of both maps; all of them if None.

    Raises
    ------
    ImageError
        If grids differ or nothing is left to compare.
    """
    if estimate.mask.shape != reference.mask.shape or not np.allclose(
        estimate.affine, reference.affine, atol=1e-3
    ):
        raise ImageError(
            f"maps on unlike grids, {estimate.mask.shape} and {reference.mask.shape}",
            expected="one shape and one affine",
            advice="resample the scalars to one grid first",
        )
    inside = estimate.mask & reference.mask
    if mask is not None:
        if np.shape(mask) != inside.shape:
            raise ImageError(
                f"mask of shape {np.shape(mask)} for maps of shape {inside.shape}",
                expected="the same grid",
            )
        inside = inside & (np.asarray(mask) > 0)
    fa, md, ad, rd = (
        scalar_errors(estimate.scalars[name], reference.scalars[name], mask=inside)
        for name in ("fa", "md", "ad", "rd")
    )
    difference = np.abs(
        estimate.diffusivity[inside].astype(np.float64) - reference.diffusivity[inside]
    )
    with_axis = inside & (reference.fa > AXIS_FA) & (estimate.fa > 0)
    angle = axis_angle_deg(estimate.v1[with_axis], reference.v1[with_axis])
    return TensorErrors(
        tensor=float(difference.sum(axis=1).mean()),
        fa=fa,
        md=md,
        ad=ad,
        rd=rd,
        v1_angle_deg=float(angle.mean()) if angle.size else float("nan"),
        n_axes=int(angle.size),
    )
