"""Brain masks: by deepbet in T1w images, by a consensus of methods in b=0 images."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_fill_holes, gaussian_filter, median_filter

from dmri_fm.errors import ImageError
from dmri_fm.preprocess.mask_choice import pick_single
from dmri_fm.preprocess.mask_shape import (
    cut_necks,
    fill_slices,
    is_slab,
    largest_part,
    overlap_dice,
    thick_part,
    volume_ml,
)

logger = logging.getLogger(__name__)

#: Brains smaller or larger than this are doubted, ml. A slab may hold less of a brain.
PLAUSIBLE_ML = (600.0, 2300.0)

#: A method does not count where its volume is beyond these limits by more than this factor.
VOLUME_TOLERANCE = 1.2

#: A slab has to hold at least this much, ml.
SMALLEST_SLAB_ML = 150.0

#: Parts on which methods disagree are judged if they are thicker than twice this, mm: thinner
#: ones are rims, whose place is a matter of the threshold or of the registration.
PART_RADIUS_MM = 6.0

#: What hangs on the brain by a neck thinner than twice this is cut off, mm: eyes, most of all.
NECK_RADIUS_MM = 10.0

#: Radius of the median filter before thresholds, mm: wider ones bridge the skull to the scalp.
MEDIAN_RADIUS_MM = 4.0

#: Width of the weights of the local level of the brain, one standard deviation, mm.
LEVEL_WIDTH_MM = 12.0

#: The local level counts signal up to this multiple of the brain's median: CSF is brighter.
LEVEL_CEILING = 1.25

#: The local level is known where this share of its weights lies in the brain.
LEVEL_COVER = 0.02

#: Signal of tissue, as share of the way from background to brain: less is taken for background.
TISSUE_SHARE = 0.15

#: Agreement of two masks, Dice, below which the user is asked to look.
AGREEMENT_WARNING = 0.8

#: Names of the methods in `agreement`.
DEEPBET, OTSU, ANATOMY = "deepbet", "median_otsu", "T1w"

#: What the user can do about a doubtful mask that the report shows.
MASK_ADVICE = "check the mask in the report."


@dataclass(frozen=True, eq=False)
class BrainMask:
    """A brain mask and doubts about it.

    Attributes
    ----------
    mask
        Shape (X, Y, Z), bool.
    method
        Name of the method in the sidecar.
    proposals
        Masks of single methods, by name: "median_otsu", "deepbet" and, where it was given, "T1w".
    agreement
        Overlap of each two of them, Dice, 0 to 1, by their names, such as "median_otsu, deepbet".
    counted
        Overlap of the mask with each method that counted, Dice, by its name.
    warnings
        Doubts that the user should check; empty if there is none.
    """

    mask: NDArray[np.bool_]
    method: str
    proposals: Mapping[str, NDArray[np.bool_]]
    agreement: Mapping[str, float]
    counted: Mapping[str, float]
    warnings: tuple[str, ...] = ()

    @property
    def agreement_dice(self) -> float:
        """Lowest overlap of the mask with a method that counted; 1 if it is one method's own."""
        return min(self.counted.values())


