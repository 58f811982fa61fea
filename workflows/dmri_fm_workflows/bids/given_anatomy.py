"""Anatomy of another pipeline's derivatives (`--derivatives`): which files, and whose they are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.content import require_content
from dmri_fm.errors import DmriError, ImageError, InputError, LayoutError
from dmri_fm.normalise.given_anatomy import ROUND_TRIP_MM, judge_transforms
from dmri_fm.normalise.grid import Image3D
from dmri_fm.normalise.registration import GOOD_DICE
from dmri_fm.normalise.template import TEMPLATE_NAME, load_template
from dmri_fm.normalise.tissue import TISSUES
from dmri_fm.normalise.transforms import read_point_map
from dmri_fm.preprocess.mask_shape import load_given_mask
from dmri_fm.series import load_image, read_array, require_grid
from dmri_fm_workflows.bids.dataset import list_participant_images
from dmri_fm_workflows.bids.folders import find_foreign_link, find_misplacement
from dmri_fm_workflows.bids.names import contrast_of, session_of, split_name
from dmri_fm_workflows.bids.prepared import PreparedT1w, TemplateTransforms, TissueImages
from dmri_fm_workflows.bids.preprocessed.derivatives import (
    MASK,
    T1W,
    describe_pipeline,
    is_named,
    read_warnings,
    space_of,
)
from dmri_fm_workflows.bids.reading import Reading
from dmri_fm_workflows.bids.records import Dataset, Participant, Problem, Session, describe_t2w

#: Entries of a sidecar that name the files an image was made from.
_SOURCES = ("Sources", "RawSources")

_SUBJECT = re.compile(r"(?<![0-9A-Za-z])sub-([0-9A-Za-z+]+)")

#: What nitransforms (TransformIOError is an OSError) and h5py raise at files that are none.
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, NotImplementedError)

#: Names of the frame of the T1w image in file names, where it has no `space`.
_OWN_FRAME = "T1w"


def take_anatomy(dataset: Dataset, root: Path) -> Dataset:
    """Put the anatomy of derivatives in place of the T1w images of a raw dataset.

    A session whose anatomy is missing or does not fit becomes a problem, and is not processed:
    nothing is computed in its place.

    Parameters
    ----------
    dataset
        The raw dataset.
    root
        Folder of the derivatives, with `dataset_description.json`.

    Raises
    ------
    LayoutError
        If the folder is no dataset.
    """
    reader = AnatomyReader(root)
    participants: list[Participant] = []
    problems = list(dataset.problems)
    for participant in dataset.participants:
        sessions = []
        for session in participant.sessions:
            try:
                sessions.append(reader.place(participant.label, session))
            except InputError as error:
                problems.append(Problem(participant.label, error))
        if sessions:
            participants.append(replace(participant, sessions=tuple(sessions)))
    return replace(dataset, participants=tuple(participants), problems=tuple(problems))


class AnatomyReader:
    """Finds the prepared anatomy of participants in a dataset of derivatives.

    Parameters
    ----------
    root
        Its folder.

    Raises
    ------
    LayoutError
        If it has no description.
    """

    def __init__(self, root: Path) -> None:
        self._reading = Reading(Path(root).resolve())
        self._pipeline = describe_pipeline(self._reading.root)

    def place(self, label: str, session: Session) -> Session:
        """Return a session of the raw dataset with the anatomy of the derivatives.

        Parameters
        ----------
        label
            Of the participant, without `sub-`.
        session
            Its raw T1w image is kept for comparison.

        Raises
        ------
        InputError
            If there is none, or it does not fit, or is somebody else's.
        """
        if session.user_t1w_mask is not None:
            raise LayoutError(
                f"is a mask of the raw T1w image of sub-{label}, and --derivatives brings another "
                "image",
                path=session.user_t1w_mask,
                expected="the mask of the derivatives, or the raw T1w image",
                advice="take this mask out of --brain-masks, or leave --derivatives out",
            )
        path, warnings = self._choose(label, session.label or "")
        stated = read_warnings(self._reading.sidecars.metadata(path))
        warnings += tuple(f"The sidecar of {path.name} warns: {w}" for w in stated)
        # A T2-weighted image cannot be compared with the prepared T1-weighted one.
        acquired = next((p for p in session.t1w if contrast_of(p) == "T1w"), None)
        if acquired is None:
            session, said = _leave_t2w(session)
            warnings += said
        is_acpc = space_of(path) == "ACPC" or self._pipeline.is_acpc
        if acquired is None and is_acpc:
            raise LayoutError(
                "lies on the axes of a template, and the raw dataset has no T1w image that can "
                f"be used of sub-{label}",
                path=path,
                expected="the T1w image as acquired, which tells where the head lay in the "
                "scanner and that it is the same person's",
                advice="add it to the raw dataset, or leave --derivatives out",
            )
        if acquired is None:
            warnings += (
                f"{path.name} of {self._pipeline.shown} could not be compared with the T1w image "
                "as acquired, as the dataset has none that can be used: check that it is the "
                "same person's.",
            )
        prepared = PreparedT1w(
            path=path,
            mask=self._find_mask(path, label),
            is_unbiased=True,
            is_acpc=is_acpc,
            by=self._pipeline.shown,
            acquired=acquired,
        )
        tissue, said = self._find_tissue(path, label)
        prepared, warnings = replace(prepared, tissue=tissue), (*warnings, *said)
        transforms, templates = self._find_transforms(path, label)
        if transforms is not None and prepared.mask is not None:
            check_transforms(transforms, prepared.mask)
            prepared = replace(prepared, transforms=transforms)
        elif transforms is not None:
            warnings += (
                f"{transforms.to_template.name} is not taken: without a brain mask of "
                f"{path.name} it cannot be checked.",
            )
        return replace(
            session,
            t1w=(path,),
            prepared_t1w=replace(prepared, templates=templates),
            warnings=(*session.warnings, *warnings),
        )

    def _choose(self, label: str, session: str) -> tuple[Path, tuple[str, ...]]:
        """Return the T1w image: of the session, else above the sessions, else of another."""
        folder = self._reading.root / f"sub-{label}"
        if not folder.is_dir():
            raise LayoutError(
                f"no folder of sub-{label}",
                path=self._reading.root,
                expected=f"sub-{label}/[ses-*/]anat/*_{T1W}.nii.gz",
                advice="run that pipeline for this participant, or process it without "
                "--derivatives",
            )
        images, faults = list_participant_images(folder, self._reading)
        if faults:
            raise faults[0]
        found = [p for p in images if p.parent.name == "anat" and is_named(p, T1W)]
        own = [p for p in found if space_of(p) in (None, "ACPC")]
        others = sorted({session_of(p) for p in own} - {session, ""})
        for source in dict.fromkeys((session, "", *others)):
            here = [p for p in own if session_of(p) == source]
            if len(here) > 1:
                raise _several(here)
            if here:
                self._check(here[0], label, suffix="T1w")
                load_image(here[0], ndim=3)
                is_other = source not in (session, "")
                where = f"ses-{session}" if session else "the participant's folder"
                said = (
                    f"{where} has no T1w image in the derivatives of {self._pipeline.shown}; "
                    f"{here[0].name} is used."
                )
                return here[0], (said,) if is_other else ()
        raise LayoutError(
            "no prepared T1w image" + _in_other_spaces(found),
            path=folder,
            expected=f"anat/*_{T1W}.nii.gz in space-ACPC, or without `space`",
            advice="run that pipeline for this participant, or process it without --derivatives",
        )

    def _check(self, path: Path, label: str, *, suffix: str) -> None:
        """Refuse a file whose name, link or sidecar tells another owner than its folder."""
        root = self._reading.root
        fault = find_misplacement(path, root, suffix=suffix, datatype="anat")
        if fault := fault or find_foreign_link(path, root):
            raise fault
        require_content(path, LayoutError)
        owners = set(_list_subjects(self._reading.sidecars.metadata(path)))
        if foreign := sorted(owners - {label}):
            raise LayoutError(
                f"its sidecar names files of sub-{', sub-'.join(foreign)} as its sources",
                path=path,
                expected=f"files of sub-{label}",
                advice="find out whose image it is; where participants were given other labels on "
                "purpose, correct Sources in the sidecar",
            )

    def _find_mask(self, image: Path, label: str) -> Path | None:
        """Return the brain mask of an image, on its grid; None if the derivatives have none."""
        stem = image.name.partition(".")[0].removesuffix(T1W)
        beside = [p for p in sorted(image.parent.glob(f"*{MASK}.nii*")) if is_named(p, MASK)]
        fitting = [p for p in beside if p.name.partition(".")[0] == f"{stem}{MASK}"]
        if not fitting and beside:
            raise LayoutError(
                f"has no brain mask in its space, but there is {beside[0].name}",
                path=image,
                expected=f"{stem}{MASK}.nii.gz",
                advice="add the mask of this image, or move the others away: the brain is masked "
                "here then",
            )
        if not fitting:
            return None
        self._check(fitting[0], label, suffix="mask")
        head = load_image(image, ndim=3)
        shape = tuple(int(n) for n in head.shape)
        load_given_mask(fitting[0], image, shape=shape, affine=head.affine)
        return fitting[0]

    def _find_tissue(self, image: Path, label: str) -> tuple[TissueImages | None, tuple[str, ...]]:
        """Return labels and probabilities of an image, on its grid; a warning if some lack."""
        stem = image.name.partition(".")[0].removesuffix(T1W)
        names = [f"{stem}dseg", *(f"{stem}label-{t}_probseg" for t in TISSUES)]
        ending = image.name.partition(".")[2]
        listed = [image.with_name(f"{name}.{ending}") for name in names]
        found = [path for path in listed if path.exists()]
        if len(found) != len(names):
            there = ", ".join(p.name for p in found)
            return None, (
                (f"{there} not taken: tissue needs `dseg`, and `probseg` of GM, WM and CSF.",)
                if found
                else ()
            )
        head = load_image(image, ndim=3)
        for path in found:
            self._check(path, label, suffix="dseg" if path == found[0] else "probseg")
            require_grid(
                load_image(path, ndim=3),
                shape=tuple(int(n) for n in head.shape),
                affine=head.affine,
                path=path,
                noun="segmentation",
                expected=f"the grid of {image.name}",
                advice="take the one that was written beside the image; or move all of them away: "
                "the tissue is segmented here then",
            )
        return TissueImages(*found), ()

    def _find_transforms(
        self, image: Path, label: str
    ) -> tuple[TemplateTransforms | None, tuple[str, ...]]:
        """Return the transforms to this app's template and back, and names of other templates."""
        frame = space_of(image) or _OWN_FRAME
        named = [(split_name(p)[0], p) for p in sorted(image.parent.glob("*_xfm.*"))]
        known = [
            (entities.get("from"), entities.get("to"), p)
            for entities, p in named
            if p.suffix in (".txt", ".h5") and entities.get("mode") == "image"
        ]
        templates = {to for start, to, _ in known if start == frame and str(to).startswith("MNI")}
        forward = [p for start, to, p in known if (start, to) == (frame, TEMPLATE_NAME)]
        backward = [p for start, to, p in known if (start, to) == (TEMPLATE_NAME, frame)]
        others = tuple(sorted(str(name) for name in templates - {TEMPLATE_NAME}))
        if not forward and not backward:
            return None, others
        if len(forward) != 1 or len(backward) != 1:
            raise LayoutError(
                f"{len(forward)} transforms to {TEMPLATE_NAME} and {len(backward)} back",
                path=image.parent,
                expected="one of each",
                advice="add the one that is missing, or move the others away: the registration "
                "is made here then",
            )
        for path in (*forward, *backward):
            self._check(path, label, suffix="xfm")
        return TemplateTransforms(forward[0], backward[0]), others


