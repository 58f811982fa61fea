"""Preprocessed datasets without BIDS names: a folder for each participant, with fixed file names.

The name of the folder alone says whose scan it holds. It is checked against every other name that
tells a participant, and a file that is kept in another participant's folder is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dmri_fm.content import require_content
from dmri_fm.errors import InputError, LayoutError
from dmri_fm.series import load_image
from dmri_fm_workflows.bids.ages import read_age
from dmri_fm_workflows.bids.dataset import check_labels
from dmri_fm_workflows.bids.folders import find_link_out
from dmri_fm_workflows.bids.prepared import PreparedT1w, Preprocessing
from dmri_fm_workflows.bids.preprocessed.gradients import GradientFiles
from dmri_fm_workflows.bids.preprocessed.runs import open_series
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.records import DwiSeries, Participant, Problem, Session


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
        """Return the folders of a dataset that hold a folder of the series, by name."""
        inside = Path(self.image).parent
        return sorted(p for p in root.iterdir() if p.is_dir() and (p / inside).is_dir())


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


def read_folders(
    reading: Reading, layout: FolderLayout, wanted: Sequence[str] | None
) -> tuple[list[Participant], list[Problem]]:
    """Read the participants of a dataset whose folders have fixed file names.

    Parameters
    ----------
    reading
        Of the dataset.
    layout
        Where its files are.
    wanted
        Labels of participants; all if None.

    Raises
    ------
    LayoutError
        If a participant that is asked for is not there.
    """
    problems: list[Problem] = []
    visits: dict[str, list[tuple[str, Path]]] = {}
    for folder in layout.list_folders(reading.root):
        if reading.is_ignored(folder, is_folder=True):
            continue
        owner = layout.name.fullmatch(folder.name)
        if owner is None:
            problems.append(Problem(None, _misnamed(folder, layout)))
            continue
        visits.setdefault(owner["subject"], []).append((owner["session"] or "", folder))
    if wanted is not None:
        labels = check_labels(
            wanted,
            sorted(visits),
            reading.root,
            advice=f"participants are named by their folders: {layout.name_rule}",
        )
        visits = {label: visits[label] for label in labels}
        problems = []
    participants = []
    for label, folders in sorted(visits.items()):
        sessions, of_label = _read_sessions(reading, layout, label, folders)
        problems += of_label
        if sessions:
            participants.append(Participant(label, sessions))
    return participants, problems


def _read_sessions(
    reading: Reading, layout: FolderLayout, label: str, visits: Sequence[tuple[str, Path]]
) -> tuple[tuple[Session, ...], list[Problem]]:
    sessions, problems = [], []
    for session, folder in sorted(visits):
        if not reading.includes(session):
            continue
        same = [other for s, other in visits if s == session and other != folder]
        try:
            if same:
                raise LayoutError(
                    f"names the same participant and visit as {same[0].name}",
                    path=folder,
                    expected="one folder for each",
                    advice="find out whose scans they are, and rename or move one of them",
                )
            sessions.append(_read_session(reading, layout, label, session, folder))
        except InputError as error:
            problems.append(Problem(label, error))
    return tuple(sessions), problems


def _read_session(
    reading: Reading, layout: FolderLayout, label: str, session: str, folder: Path
) -> Session:
    _check_owner(layout, folder)
    warnings: list[str] = []
    series = _open_series(reading, layout, label, session, folder)
    t1w = _find_t1w(layout, folder)
    if t1w is None:
        listed = ", ".join(dict.fromkeys(files.image for files in layout.t1w))
        warnings.append(f"{folder.name} has no T1-weighted image ({listed}).")
    age = read_age(reading.root, label, session)
    return Session(
        session or None, (t1w.path,) if t1w else (), (series,), tuple(warnings), age, t1w
    )


def _check_owner(layout: FolderLayout, folder: Path) -> None:
    """Refuse a folder inside of which another participant is named."""
    if fault := find_link_out(folder, folder):
        raise fault
    if layout.named_inside is None:
        return
    for path in sorted((folder / layout.named_inside).iterdir()):
        is_of_freesurfer = path.is_dir() and (path / "mri").is_dir()
        if is_of_freesurfer and path.name != folder.name:
            raise LayoutError(
                f"FreeSurfer's folder in it is that of {path.name}",
                path=folder,
                expected=f"{layout.named_inside}/{folder.name}",
                advice="find out whose scans they are, and rename the folder",
            )


def _open_series(
    reading: Reading, layout: FolderLayout, label: str, session: str, folder: Path
) -> DwiSeries:
    bvec = _find(folder, layout.bvecs) or folder / layout.bvecs[0]
    warnings = []
    if bvec != folder / layout.bvecs[0]:
        warnings.append(
            f"{Path(layout.bvecs[0]).name} is missing, so {bvec.name} is read: whether these "
            "b-vectors were turned with the head is not known."
        )
    mask = _find(folder, layout.masks)
    if mask is None:
        warnings.append(
            f"{folder.name} has no brain mask of the series ({', '.join(layout.masks)}): one is "
            "made."
        )
    preprocessing = Preprocessing(
        by=layout.by,
        space=layout.space,
        mask=mask,
        gradient_deviation=_find(folder, [layout.deviation] if layout.deviation else []),
    )
    image, bval = folder / layout.image, folder / layout.bvals
    for path in (image, bval, bvec):
        if fault := find_link_out(path, folder):
            raise fault
    entities = {"subject": label} | ({"session": session} if session else {})
    return open_series(
        image,
        GradientFiles(bval=bval, bvec=bvec),
        entities=entities,
        preprocessing=preprocessing,
        root=reading.root,
        options=reading.gradient_options,
        warnings=warnings,
    )


def _find(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of some files that exists, fetched or not, and is the participant's own."""
    for name in names:
        path = folder / name
        require_content(path, LayoutError)
        if path.exists():
            if fault := find_link_out(path, folder):
                raise fault
            return path
    return None


def _find_t1w(layout: FolderLayout, folder: Path) -> PreparedT1w | None:
    for files in layout.t1w:
        image = _find(folder, [files.image])
        mask = _find(folder, [files.mask]) if files.mask else None
        if image is None or (files.mask and mask is None):
            continue
        load_image(image, ndim=3)
        return PreparedT1w(
            path=image,
            mask=mask,
            is_brain=files.is_brain,
            is_unbiased=files.is_unbiased,
            is_acpc=layout.space == "ACPC",
        )
    return None


def _misnamed(folder: Path, layout: FolderLayout) -> LayoutError:
    return LayoutError(
        f"{folder.name!r} does not tell participant and visit",
        path=folder,
        expected=layout.name_rule,
        advice="rename the folder, or list it in .bidsignore",
    )
