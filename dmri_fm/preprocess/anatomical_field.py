"""Estimate of the distortion field from the T1w image of the participant, without a field map."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.distortion import DistortionField, correct_image
from dmri_fm.errors import ImageError
from dmri_fm.preprocess.alignment import (
    N_BINS,
    mutual_information,
    one_itk_thread,
    resample_affine,
)
from dmri_fm.preprocess.susceptibility import B0Image
from dmri_fm.series import load_image, read_array

#: Name of :func:`estimate_anatomical_field` in the sidecar.
ANATOMICAL_METHOD = "Registration to the T1w image along phase encoding (ANTs SyN)"

#: Standard deviations, voxels, by which SyN smooths updates and the whole displacement: fields
#: are smooth, and the b=0 image has detail that the T1w image has not.
UPDATE_SMOOTHING, FIELD_SMOOTHING = 6.0, 1.0

#: Iterations by resolution, coarse to fine.
ITERATIONS = (60, 40, 20)

#: Seed of ANTs.
SEED = 20


@dataclass(frozen=True, eq=False)
class AnatomicalField:
    """Result of :func:`estimate_anatomical_field`.

    Attributes
    ----------
    field
        The field, on the grid of the b=0 image.
    corrected
        Shape (X, Y, Z): the b=0 image, corrected.
    similarity_before, similarity_after
        Mutual information of the b=0 and the T1w image in the brain.
    largest_mm
        Largest displacement in the brain.
    smallest_jacobian
        Smallest stretching in the brain; at 0 the image is folded.
    """

    field: DistortionField
    corrected: NDArray[np.float32]
    similarity_before: float
    similarity_after: float
    largest_mm: float
    smallest_jacobian: float

    @property
    def warnings(self) -> list[str]:
        """What makes the field doubtful, for the user."""
        found = []
        if self.similarity_after <= self.similarity_before:
            found.append(
                "The distortion field from the T1w image does not make the b=0 image more like it "
                f"(mutual information {self.similarity_before:.4f}, then "
                f"{self.similarity_after:.4f}): compare the figures, and run with --sdc none."
            )
        if self.smallest_jacobian <= 0:
            found.append(
                "The distortion field from the T1w image folds the b=0 image: run with --sdc none."
            )
        return found


def estimate_anatomical_field(
    b0: B0Image,
    brain: NDArray[np.bool_],
    t1w_brain: NDArray[np.float32],
    *,
    t1w_affine: ArrayLike,
    xfm: ArrayLike,
) -> AnatomicalField:
    """Estimate the distortion field of a b=0 image by registering it to the T1w image.

    Parameters
    ----------
    b0
        The image, corrected for intensity bias.
    brain
        Shape (X, Y, Z): its brain.
    t1w_brain
        Shape (U, V, W): brain of the T1w image, 0 outside.
    t1w_affine
        Shape (4, 4), voxel to RAS+ mm, of the T1w image.
    xfm
        Shape (4, 4), RAS+ mm: takes points of the b=0 image to points of the T1w image.

    Raises
    ------
    ImageError
        If an image has no contrast in its brain.

    Notes
    -----
    After Wang et al. 2017, doi:10.3389/fninf.2017.00017: symmetric normalisation (Avants et al.
    2008, doi:10.1016/j.media.2007.06.004) of the T1w image with reversed contrast, restricted to
    the phase-encoding axis. Theirs weighs by an average of field maps, ours does not. A movement
    along phase encoding cannot be told from a constant field.
    """
    axis, sign = b0.encoding.axis_and_sign()
    sizes = np.linalg.norm(b0.affine[:3, :3], axis=0)
    # Half of a voxel outside the brain is no fluid.
    t1w, share = (
        resample_affine(
            image, xfm, fixed_affine=b0.affine, moving_affine=t1w_affine, shape=b0.data.shape
        )
        for image in (t1w_brain, (t1w_brain > 0).astype(np.float32))
    )
    inside = share > 0.5
    reversed_contrast = (1 - _scaled(t1w, inside, "T1w")) * inside
    shift_mm = register_along(reversed_contrast, _scaled(b0.data, brain, "b=0"), sizes, axis)
    hz = shift_mm / np.float32(sizes[axis] * sign * b0.encoding.readout_s)
    field = DistortionField(hz, b0.affine)
    corrected = correct_image(b0.data, b0.affine, field=field, encoding=b0.encoding)
    return AnatomicalField(
        field,
        corrected,
        mutual_information(b0.data[inside], t1w[inside]),
        mutual_information(corrected[inside], t1w[inside]),
        float(np.abs(shift_mm[inside]).max()),
        float(field.jacobian(b0.encoding)[inside].min()),
    )


def _scaled(
    image: NDArray[np.float32], inside: NDArray[np.bool_], name: str
) -> NDArray[np.float32]:
    """Scale the values of a brain to 0 to 1; 0 outside."""
    low, high = np.percentile(image[inside], [1, 99]) if inside.any() else (0.0, 0.0)
    if not high > low:
        raise ImageError(
            f"the {name} image has no contrast in its brain ({int(inside.sum())} voxels)",
            expected="a brain",
            advice="look at the brain masks",
        )
    return np.asarray(np.clip((image - low) / (high - low), 0, 1) * inside, dtype=np.float32)


@one_itk_thread()
def register_along(
    fixed: NDArray[np.float32],
    moving: NDArray[np.float32],
    sizes: ArrayLike,
    axis: int,
    *,
    metric: tuple[Literal["mattes", "CC"], int] = ("mattes", N_BINS),
) -> NDArray[np.float32]:
    """Return where, along a voxel axis, the moving image shows the voxels of the fixed one, mm.

    The images, (X, Y, Z) with voxels of `sizes` mm, are given to ANTs without their pose, so that
    its axes are the voxel axes. The metric has its number of bins (mattes) or its radius (CC).
    """
    import ants

    spacing = [float(s) for s in np.asarray(sizes)]
    images = [ants.from_numpy(image, spacing=spacing) for image in (fixed, moving)]
    with tempfile.TemporaryDirectory() as folder:
        result = ants.registration(
            *images,
            type_of_transform="SyNOnly",
            initial_transform="identity",
            outprefix=str(Path(folder) / "along"),
            syn_metric=metric[0],
            syn_sampling=metric[1],
            reg_iterations=ITERATIONS,
            grad_step=0.1,
            flow_sigma=UPDATE_SMOOTHING,
            total_sigma=FIELD_SMOOTHING,
            restrict_transformation=tuple(int(a == axis) for a in range(3)),
            random_seed=SEED,
            singleprecision=True,
        )
        path = next(p for p in result["fwdtransforms"] if p.endswith("Warp.nii.gz"))
        warp = read_array(load_image(path), path=path).squeeze()
    return np.asarray(warp[..., axis], dtype=np.float32)