def check_transforms(transforms: TemplateTransforms, mask: Path) -> None:
    """Refuse transforms that are not inverse to each other, or miss the template's brain.

    Parameters
    ----------
    transforms
        Of the image.
    mask
        Its brain mask.

    Raises
    ------
    ImageError
        If they do not fit.
    """
    image = load_image(mask, ndim=3)
    brain = Image3D(read_array(image, path=mask), np.asarray(image.affine))
    fit = judge_transforms(
        brain,
        load_template(2),
        template2image=_open_map(transforms.to_template),
        image2template=_open_map(transforms.from_template),
    )
    advice = (
        "find out whose transforms they are and between which spaces; or move them away: the "
        "registration is made here then"
    )
    if not fit.round_trip_mm <= ROUND_TRIP_MM:
        raise ImageError(
            f"{transforms.from_template.name} is not its inverse: points come back "
            f"{fit.round_trip_mm:.1f} mm away",
            path=transforms.to_template,
            expected=f"at most {ROUND_TRIP_MM:g} mm",
            advice=advice,
        )
    if fit.dice < GOOD_DICE:
        raise ImageError(
            f"it lays {mask.name} on {fit.dice:.2f} of the template's brain only (Dice)",
            path=transforms.to_template,
            expected=f"an overlap of {GOOD_DICE:g} or more",
            advice=advice,
        )


