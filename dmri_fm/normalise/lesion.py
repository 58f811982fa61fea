"""Masks of lesions, which are left out of the registration to a template.

Brett et al. 2001, doi:10.1006/nimg.2001.0845: what a template has no counterpart of does not count
for the similarity of the two images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm.preprocess.mask_shape import describe_levels, read_drawn_mask


def read_lesion_mask(
    path: str | Path, image: str | Path, *, shape: tuple[int, ...], affine: ArrayLike
) -> NDArray[np.bool_]:
    """Read the mask of the lesions in an image (its path, shape and affine).

    Returns
    -------
    ndarray
        Shape (X, Y, Z), bool: inside lesions.

    Raises
    ------
    ImageError
        If it is damaged, on another grid, empty or everywhere, or holds other values than 0 and 1.
    """
    values = read_drawn_mask(path, image, shape=shape, affine=affine, noun="lesion mask")
    levels = np.unique(values)
    if not np.array_equal(levels, [0, 1]):
        raise ImageError(
            f"holds {describe_levels(levels)}",
            path=path,
            expected="two values, 0 outside lesions and 1 inside",
            advice="binarise it; take the file of a head without lesions away",
        )
    return np.asarray(values > 0)
