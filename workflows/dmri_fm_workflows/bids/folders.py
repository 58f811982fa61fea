"""Owner of a file: its folder names participant and session, and its own name has to agree.

A file of `sub-X/[ses-Y/]dwi/` is of participant X and session Y. A file whose name says otherwise,
lacks a label or is ambiguous has no known owner. Such files are refused: each function here
returns the error, for the caller to raise or to list.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from dmri_fm.errors import LayoutError
from dmri_fm_workflows.bids.names import find_fault, plain_label, split_name

#: Folders of a participant or session that are read. Others are not.
DATATYPES = ("anat", "dwi", "fmap")

_SEPARATORS = str.maketrans("-.", "__")


@dataclass(frozen=True)
class Owner:
    """Participant and session that a folder belongs to.

    Attributes
    ----------
    subject
        Label without `sub-`; None for a folder above the participants.
    session
        Label without `ses-`; None for a folder outside the sessions.
    is_datatype
        Whether it is a folder of images, not one above them.
    """

    subject: str | None
    session: str | None
    is_datatype: bool


def owner_of(folder: Path, root: Path) -> Owner:
    """Return the owner of a folder at or below the dataset's root.

    Examples
    --------
    >>> owner_of(Path("/data/sub-01/ses-a/dwi"), Path("/data"))
    Owner(subject='01', session='a', is_datatype=True)
    """
    subject, session = (*folder.relative_to(root).parts, "", "")[:2]
    if not subject.startswith("sub-"):
        return Owner(None, None, False)
    return Owner(
        subject.removeprefix("sub-"),
        session.removeprefix("ses-") if session.startswith("ses-") else None,
        folder.name in DATATYPES,
    )


def claimed_suffix(name: str, suffixes: Collection[str]) -> str | None:
    """Return the suffix among `suffixes` that a file claims to have; None if none.

    An invalid name claims a suffix that it holds anywhere as a word of its own, in any case:
    whoever wrote `sub-01_DWI_old.nii.gz` meant a diffusion scan.

    Examples
    --------
    >>> claimed_suffix("sub-01_acq-T1w_dwi.nii.gz", ["dwi"])
    'dwi'
    >>> claimed_suffix("sub-01_DWI_old.nii.gz", ["dwi"]), claimed_suffix("sub-01_t1w.nii", ["T1w"])
    ('dwi', 'T1w')
    >>> claimed_suffix("sub-01_acq-dwi_ADC.nii.gz", ["dwi"])
    """
    words = name.translate(_SEPARATORS).lower().split("_")
    if find_fault(name) is None:
        words = [split_name(Path(name))[1].lower()]
    return next((suffix for suffix in suffixes if suffix.lower() in words), None)


def find_misplacement(
    path: Path, root: Path, *, suffix: str, datatype: str | None = None
) -> LayoutError | None:
    """Return the error of a file whose name contradicts its folder, or whose folder is wrong.

    The name is invalid, or has another or no `sub-` or `ses-` where the folder has one, or has
    `ses-` in a folder outside the sessions.

    Parameters
    ----------
    path
        An image, or a file that describes one.
    root
        Folder of the dataset.
    suffix
        What the file claims to be.
    datatype
        Folder in which images of that suffix belong; not checked if None.
    """
    owner = owner_of(path.parent, root)
    fault = find_fault(path.name) or _contradiction(path, owner, suffix)
    shown = path.parent.relative_to(root)
    if fault is not None and owner.subject is None:
        # No name is proposed: one that is valid here would apply to every participant.
        return LayoutError(
            f"a file above the participants has no BIDS name: {fault}",
            path=path,
            expected="<key>-<label> words and a suffix; it then applies to all images of that "
            "suffix whose names hold these labels",
            advice="find out what it describes; then move it into the folder of that scan, under "
            "the scan's name, or list it in .bidsignore",
        )
    if fault is not None:
        return LayoutError(
            f"the file's name does not fit its folder {shown}: {fault}",
            path=path,
            expected=_expected_name(path.name, owner, suffix),
            advice="find out whose file it is; then rename it, with all files of the same name, "
            "or move it, or list it in .bidsignore",
        )
    if datatype is not None and path.parent.name != datatype:
        return LayoutError(
            f"{suffix} image in the folder {shown}",
            path=path,
            expected=str(shown.parent / datatype / path.name),
            advice="move it there, with the files that describe it, or list it in .bidsignore",
        )
    return None


def find_foreign_link(path: Path, root: Path) -> LayoutError | None:
    """Return the error of a file that is, or is behind, a link into another participant's data.

    Links out of the dataset and into a store of git-annex do not tell an owner. Files above the
    participants belong to all of them, wherever they are kept.
    """
    subject = owner_of(path.parent, root).subject
    target = Path(os.path.realpath(path))
    if subject is None or target == path or not target.is_relative_to(root):
        return None
    own = f"sub-{subject}"
    parts = target.relative_to(root).parts
    if ".git" in parts or not parts or not parts[0].startswith("sub-") or parts[0] == own:
        return None
    return _foreign_link(path, target.relative_to(root), own)


def find_link_out(path: Path, folder: Path) -> LayoutError | None:
    """Return the error of a file below a participant's folder that is kept in the folder beside.

    For datasets whose participants are the folders of one folder, whatever their names. Links
    out of that folder, and into a store of git-annex, do not tell an owner.

    Parameters
    ----------
    path
        A file, or a folder.
    folder
        The participant's folder, without links above it.
    """
    root, target = folder.parent, Path(os.path.realpath(path))
    if not target.is_relative_to(root):
        return None
    parts = target.relative_to(root).parts
    if not parts or ".git" in parts or parts[0] == folder.name:
        return None
    return _foreign_link(path, target.relative_to(root), folder.name)


def _foreign_link(path: Path, target: Path, own: str) -> LayoutError:
    return LayoutError(
        f"is a link to {target.as_posix()}, data of another participant",
        path=path,
        expected=f"data of {own}",
        advice="find out whose file it is; then put the file itself in place of the link, or "
        "remove the link, or list it in .bidsignore",
    )


def _contradiction(path: Path, owner: Owner, suffix: str) -> str | None:
    entities, own_suffix, _ = split_name(path)
    session = entities.get("session")
    if owner.subject is not None and entities.get("subject") != owner.subject:
        return _differs("sub", entities.get("subject"), owner.subject)
    if owner.session is not None and session != owner.session:
        return _differs("ses", session, owner.session)
    if owner.is_datatype and owner.session is None and session is not None:
        return f"it has ses-{session}, and the folder is outside the sessions"
    if own_suffix != suffix:
        return f"{own_suffix!r} is written {suffix!r}"
    return None


def _differs(key: str, label: str | None, wanted: str) -> str:
    return f"it has no {key}-{wanted}" if label is None else f"it has {key}-{label}"


def _expected_name(name: str, owner: Owner, suffix: str) -> str:
    """Return the valid part of a name, under the labels of its folder."""
    ending = next((e for e in (".nii.gz", ".nii") if name.lower().endswith(e)), Path(name).suffix)
    stem = name[: -len(ending)] if ending else name
    labels: dict[str, str] = {"sub": owner.subject or "", "ses": owner.session or ""}
    for word in stem.split("_"):
        key, dash, label = word.partition("-")
        if dash and key.lower() not in labels:
            labels[key.lower()] = plain_label(label)
    words = [f"{key}-{label}" for key, label in labels.items() if label]
    return "_".join([*words, suffix]) + ending


def misnamed_folder(folder: Path) -> LayoutError:
    """Return the error of a folder `sub-<label>` or `ses-<label>` whose label BIDS does not allow.

    Names of files would be ambiguous: those of `sub-A_x` and `sub-A_y` both begin with `sub-A`.
    """
    key, _, label = folder.name.partition("-")
    better = f"{key}-{plain_label(label)}"
    is_free = better != f"{key}-" and not folder.with_name(better).exists()
    return LayoutError(
        f"{label!r} is no label",
        path=folder,
        expected=f"{key}-<label> of letters and digits" + (f", as {better}" if is_free else ""),
        advice="rename the folder and, in the same way, all files in it; "
        "or list it in .bidsignore",
    )
