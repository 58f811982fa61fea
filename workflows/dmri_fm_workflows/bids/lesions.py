"""The mask of lesions beside an anatomical image, named as BIDS and fmriprep name it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dmri_fm.content import require_content
from dmri_fm.errors import ImageError, LayoutError
from dmri_fm.normalise.lesion import read_lesion_mask
from dmri_fm.series import load_image
from dmri_fm_workflows.bids.names import session_of

#: Ends of names of a lesion mask, after the entities of the image, with or without its suffix.
LESION = "label-lesion"
SUFFIXES = ("roi", "mask")


def is_lesion_mask(path: Path) -> bool:
    """Tell a lesion mask by its name, in older forms too, which BIDS does not know.

    Examples
    --------
    >>> is_lesion_mask(Path("anat/sub-01_T1w_label-lesion_roi.nii.gz"))
    True
    """
    ends = tuple(f"_{LESION}_{word}" for word in SUFFIXES)
    return path.parent.name == "anat" and path.name.partition(".")[0].endswith(ends)


def describe_unused_masks(
    images: Iterable[Path], session: str, used: Path | None
) -> tuple[str, ...]:
    """Name the lesion masks of a session, and of what lies above the sessions, that are not used.

    Parameters
    ----------
    images
        All images of the participant.
    session
        Label of the session, empty for none.
    used
        Mask of the anatomical image that is used, or None.
    """
    return tuple(
        f"{path.name} is not used: it is not named as a lesion mask of the anatomical image is."
        for path in sorted(images)
        if is_lesion_mask(path) and path != used and session_of(path) in ("", session)
    )


def find_lesion_mask(image: Path) -> Path | None:
    """Return the lesion mask of a raw anatomical image; None if it has none.

    The mask of `sub-01_acq-x_T1w` is `sub-01_acq-x_label-lesion_roi` (or `_mask`), or, as older
    versions of fmriprep have it, `sub-01_acq-x_T1w_label-lesion_roi`.

    Parameters
    ----------
    image
        The image, whose folder is looked through.

    Raises
    ------
    InputError
        If there are several, or it cannot be that of the image.
    """
    stem = image.name.partition(".")[0]
    entities, _, suffix = stem.rpartition("_")
    names = {
        f"{start}_{LESION}_{word}{ending}"
        for start in (entities, f"{entities}_{suffix}")
        for word in SUFFIXES
        for ending in (".nii", ".nii.gz")
    }
    found = sorted(p for p in image.parent.glob(f"*{LESION}_*.nii*") if p.name in names)
    if not found:
        return None
    if len(found) > 1:
        raise LayoutError(
            f"is one of {len(found)} lesion masks of {image.name}: "
            f"{', '.join(p.name for p in found)}",
            path=found[0],
            expected="one mask, with all lesions of the image",
            advice="join them in one file, and move the others away",
        )
    require_content(found[0], ImageError)
    head = load_image(image, ndim=3)
    shape = (int(head.shape[0]), int(head.shape[1]), int(head.shape[2]))
    read_lesion_mask(found[0], image, shape=shape, affine=np.asarray(head.affine))
    return found[0]
