"""Brain masks by a network, checked against masks by a threshold."""

from __future__ import annotations

import contextlib
import io
import logging
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

from dmri_fm.errors import ImageError

logger = logging.getLogger(__name__)

#: Brains smaller or larger than this are doubted, ml. A slab may hold less of a brain.
PLAUSIBLE_ML = (600.0, 2300.0)

#: Field of view along the body below which a scan counts as a slab, mm.
WHOLE_HEAD_MM = 110.0

#: A slab has to hold at least this much, ml.
SMALLEST_SLAB_ML = 150.0

#: Gaps of up to twice this width are filled where the second method sees brain, mm.
CLOSING_MM = 12.0

#: Agreement of the two masks, Dice, below which the user is asked to look.
AGREEMENT_WARNING = 0.75


@dataclass(frozen=True, eq=False)
class BrainMask:
    """A brain mask and doubts about it.

    Attributes
    ----------
    mask
        Shape (X, Y, Z), bool.
    method
        Name of the method in the sidecar.
    agreement_dice
        Overlap with the second method, 0 to 1.
    warnings
        Doubts that the user should check; empty if there is none.
    """

    mask: NDArray[np.bool_]
    method: str
    agreement_dice: float
    warnings: tuple[str, ...] = ()


def brain_mask(
    image: ArrayLike, affine: ArrayLike, *, contrast: Literal["b0", "t1w"]
) -> BrainMask:
    """Find the brain in a 3-D image.

    deepbet (Fisch et al. 2024, doi:10.1016/j.compbiomed.2024.108845) draws the mask; a median
    filter with Otsu's threshold draws a second one to compare. The second replaces the first, with
    a warning, where the first has an impossible volume and the second has not. In a b=0 slab the
    second leads: deepbet expects a whole head and drops tissue near the cut. In a whole b=0 head,
    which is not deepbet's T1w contrast either, gaps and dents of its mask are filled where the
    second sees brain.

    Parameters
    ----------
    image
        Shape (X, Y, Z), not negative.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    contrast
        Contrast of the image. deepbet was trained on T1w images; b=0 images are more often
        cut short, and the comparison is strict there.

    Raises
    ------
    ImageError
        If all voxels are equal.
    """
    data = np.asarray(image, dtype=np.float32)
    if data.min() == data.max():
        raise ImageError(
            f"all voxels are {data.min():g}: no brain can be found",
            expected="an image with signal",
        )
    matrix = np.asarray(affine, dtype=np.float64)
    voxel_ml = abs(float(np.linalg.det(matrix[:3, :3]))) / 1000.0
    network = _deepbet_mask(data, matrix)
    threshold = _otsu_mask(data)
    agreement = overlap_dice(network, threshold)
    if contrast == "b0":
        network |= _closed(network, matrix) & threshold
    is_whole = not is_slab(data.shape, matrix)
    low, high = PLAUSIBLE_ML if is_whole else (SMALLEST_SLAB_ML, PLAUSIBLE_ML[1])
    network_ml, threshold_ml = (float(m.sum()) * voxel_ml for m in (network, threshold))
    name = name_mask(contrast)
    if contrast == "b0" and not is_whole and low <= threshold_ml <= high:
        return BrainMask(threshold, name_mask(contrast, slab=True), agreement)
    if low <= network_ml <= high:
        warnings: tuple[str, ...] = ()
        # A T1w image shows scalp and neck, which Otsu's threshold keeps: no evidence there.
        if contrast == "b0" and agreement < AGREEMENT_WARNING:
            warnings = (
                f"The brain masks of two methods overlap by {agreement:.2f} only (Dice): "
                "check the mask in the report.",
            )
        return BrainMask(network, name, agreement, warnings)
    if low <= threshold_ml <= high:
        warning = (
            f"deepbet's brain mask holds {network_ml:.0f} ml and was replaced by "
            f"median_otsu's, {threshold_ml:.0f} ml: check the mask in the report."
        )
        logger.warning(warning)
        return BrainMask(threshold, _name_otsu(), agreement, (warning,))
    warning = (
        f"The brain mask holds {network_ml:.0f} ml; {low:.0f} to {high:.0f} ml were expected: "
        "check the mask in the report."
    )
    logger.warning(warning)
    return BrainMask(network, name, agreement, (warning,))


def name_mask(contrast: Literal["b0", "t1w"], *, slab: bool = False) -> str:
    """Return the method that the sidecar names for a mask of :func:`brain_mask` without doubts.

    Parameters
    ----------
    contrast
        Contrast of the image.
    slab
        The field of view is too short for a whole head, see :func:`is_slab`.

    Examples
    --------
    >>> name_mask("t1w").startswith("deepbet"), name_mask("b0", slab=True).endswith(", slab")
    (True, True)
    """
    if contrast == "t1w":
        return f"deepbet {version('deepbet')}"
    if slab:
        return f"{_name_otsu()}, slab"
    return f"deepbet {version('deepbet')}, gaps filled by {_name_otsu()}"


def name_given_mask(path: Path) -> str:
    """Return the entry of the sidecar about a mask that was not made here.

    Examples
    --------
    >>> name_given_mask(Path("T1w/Diffusion/nodif_brain_mask.nii.gz"))
    'taken from the input: nodif_brain_mask.nii.gz'
    """
    return f"taken from the input: {path.name}"


def _name_otsu() -> str:
    return f"median_otsu (DIPY {version('dipy')})"


def is_slab(shape: tuple[int, ...], affine: ArrayLike) -> bool:
    """Tell whether a field of view is too short along the body for a whole head.

    Examples
    --------
    >>> is_slab((64, 64, 20), np.diag([3.5, 3.5, 4.2, 1]))
    True
    """
    corners_mm = np.abs(np.asarray(affine, dtype=np.float64)[2, :3]) * (np.array(shape[:3]) - 1)
    return float(corners_mm.sum()) < WHOLE_HEAD_MM


@cache
def _network() -> Any:
    from deepbet.bet import BrainExtraction

    return BrainExtraction(no_gpu=True)


def _deepbet_mask(data: NDArray[np.float32], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    canonical = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            _, mask, _ = _network().run(canonical)
        except AssertionError:
            # Its way of saying that it sees no head at all.
            return np.zeros(data.shape, dtype=bool)
    found = np.asarray(mask.dataobj) > 0
    # Back from RAS+ storage to the image's own order of axes.
    back = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(canonical.affine), nib.orientations.io_orientation(affine)
    )
    return np.asarray(nib.orientations.apply_orientation(found, back), dtype=bool)


def _otsu_mask(data: NDArray[np.float32]) -> NDArray[np.bool_]:
    from dipy.segment.mask import median_otsu

    _, mask = median_otsu(data, median_radius=2, numpass=2)
    parts, count = label(mask)
    if count > 1:
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        mask = parts == sizes.argmax()
    return np.asarray(binary_fill_holes(mask), dtype=bool)


def _closed(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the mask with gaps and dents up to twice the closing radius filled."""
    size_mm = np.linalg.norm(affine[:3, :3], axis=0)
    margin = [int(n) for n in np.ceil(CLOSING_MM / size_mm) + 1]
    padded = np.pad(mask, [(n, n) for n in margin])
    grown = distance_transform_edt(~padded, sampling=size_mm) <= CLOSING_MM
    closed = distance_transform_edt(grown, sampling=size_mm) > CLOSING_MM
    inner = tuple(slice(n, -n) for n in margin)
    return np.asarray(binary_fill_holes(closed)[inner], dtype=bool)


def overlap_dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """Return the overlap of two masks of one shape, 0 to 1 (Dice); 0 if both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 0.0
