"""Masks of lesions, which are left out of the registration to a template.

Brett et al. 2001, doi:10.1006/nimg.2001.0845: what a template has no counterpart of does not count
for the similarity of the two images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ImageError
from dmri_fm.series import load_image, read_array, require_grid


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
    opened = load_image(path, ndim=3)
    name = Path(image).name
    require_grid(
        opened,
        shape=tuple(shape),
        affine=affine,
        path=path,
        noun="lesion mask",
        expected=f"the grid of {name}, {tuple(shape)}: the mask is that of this image",
        advice=f"draw the mask on {name}, or resample it there by nearest neighbour",
    )
    levels = np.unique(values := read_array(opened, path=path))
    if not np.array_equal(levels, [0, 1]):
        shown = ", ".join(f"{v:g}" for v in levels[:4])
        raise ImageError(
            f"holds {levels.size} different values ({shown}{' ...' if levels.size > 4 else ''})",
            path=path,
            expected="two values, 0 outside lesions and 1 inside",
            advice="binarise it; take the file of a head without lesions away",
        )
    return np.asarray(values > 0)
