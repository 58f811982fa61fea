"""Registration of the b=0 reference to the anatomical image of its session."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm.normalise.grid import Image3D, PointMap, linear_part
from dmri_fm.normalise.registration import GOOD_DICE
from dmri_fm.preprocess.alignment import align, mutual_information, resample_affine

#: Method that registers the b=0 reference to the T1w image, as plan and sidecar name it.
COREGISTRATION_METHOD = "rigid, mutual information (ANTs)"

#: Entry of the sidecar in place of that method where both images lie in one space already.
NO_COREGISTRATION = "none, as the input lies in the space of its T1w image"


def name_coregistration(contrast: str) -> str:
    """Return the name of the registration of the b=0 reference to an anatomical image.

    Examples
    --------
    >>> name_coregistration("T1w"), name_coregistration("T2w")
    ('rigid, mutual information (ANTs)', 'rigid, mutual information (ANTs), to the T2w image')
    """
    return COREGISTRATION_METHOD + ("" if contrast == "T1w" else f", to the {contrast} image")


def describe_overlap(dice: float) -> list[str]:
    """Return the warning of a series that may not lie on its T1w image; none if it does.

    Examples
    --------
    >>> describe_overlap(0.95)
    []
    """
    if dice >= GOOD_DICE:
        return []
    return [
        f"The brain of the series overlaps that of its T1w image by {dice:.2f} only (Dice), "
        "though the input has both in one space: check that they are of one person and one space."
    ]


class Coregistration(NamedTuple):
    """Result of :func:`coregister`.

    Attributes
    ----------
    xfm
        Shape (4, 4), RAS+ mm: takes points of the reference to points of ACPC.
    similarity
        Normalised mutual information of the reference and the resampled T1w image, 0 to 1.
    """

    xfm: NDArray[np.float64]
    similarity: float


def coregister(reference: Image3D, anatomy: Image3D, *, acpc2t1w: PointMap) -> Coregistration:
    """Register the b=0 reference rigidly to the T1w image in ACPC.

    Both start from their positions in the scanner: a session's images share its frame. The
    reference is the fixed image, so that a slab is compared within its own field of view.

    Parameters
    ----------
    reference, anatomy
        Brains: of the b=0 reference, and of the T1w image in ACPC.
    acpc2t1w
        Takes points of ACPC to points of the T1w image as it was acquired, RAS+ mm.
    """
    fixed, moving = reference.affine, anatomy.affine
    xfm = align(
        reference.data,
        anatomy.data,
        fixed_affine=fixed,
        moving_affine=moving,
        initial=np.linalg.inv(linear_part(acpc2t1w)),
    )
    shown = resample_affine(
        anatomy.data, xfm, fixed_affine=fixed, moving_affine=moving, shape=reference.data.shape
    )
    return Coregistration(xfm, mutual_information(reference.data, shown))
