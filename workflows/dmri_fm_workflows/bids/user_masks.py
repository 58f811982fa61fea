"""Brain masks of the user (`--brain-masks`): which image each belongs to, and whether it fits.

The folder has the layout of BIDS derivatives: `sub-*/[ses-*/]{dwi,anat}/`, and a mask the name of
the raw image whose voxels it has, `_desc-brain_mask` in place of its suffix. A name may lack words
of that of the image where it fits one image only. A mask that cannot be used leaves its
participant out: an automatic mask in its place would go unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dmri_fm.errors import InputError, LayoutError
from dmri_fm.preprocess.user_mask import read_user_mask
from dmri_fm.series import load_image
from dmri_fm_workflows.bids.folders import find_foreign_link, find_misplacement
from dmri_fm_workflows.bids.names import split_name
from dmri_fm_workflows.bids.records import (
    Dataset,
    DwiRun,
    DwiSeries,
    Participant,
    Problem,
    Session,
    UserMask,
)

#: End of a mask's name.
MASK = "desc-brain_mask"

#: Suffix of the images that masks are drawn on, by folder.
IMAGES = {"dwi": "dwi", "anat": "T1w"}


def attach_masks(dataset: Dataset, folder: Path) -> Dataset:
    """Return a raw dataset with the masks of a folder.

    Parameters
    ----------
    dataset
        Read before; masks of other participants are not looked at.
    folder
        Of the masks.

    Returns
    -------
    Dataset
        Participants with their masks; a problem in place of one whose masks cannot be used.

    Raises
    ------
    LayoutError
        If the folder has no mask of anybody.
    """
    folder = folder.resolve()
    if next(folder.glob(f"sub-*/**/*{MASK}.nii*"), None) is None:
        raise LayoutError(
            "no brain mask",
            path=folder,
            expected=f"sub-*/[ses-*/]dwi/*_{MASK}.nii.gz or sub-*/[ses-*/]anat/*_{MASK}.nii.gz",
            advice="name each mask as the raw image that it was drawn on, with "
            f"{MASK} in place of dwi or T1w",
        )
    participants, problems = [], list(dataset.problems)
    for participant in dataset.participants:
        reader = _MaskReader(dataset.root, folder, participant)
        if reader.errors:
            problems += [Problem(participant.label, error) for error in reader.errors]
        else:
            participants.append(reader.attach())
    return replace(dataset, participants=tuple(participants), problems=tuple(problems))


def count_masks(dataset: Dataset) -> tuple[int, int]:
    """Return the numbers of series, and of T1w images of sessions, with a mask of the user."""
    sessions = [s for p in dataset.participants for s in p.sessions]
    n_series = sum(x.user_mask is not None for s in sessions for x in s.series)
    return n_series, sum(s.user_t1w_mask is not None for s in sessions)


class _MaskReader:
    """The masks of one participant, by the image that each was drawn on.

    Attributes
    ----------
    found
        Mask by image.
    errors
        Of masks that cannot be used.
    """

    def __init__(self, root: Path, folder: Path, participant: Participant) -> None:
        self.root, self.folder, self.participant = root, folder, participant
        self.found: dict[Path, Path] = {}
        self.errors: list[InputError] = []
        runs = {r.path: r for s in participant.sessions for x in s.series for r in x.runs}
        for path in self._list():
            try:
                image = self._image_of(path)
                if image in self.found:
                    raise _two_masks(path, self.found[image], image)
                self._check(path, image, runs)
                self.found[image] = path
            except InputError as error:
                self.errors.append(error)

    def _list(self) -> list[Path]:
        """Return the masks in folders of images that are used, or that the dataset has not."""
        own = self.folder / f"sub-{self.participant.label}"
        if not own.is_dir():
            return []
        images = [i for s in self.participant.sessions for i in (*s.t1w[:1], *_paths(s.series))]
        places = {(self.folder / i.relative_to(self.root)).parent for i in images}
        return [
            path
            for path in sorted(own.rglob("*.nii*"))
            if _is_mask(path)
            and (
                path.parent in places
                or not (self.root / path.parent.relative_to(self.folder)).is_dir()
                or path.parent.name not in IMAGES
            )
        ]

    def _image_of(self, path: Path) -> Path:
        """Return the raw image that a mask was drawn on, by its name."""
        fault = find_misplacement(path, self.folder, suffix="mask") or find_foreign_link(
            path, self.folder
        )
        if fault is not None:
            raise fault
        beside = self.root / path.parent.relative_to(self.folder)
        suffix = IMAGES.get(beside.name)
        images = {
            image: entities
            for image in (sorted(beside.glob(f"*_{suffix}.nii*")) if suffix else ())
            for entities in (split_name(image)[0],)
        }
        own = {k: v for k, v in split_name(path)[0].items() if k != "desc"}
        exact = [image for image, entities in images.items() if entities == own]
        fitting = exact or [i for i, entities in images.items() if own.items() <= entities.items()]
        if len(fitting) != 1:
            raise _no_image(path, own, fitting, suffix or "dwi or T1w")
        return fitting[0]

    def _check(self, path: Path, image: Path, runs: Mapping[Path, DwiRun]) -> None:
        """Read a mask of an image, if that is used; one that is filtered out has no say."""
        if image in runs:
            run = runs[image]
            read_user_mask(path, image, shape=run.shape[:3], affine=run.affine)
        elif any(image in s.t1w[:1] for s in self.participant.sessions):
            head = load_image(image, ndim=3)
            read_user_mask(path, image, shape=head.shape, affine=head.affine)

    def attach(self) -> Participant:
        """Return the participant with these masks."""
        sessions = tuple(self._attach_session(s) for s in self.participant.sessions)
        return replace(self.participant, sessions=sessions)

    def _attach_session(self, session: Session) -> Session:
        series = tuple(self._attach_series(x) for x in session.series)
        of_t1w = self.found.get(session.t1w[0]) if session.t1w else None
        return replace(session, series=series, user_t1w_mask=of_t1w)

    def _attach_series(self, series: DwiSeries) -> DwiSeries:
        """Return a series with the mask of its first run that has one."""
        masks = [UserMask(self.found[r.path], r) for r in series.runs if r.path in self.found]
        if not masks:
            return series
        first, *others = masks
        said = tuple(
            f"{series.name}: {mask.path.name} is not used: the runs are merged, and "
            f"{first.path.name} is that of an earlier one."
            for mask in others
        )
        return replace(series, user_mask=first, warnings=(*series.warnings, *said))


def _paths(series: Sequence[DwiSeries]) -> Iterator[Path]:
    return (run.path for x in series for run in x.runs)


def _is_mask(path: Path) -> bool:
    entities, suffix, _ = split_name(path)
    return suffix == "mask" and entities.get("desc") == "brain"


def _no_image(
    path: Path, own: Mapping[str, str], fitting: Sequence[Path], suffix: str
) -> LayoutError:
    """Return the error of a mask whose name fits no image, or several."""
    if space := own.get("space"):
        return LayoutError(
            f"a brain mask in the space {space}",
            path=path,
            expected="a mask on the voxels of a raw image, without `space` in its name",
            advice="resample it onto the raw image by nearest neighbour, and name it as that "
            "image; from-ACPC_to-* transforms of this app lie in its output folder",
        )
    names = " and ".join(image.name for image in fitting)
    return LayoutError(
        f"a brain mask whose name fits {names or f'no {suffix} image of this folder'}",
        path=path,
        expected=f"the name of the image that it was drawn on, with {MASK} in place of {suffix}",
        advice="rename it; each mask is that of one image",
    )


def _two_masks(path: Path, other: Path, image: Path) -> LayoutError:
    return LayoutError(
        f"a second brain mask of {image.name}, beside {other.name}",
        path=path,
        expected="one mask for an image",
        advice="move one of them away",
    )
