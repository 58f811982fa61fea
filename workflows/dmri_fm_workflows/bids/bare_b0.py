"""b=0 images of the `dwi` folder, which need no gradient table."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gradient_options import GradientOptions
from dmri_fm.gradient_text import read_numbers
from dmri_fm.gradients import choose_b0_threshold
from dmri_fm.series import load_image
from dmri_fm_workflows.bids.encoding import has_direction_word
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.records import EpiImage, is_opposite
from dmri_fm_workflows.bids.scans import open_epi

#: Largest number of volumes of a b=0 image that has no b-values.
FEW_B0_VOLUMES = 10


def open_bare_b0(
    path: Path, reading: Reading, *, encodings: Collection[str | None]
) -> EpiImage | None:
    """Open a b=0 image of the `dwi` folder, one that needs no gradient table.

    Converters write no gradient files for a series without weighted volumes, or b-values alone.

    Parameters
    ----------
    path
        3-D or 4-D image.
    reading
        Of the dataset.
    encodings
        Phase encodings of the runs of its session that have gradients.

    Returns
    -------
    EpiImage or None
        None if it is to be read as a run with gradients. Without gradient files a single volume
        is b=0. Up to :data:`FEW_B0_VOLUMES` are b=0 if the name has a direction or the sidecar a
        link, and the phase encoding opposes that of a run.

    Raises
    ------
    ImageError
        If the image is missing, damaged, or neither 3-D nor 4-D.
    GradientError
        If its b-values cannot be read; if those of a 3-D image do not make it b=0.
    """
    bval, bvec = reading.sidecars.find_own_gradients(path)
    if bval is not None and bvec is not None and len(load_image(path).shape) != 3:
        return None
    image = open_epi(path, reading)
    is_3d = len(image.shape) == 3
    n_volumes = 1 if is_3d else image.shape[3]
    if bval is not None:
        bvals = read_numbers(bval, "b-values").ravel()
        is_b0 = _is_b0(bvals, reading.gradient_options)
        # Several b-values that are not all b=0 are those of a run; opening it refuses the image.
        if is_3d and (bvals.size == 1) != is_b0:
            raise _no_b0_volume(bval, bvals)
        return image if is_b0 and bvals.size == n_volumes else None
    if bvec is not None:
        if is_3d:
            raise _no_b0_volume(bvec)
        return None
    if n_volumes == 1:
        return image
    is_inherited = any(reading.sidecars.find(path, e).exists() for e in (".bval", ".bvec"))
    is_named = has_direction_word(image.entities) or any(
        image.metadata.get(key) for key in ("IntendedFor", "B0FieldIdentifier")
    )
    is_reverse = is_named and any(is_opposite(image.phase_encoding, e) for e in encodings)
    return image if is_reverse and not is_inherited and n_volumes <= FEW_B0_VOLUMES else None


def _is_b0(bvals: NDArray[np.float64], options: GradientOptions) -> bool:
    threshold = options.b0_threshold
    threshold = choose_b0_threshold(bvals) if threshold is None else threshold
    # NaN compares as False.
    return bool(((bvals >= 0) & (bvals < threshold)).all())


def _no_b0_volume(path: Path, bvals: NDArray[np.float64] | None = None) -> GradientError:
    """Say what is wrong with the gradient file of a 3-D image."""
    if bvals is None:
        found = "there is a .bvec file for a 3-D image, and no .bval file"
    elif bvals.size == 1:
        found = f"b = {bvals[0]:g} s/mm^2 for a 3-D image"
    else:
        found = f"{bvals.size} b-values for a 3-D image"
    return GradientError(
        found,
        path=path,
        expected="one b-value, that of b=0: a single volume can only be the b=0 image of another "
        "phase encoding",
        advice="correct or remove the gradient files if it is b=0; merge it into its series if it "
        "is a weighted volume of one",
    )