def _open_map(path: Path) -> Any:
    try:
        return read_point_map(path)
    except DmriError:
        raise
    except _UNREADABLE as error:
        raise ImageError(
            f"cannot be read as a transform ({type(error).__name__}: {error})",
            path=path,
            expected="an affine of ITK (.txt), or a composite with one displacement field (.h5)",
            advice="move it away, with its inverse: the registration is made here then",
        ) from None


def _list_subjects(metadata: Mapping[str, Any]) -> Iterator[str]:
    """Yield the labels of participants in the sources that a sidecar names."""
    for key in _SOURCES:
        entries = metadata.get(key)
        for entry in entries if isinstance(entries, list) else [entries]:
            if isinstance(entry, str):
                yield from _SUBJECT.findall(entry)


def _several(paths: Sequence[Path]) -> LayoutError:
    return LayoutError(
        f"{len(paths)} prepared T1w images: {', '.join(p.name for p in paths)}",
        path=paths[0].parent,
        expected="one, in space-ACPC or without `space`",
        advice="move the others away, or list them in .bidsignore",
    )


def _in_other_spaces(found: Sequence[Path]) -> str:
    spaces = sorted({str(space_of(p)) for p in found})
    return f", but for those in space {', '.join(spaces)}" if spaces else ""


def _leave_t2w(session: Session) -> tuple[Session, tuple[str, ...]]:
    """Leave the raw T2w image of a session: what is said of it, and its lesion mask."""
    kept = tuple(w for w in session.warnings if w not in map(describe_t2w, session.t1w))
    mask = session.lesion_mask
    said = (
        ()
        if mask is None
        else (f"{mask.name} is not used: nothing registers its T2w image to the prepared one.",)
    )
    return replace(session, lesion_mask=None, warnings=kept), said