def brain_mask(
    image: ArrayLike,
    affine: ArrayLike,
    *,
    contrast: Literal["b0", "t1w"],
    anatomy: ArrayLike | None = None,
    is_draft: bool = False,
) -> BrainMask:
    """Find the brain in a 3-D image.

    In a T1w image deepbet draws the mask (Fisch et al. 2024,
    doi:10.1016/j.compbiomed.2024.108845), in a b=0 image a consensus of it with median_otsu and
    the T1w image: :func:`find_consensus`. Where deepbet or median_otsu finds a brain of an
    impossible volume, it does not count, with a warning. Where median_otsu does not, there is no
    consensus: the T1w brain is taken if it agrees with deepbet's, else deepbet's.

    Parameters
    ----------
    image
        Shape (X, Y, Z), not negative.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    contrast
        Contrast of the image.
    anatomy
        Shape (X, Y, Z), bool: brain of the T1w image on the grid of a b=0 image. It does not count
        where it agrees badly with each other method that does, with a warning.
    is_draft
        Whether no one sees the mask: its warnings are returned, and not logged.

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
    smooth, threshold = _otsu_mask(data, matrix)
    masks = {OTSU: threshold, DEEPBET: _deepbet_mask(data, matrix)}
    if anatomy is not None:
        masks[ANATOMY] = np.asarray(anatomy, dtype=bool)
    agreement = {f"{a}, {b}": overlap_dice(masks[a], masks[b]) for a, b in combinations(masks, 2)}
    is_whole = not is_slab(data.shape, matrix)
    limits_ml = PLAUSIBLE_ML if is_whole else (SMALLEST_SLAB_ML, PLAUSIBLE_ML[1])
    volumes_ml = {name: volume_ml(mask, matrix) for name, mask in masks.items()}
    possible_ml = limits_ml[0] / VOLUME_TOLERANCE, limits_ml[1] * VOLUME_TOLERANCE
    lost = [name for name in (OTSU, DEEPBET) if not _is_within(volumes_ml[name], possible_ml)]
    warnings = [
        f"{name} found a brain of {volumes_ml[name]:.0f} ml, which did not count: {MASK_ADVICE}"
        for name in lost
        if len(lost) == 1 and _is_evidence(name, contrast, is_whole=is_whole)
    ]
    if contrast == "t1w" or OTSU in lost:
        has_anatomy = contrast == "b0" and is_placed(agreement, [OTSU])
        candidates = [*([ANATOMY] if has_anatomy else []), DEEPBET, OTSU]
        used = [pick_single({name: volumes_ml[name] for name in candidates}, possible_ml)]
        mask = masks[used[0]]
    else:
        others = [name for name in (DEEPBET,) if name not in lost]
        others += [ANATOMY] if is_placed(agreement, lost) else []
        used = [OTSU, *others]
        mask = find_consensus(threshold, [masks[n] for n in others], smooth=smooth, affine=matrix)
        warnings += describe_agreement(agreement, is_whole=is_whole)
    counted = {name: overlap_dice(mask, masks[name]) for name in used}
    final = {f"the consensus, {name}": overlap for name, overlap in counted.items()}
    warnings += describe_agreement(final, is_whole=is_whole)
    found_ml = volume_ml(mask, matrix)
    if not _is_within(found_ml, limits_ml):
        warnings.append(
            f"The brain mask holds {found_ml:.0f} ml; {limits_ml[0]:.0f} to {limits_ml[1]:.0f} "
            f"ml were expected: {MASK_ADVICE}"
        )
    for warning in () if is_draft else warnings:
        logger.warning(warning)
    return BrainMask(mask, _name_methods(used), masks, agreement, counted, tuple(warnings))


def is_placed(agreement: Mapping[str, float], lost: Sequence[str] = ()) -> bool:
    """Tell whether the brain of a T1w image agrees with any method that counts.

    One that lies elsewhere was misplaced by its registration.

    Examples
    --------
    >>> is_placed({"median_otsu, deepbet": 0.75, "median_otsu, T1w": 0.77, "deepbet, T1w": 0.96})
    True
    """
    return any(
        agreement.get(f"{name}, {ANATOMY}", 0.0) >= AGREEMENT_WARNING
        for name in (OTSU, DEEPBET)
        if name not in lost
    )


def _is_within(volume_ml: float, limits_ml: tuple[float, float]) -> bool:
    return limits_ml[0] <= volume_ml <= limits_ml[1]


def _is_evidence(name: str, contrast: str, *, is_whole: bool) -> bool:
    """Tell whether an impossible volume by a method is a reason for doubt.

    Of a T1w image median_otsu keeps scalp and neck, and of a slab deepbet loses much.
    """
    if contrast == "t1w":
        return name == DEEPBET
    return name == OTSU or is_whole


def find_consensus(
    threshold: NDArray[np.bool_],
    others: Sequence[NDArray[np.bool_]],
    *,
    smooth: NDArray[np.float32],
    affine: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return the consensus of several masks of a b=0 image.

    The threshold draws the edge, the others judge thick parts on which they disagree with it. What
    all of them see is added, where it is brighter than background: tissue at the dark end of a
    head. What two of them both deny is removed. deepbet alone removes nothing: it was trained on
    whole T1w heads, and loses tissue of b=0 images near the ends of the field of view and in
    tilted heads. Then gaps that a slice encloses are filled, where they are brighter than
    background, and what hangs on the brain by a neck, as eyes do, is cut off, but for thick parts
    that the threshold and all others see: a cerebellum behind a dark pons.

    This is done twice. The second time the threshold is halfway from background to the level of
    the brain around a voxel: the coil sees the middle of a head, and its end, less well.

    Parameters
    ----------
    threshold
        Shape (X, Y, Z): the mask of median_otsu.
    others
        Masks of the other methods, same grid; none, one or two.
    smooth
        Shape (X, Y, Z): the image that was thresholded.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    """
    head = np.logical_or.reduce([threshold, *others])
    if head.all() or not threshold.any():
        return threshold
    background, level = np.median(smooth[~head]), np.median(smooth[threshold])
    signal = smooth - background
    is_tissue = signal > TISSUE_SHARE * (level - background)
    agreed = threshold & np.logical_and.reduce(others) if others else np.zeros_like(threshold)
    draft = _judge(threshold, others, is_tissue, agreed, affine)
    ceiling = LEVEL_CEILING * (level - background)
    around, cover = _local_level(np.minimum(signal, ceiling), draft, affine)
    local = largest_part((signal > around / 2) & (cover > LEVEL_COVER))
    # What the first pass added stays, however dark its surroundings.
    return _judge(local | (draft & ~threshold), others, is_tissue, agreed, affine)


