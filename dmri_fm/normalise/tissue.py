"""Tissue of a T1-weighted brain: grey matter, white matter and cerebrospinal fluid (Atropos)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.errors import ImageError
from dmri_fm.normalise.grid import Image3D, PointMap, resample_image
from dmri_fm.normalise.template import TissueTemplate
from dmri_fm.preprocess.alignment import one_itk_thread, to_ants_image

#: Tissues in the order of BIDS' labels: 1 is grey matter, 2 white matter, 3 cerebrospinal fluid.
TISSUES = ("GM", "WM", "CSF")

#: Weight of the template's probabilities against the image, and of neighbours (Atropos).
PRIOR_WEIGHT, NEIGHBOUR_WEIGHT = 0.25, 0.1

#: Smallest prior probability of a tissue inside the brain, so that none is ruled out.
LEAST_PRIOR = 0.01

#: Iterations of the mixture model.
N_ITERATIONS = 5


def name_tissue_method() -> str:
    """Return the entry `TissueMethod` of the sidecars."""
    return f"Atropos (antspyx {version('antspyx')}) with the probabilities of the template"


@dataclass(frozen=True, eq=False)
class Tissue:
    """Tissue of a brain.

    Attributes
    ----------
    labels
        Shape (X, Y, Z), uint8: 0 outside the brain, else 1 + the position in :data:`TISSUES`.
    probabilities
        Shape (X, Y, Z, 3), of :data:`TISSUES`, 0 to 1; zero outside the brain.
    """

    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


def warp_priors(
    template: TissueTemplate, mask: Image3D, *, image2template: PointMap
) -> NDArray[np.float32]:
    """Return the template's tissue probabilities on the grid of a brain.

    The template has grey and white matter; what is left of its brain is cerebrospinal fluid.

    Parameters
    ----------
    template
        Template at 2 mm.
    mask
        Brain mask, gives the grid.
    image2template
        Takes points of the image to points of the template, RAS+ mm.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, 3), of :data:`TISSUES`; each voxel of the mask sums to 1, others are zero.
    """
    grey, white = (
        resample_image(
            data, template.grid.affine, mask.grid, target2source=image2template, order=1
        )
        for data in (template.gm, template.wm)
    )
    priors = np.stack([grey, white, 1 - grey - white], axis=-1).clip(LEAST_PRIOR, 1)
    priors /= priors.sum(axis=-1, keepdims=True)
    return np.asarray(priors * (mask.data > 0)[..., None], dtype=np.float32)


@one_itk_thread()
def segment_tissue(
    brain: Image3D, mask: Image3D, priors: NDArray[np.float32], *, is_coarse: bool = False
) -> Tissue:
    """Segment the tissue of a T1-weighted brain by a mixture of three Gaussians with priors.

    Parameters
    ----------
    brain
        T1-weighted image without intensity bias; voxels outside the mask do not count.
    mask
        Brain mask on the same grid.
    priors
        Of :func:`warp_priors`.
    is_coarse
        One iteration, for tests.

    Raises
    ------
    ImageError
        If the brain is constant, or Atropos gives up.

    References
    ----------
    Avants et al. 2011, doi:10.1007/s12021-011-9109-y.
    """
    import ants

    inside = mask.data > 0
    if not inside.any() or float(np.ptp(brain.data[inside])) == 0.0:
        raise ImageError(
            "the brain has no contrast, so its tissue cannot be told apart",
            expected="a T1-weighted image and its brain mask",
        )
    to_image = [to_ants_image(priors[..., k], brain.affine) for k in range(len(TISSUES))]
    try:
        with _temporary_folder():
            found: dict[str, Any] = ants.atropos(
                a=to_ants_image(brain.data, brain.affine),
                x=to_ants_image(inside.astype(np.float32), brain.affine),
                i=to_image,
                m=f"[{NEIGHBOUR_WEIGHT:g},1x1x1]",
                c=f"[{1 if is_coarse else N_ITERATIONS},0]",
                priorweight=PRIOR_WEIGHT,
                r=0,  # no random seed from the clock
            )
    except Exception as error:  # antspyx has no class of its own
        raise ImageError(
            f"Atropos could not segment the brain ({error})",
            expected="a T1-weighted image and its brain mask",
            advice="look at the brain mask in the report",
        ) from error
    probabilities = np.stack([p.numpy() for p in found["probabilityimages"]], axis=-1)
    labels = found["segmentation"].numpy()
    return Tissue(
        np.asarray(labels * inside, dtype=np.uint8),
        np.asarray(probabilities * inside[..., None], dtype=np.float32),
    )


@contextmanager
def _temporary_folder() -> Iterator[None]:
    """Keep temporary files in a folder that is removed: `ants.atropos` leaves its maps behind."""
    given = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="atropos-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = given
