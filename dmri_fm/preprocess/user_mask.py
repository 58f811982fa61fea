"""Brain masks that the user has drawn or corrected, in place of those of :mod:`.mask`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.distortion import DistortionField, PhaseEncoding, sample_distorted
from dmri_fm.errors import ImageError
from dmri_fm.preprocess.mask import MASK_ADVICE, PLAUSIBLE_ML
from dmri_fm.preprocess.mask_shape import (
    describe_levels,
    is_slab,
    read_drawn_mask,
    volume_ml,
)

#: Entry `MaskMethod` of the sidecar.
USER_MASK = "given by the user"


def read_user_mask(
    path: str | Path, image: str | Path, *, shape: tuple[int, ...], affine: ArrayLike
) -> NDArray[np.bool_]:
    """Read a mask that the user made for an image (its path, shape and affine).

    Returns
    -------
    ndarray
        Shape (X, Y, Z), bool.

    Raises
    ------
    ImageError
        If it is damaged, on another grid, empty or everywhere, or holds more than two values.
    """
    values = read_drawn_mask(path, image, shape=shape, affine=affine, noun="brain mask")
    levels = np.unique(values)
    if levels.size == 1:
        raise ImageError(
            f"every voxel is {levels[0]:g}",
            path=path,
            expected="0 outside the brain, 1 inside",
            advice="draw it again, or take it away: the app masks the brain of "
            f"{Path(image).name} then",
        )
    if levels.size > 2 or levels[0] != 0:
        raise ImageError(
            describe_levels(levels),
            path=path,
            expected="two values, 0 outside the brain and 1 inside",
            advice="binarise it: an image of the brain, labels or probabilities are no mask",
        )
    return np.asarray(values > 0)


def undistort_mask(
    mask: ArrayLike, affine: ArrayLike, *, field: DistortionField, encoding: PhaseEncoding
) -> NDArray[np.bool_]:
    """Move a mask that was drawn on a distorted image to where the brain is.

    Parameters
    ----------
    mask
        Shape (U, V, W), bool, on the distorted image.
    affine
        Shape (4, 4), voxel to RAS+ mm, of that image.
    field
        Distortion field, on the grid of the result.
    encoding
        Phase encoding of the distorted image.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), bool: voxels that are masked by more than half, by linear interpolation.

    Raises
    ------
    ImageError
        If nothing is left.
    """
    inside = np.asarray(mask, dtype=np.float32)
    moved = sample_distorted(inside, affine, field=field, encoding=encoding, order=1) > 0.5
    if not moved.any():
        raise ImageError(
            "the distortion field moves the brain mask out of the image",
            expected="a mask drawn on the image as acquired, before any correction",
            advice="look at the distortion field in the report",
        )
    return np.asarray(moved)


def doubt_volume(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> list[str]:
    """Return a warning about a mask of an implausible volume; none if there is no doubt.

    Examples
    --------
    >>> doubt_volume(np.ones((100, 100, 150), bool), np.eye(4))
    []
    >>> doubt_volume(np.ones((30, 30, 150), bool), np.eye(4))[0][:41]
    'The brain mask of the user holds 135 ml; '
    """
    low, high = PLAUSIBLE_ML
    found_ml = volume_ml(mask, affine)
    if found_ml <= high and (found_ml >= low or is_slab(mask.shape, affine)):
        return []
    return [
        f"The brain mask of the user holds {found_ml:.0f} ml; {low:.0f} to {high:.0f} ml were "
        f"expected: {MASK_ADVICE}"
    ]