def _judge(
    threshold: NDArray[np.bool_],
    others: Sequence[NDArray[np.bool_]],
    is_tissue: NDArray[np.bool_],
    agreed: NDArray[np.bool_],
    affine: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Add to a threshold's mask and take from it what the other methods say, and clean it."""
    mask = threshold
    if others:
        extra = np.logical_and.reduce(others) & ~threshold & is_tissue
        mask = mask | thick_part(extra, affine, radius_mm=PART_RADIUS_MM)
    if len(others) > 1:
        denied = threshold & ~np.logical_or.reduce(others)
        mask = mask & ~thick_part(denied, affine, radius_mm=PART_RADIUS_MM)
    mask = fill_slices(mask, allowed=is_tissue)
    cut = cut_necks(mask, affine, radius_mm=NECK_RADIUS_MM)
    mask = cut | thick_part(mask & agreed & ~cut, affine, radius_mm=PART_RADIUS_MM)
    return np.asarray(binary_fill_holes(mask), dtype=bool)


def _local_level(
    signal: NDArray[np.float32], brain: NDArray[np.bool_], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean signal of the brain around each voxel, and the share of weights in it."""
    width = LEVEL_WIDTH_MM / np.linalg.norm(affine[:3, :3], axis=0)
    weights = brain.astype(np.float32)
    cover = gaussian_filter(weights, width, mode="nearest")
    total = gaussian_filter(signal * weights, width, mode="nearest")
    return total / np.maximum(cover, LEVEL_COVER), cover


def describe_agreement(agreement: Mapping[str, float], *, is_whole: bool) -> list[str]:
    """Return warnings about masks that agree badly; none if all agree well.

    Of a slab, deepbet loses much: that is no doubt about the others.

    Examples
    --------
    >>> describe_agreement({"median_otsu, deepbet": 0.71}, is_whole=False)
    []
    """
    return [
        f"The brain masks of {' and '.join(pair.split(', '))} overlap by {dice:.2f} only (Dice): "
        f"{MASK_ADVICE}"
        for pair, dice in agreement.items()
        if dice < AGREEMENT_WARNING and (is_whole or DEEPBET not in pair)
    ]


def name_mask(contrast: Literal["b0", "t1w"], *, has_anatomy: bool = False) -> str:
    """Return the method that the sidecar names for a mask of :func:`brain_mask` without doubts.

    Parameters
    ----------
    contrast
        Contrast of the image.
    has_anatomy
        Whether there is a T1w image beside the b=0 image.

    Examples
    --------
    >>> name_mask("t1w").startswith("deepbet"), name_mask("b0", has_anatomy=True)[-13:]
    (True, 'the T1w brain')
    """
    if contrast == "t1w":
        return _name_methods([DEEPBET])
    return _name_methods([OTSU, DEEPBET, *([ANATOMY] if has_anatomy else [])])


def _name_methods(names: Sequence[str]) -> str:
    titles = {
        OTSU: f"median_otsu (DIPY {version('dipy')})",
        DEEPBET: f"deepbet {version('deepbet')}",
        ANATOMY: "the T1w brain",
    }
    *first, last = (titles[name] for name in names)
    return f"consensus of {', '.join(first)} and {last}" if first else last


def name_given_mask(path: Path, by: str = "the input") -> str:
    """Return the entry of the sidecar about a mask that was made before, by a pipeline if known.

    Examples
    --------
    >>> name_given_mask(Path("T1w/Diffusion/nodif_brain_mask.nii.gz"))
    'taken from the input: nodif_brain_mask.nii.gz'
    """
    return f"taken from {by}: {path.name}"


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


def _otsu_mask(
    data: NDArray[np.float32], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the image after the median filter, and the mask of median_otsu."""
    from dipy.segment.threshold import otsu

    # The two steps of DIPY's median_otsu, whose median filter is as wide in voxels on all axes.
    edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
    radii = np.round(MEDIAN_RADIUS_MM / edges_mm).astype(int)
    radii = np.where(edges_mm < 1.01 * edges_mm.min(), np.maximum(radii, 1), radii)
    smooth = data
    for _ in range(2):
        smooth = median_filter(smooth, size=tuple(2 * radii + 1))
    mask = largest_part(smooth > otsu(smooth))
    return smooth, np.asarray(binary_fill_holes(mask), dtype=bool)
