"""Regions of the scores: tissue without CSF, and in it white and grey matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, binary_opening

from dmri_fm.errors import ImageError
from dmri_fm.tensor_maps import TensorMaps
from dmri_fm_lab.simulate.anatomy import Fractions
from dmri_fm_lab.smoothing import smooth_within

#: Erosion of the brain mask, voxels, and the edge, mm, of voxels above which it is one.
MARGIN_VOXELS, LONG_VOXEL_MM = 2, 4.0

#: Smallest MD of CSF in the reference, mm^2/s.
CSF_MD = 1.5e-3

#: White matter has a higher FA in the smoothed reference; grey matter a lower FA and MD.
WHITE_FA, GREY_FA, GREY_MD = 0.25, 0.20, 1.1e-3

#: Width of the Gaussian that smooths the reference before white and grey are separated, voxels.
SMOOTHING_VOXELS = 0.7

#: The criteria in words, for the output.
CRITERIA = {
    "reference": {
        "tissue": "brain mask of the reference's b=0, eroded by 2 voxels (1 where a voxel is "
        "longer than 4 mm), reference MD < 1.5e-3 mm^2/s, opened by one voxel",
        "white": "tissue where the reference tensor, smoothed by a Gaussian of 0.7 voxel, has "
        "FA > 0.25",
        "grey": "tissue where it has FA < 0.2 and MD < 1.1e-3 mm^2/s",
    },
    "truth": {
        "tissue": "true CSF fraction < 0.1, within the brain",
        "white": "true white-matter fraction > 0.8",
        "grey": "true grey-matter fraction > 0.8",
        "lesion": "true lesion fraction > 0.3",
    },
}


@dataclass(frozen=True, eq=False)
class Regions:
    """Masks on one grid, each (X, Y, Z), bool; white and grey lie within tissue.

    Lesions are known of simulated brains alone, and need not lie within tissue.
    """

    tissue: NDArray[np.bool_]
    white: NDArray[np.bool_]
    grey: NDArray[np.bool_]
    lesion: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if not self.tissue.any():
            raise ImageError(
                "no tissue to compare",
                expected="voxels inside the brain, off its margin and not CSF",
                advice="look at the brain mask and the reference's mean diffusivity",
            )

    def items(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """Return the masks with their names."""
        found = [("tissue", self.tissue), ("white", self.white), ("grey", self.grey)]
        return found if self.lesion is None else [*found, ("lesion", self.lesion)]


def reference_regions(reference: TensorMaps, brain: NDArray[np.bool_]) -> Regions:
    """Return the regions of a real scan, from the reference alone and not from test volumes.

    Parameters
    ----------
    reference
        Fitted in the brain.
    brain
        Shape (X, Y, Z).

    Raises
    ------
    ImageError
        If no tissue is left.
    """
    edges = np.linalg.norm(reference.affine[:3, :3], axis=0)
    margin = MARGIN_VOXELS if edges.max() <= LONG_VOXEL_MM else 1
    inner = binary_erosion(brain, iterations=margin)
    tissue = binary_opening(inner & (reference.md < CSF_MD) & (reference.md > 0))
    smooth = TensorMaps.from_tensor(
        smooth_within(reference.diffusivity, brain, SMOOTHING_VOXELS),
        brain,
        affine=reference.affine,
        model="tensor",
    )
    return Regions(
        tissue,
        white=tissue & (smooth.fa > WHITE_FA),
        grey=tissue & (smooth.fa < GREY_FA) & (smooth.md < GREY_MD),
    )


def true_regions(fractions: Fractions) -> Regions:
    """Return the regions of a simulated scan from its tissue fractions."""
    tissue = fractions.mask & (fractions.csf < 0.1)
    lesion = fractions.mask & (fractions.lesion > 0.3)
    return Regions(
        tissue,
        white=tissue & (fractions.wm > 0.8),
        grey=tissue & (fractions.gm > 0.8) & ~lesion,
        lesion=lesion if lesion.any() else None,
    )
