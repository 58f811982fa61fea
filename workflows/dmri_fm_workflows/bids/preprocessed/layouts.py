"""Layouts of preprocessed datasets without BIDS names: which file lies where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dmri_fm_workflows.bids.listing import list_entries


@dataclass(frozen=True)
class T1wFiles:
    """A T1-weighted image of a layout, relative to the participant's folder.

    Attributes
    ----------
    image
        The image.
    mask
        Its brain mask; that of the brain alone is the image itself. None: there is none.
    is_unbiased
        Whether its intensity bias was corrected.
    """

    image: str
    mask: str | None
    is_unbiased: bool

    @property
    def is_brain(self) -> bool:
        """Whether nothing but the brain is in the image."""
        return self.mask == self.image


@dataclass(frozen=True)
class FolderLayout:
    """Where a pipeline writes its files, relative to the participant's folder.

    Attributes
    ----------
    by
        Name of the pipeline, for texts.
    name
        Name of a participant's folder, with the groups `subject` and, if there is one, `session`.
    name_rule
        The same in words.
    image, bvals
        Series, and its b-values.
    bvecs
        b-vectors, best first; only the first is known to have been turned with the head.
    masks
        Brain masks on the grid of the series, best first.
    t1w
        T1-weighted images, best first.
    space
        Space of the series: `ACPC`, with the T1w image, or its own.
    deviation
        Deviation of the gradient coils; None: the layout has none.
    named_inside
        Folder in which FreeSurfer's folder of the participant lies; None: there is none.
    """

    by: str
    name: re.Pattern[str]
    name_rule: str
    image: str
    bvals: str
    bvecs: tuple[str, ...]
    masks: tuple[str, ...]
    t1w: tuple[T1wFiles, ...]
    space: Literal["ACPC"] | None = None
    deviation: str | None = None
    named_inside: str | None = None

    def list_folders(self, root: Path) -> list[Path]:
        """Return the folders of a dataset that hold a folder of the series, by name.

        A folder that this user may not look into is not among them.
        """
        return [p for p in list_entries(root) if self._has_series(p)]

    def _has_series(self, folder: Path) -> bool:
        try:
            return (folder / Path(self.image).parent).is_dir()
        except PermissionError:
            return False

    def find_owner(self, name: str) -> tuple[str, str] | None:
        """Return participant and session, empty if none, that the name of a folder tells."""
        owner = self.name.fullmatch(name)
        if owner is None:
            return None
        return owner["subject"], owner.groupdict().get("session") or ""


HCP = FolderLayout(
    by="the HCP minimal preprocessing pipelines",
    name=re.compile(r"(?:sub-)?(?P<subject>[0-9A-Za-z]+)(?:_(?P<session>[0-9A-Za-z]+)_MR)?"),
    name_rule="<participant>, or <participant>_<visit>_MR, of letters and digits, such as 100307 "
    "or HCA6002236_V1_MR",
    image="T1w/Diffusion/data.nii.gz",
    bvals="T1w/Diffusion/bvals",
    bvecs=("T1w/Diffusion/bvecs",),
    masks=("T1w/Diffusion/nodif_brain_mask.nii.gz",),
    t1w=(
        T1wFiles("T1w/T1w_acpc_dc_restore.nii.gz", "T1w/brainmask_fs.nii.gz", is_unbiased=True),
        T1wFiles(
            "T1w/T1w_acpc_dc_restore_brain.nii.gz",
            "T1w/T1w_acpc_dc_restore_brain.nii.gz",
            is_unbiased=True,
        ),
        T1wFiles("T1w/T1w_acpc_dc_restore.nii.gz", None, is_unbiased=True),
        T1wFiles("T1w/T1w_acpc_dc_restore_1.25.nii.gz", None, is_unbiased=True),
    ),
    space="ACPC",
    deviation="T1w/Diffusion/grad_dev.nii.gz",
    named_inside="T1w",
)

UK_BIOBANK = FolderLayout(
    by="the pipeline of UK Biobank",
    name=re.compile(
        r"(?:sub-)?(?P<subject>[0-9A-Za-z]+?)(?:_20250)?(?:_(?P<session>[0-9])_[0-9])?"
    ),
    name_rule="<participant>, <participant>_<instance>_<array> or "
    "<participant>_20250_<instance>_<array>, such as 1234567 or 1234567_20250_2_0",
    image="dMRI/dMRI/data_ud.nii.gz",
    bvals="dMRI/dMRI/bvals",
    bvecs=("dMRI/dMRI/data.eddy_rotated_bvecs", "dMRI/dMRI/bvecs"),
    masks=(
        "dMRI/dMRI/nodif_brain_mask_ud.nii.gz",
        "dMRI/dMRI.bedpostX/nodif_brain_mask.nii.gz",
        "fieldmap/fieldmap_mask_ud.nii.gz",
    ),
    t1w=(
        T1wFiles("T1/T1_unbiased.nii.gz", "T1/T1_brain_mask.nii.gz", is_unbiased=True),
        T1wFiles("T1/T1.nii.gz", "T1/T1_brain_mask.nii.gz", is_unbiased=False),
        T1wFiles("T1/T1_unbiased_brain.nii.gz", "T1/T1_unbiased_brain.nii.gz", is_unbiased=True),
        T1wFiles("T1/T1_brain.nii.gz", "T1/T1_brain.nii.gz", is_unbiased=False),
        T1wFiles("T1/T1.nii.gz", None, is_unbiased=False),
    ),
)

LAYOUTS = (HCP, UK_BIOBANK)
