"""Which folders and images a dataset has.

Only the folders of the participants asked for are listed, which takes less time than an index of
the dataset, and cannot be out of date. :mod:`dmri_fm_workflows.bids.database` serves where that
is slow.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from dmri_fm.content import require_content, require_installed
from dmri_fm.errors import LayoutError
from dmri_fm_workflows.bids.folders import DATATYPES
from dmri_fm_workflows.bids.ignore import BidsIgnore
from dmri_fm_workflows.bids.names import is_label

__all__ = [
    "find_missing_folders",
    "is_image",
    "list_images",
    "list_participant_folders",
    "list_session_folders",
]


def list_participant_folders(root: Path, is_ignored: BidsIgnore) -> list[Path]:
    """Return the `sub-*` folders of a dataset, links among them, by name.

    A link that leads nowhere is among them: it stands for a participant.
    """
    return _folders(root, "sub-", is_ignored)


def list_session_folders(folder: Path, is_ignored: BidsIgnore) -> list[Path]:
    """Return the `ses-*` folders of a participant, links among them, by name.

    A link that leads nowhere is among them: it stands for a session.
    """
    return _folders(folder, "ses-", is_ignored)


def find_missing_folders(
    folder: Path, is_ignored: BidsIgnore, *, sessions: Collection[str] | None = None
) -> Iterator[LayoutError]:
    """Find session and datatype folders of a participant whose content is not here.

    Parameters
    ----------
    folder
        Of the participant.
    is_ignored
        Tells which folders are not part of the dataset.
    sessions
        Labels asked for; all if None. What lies outside the sessions is asked for only if all
        are.

    Yields
    ------
    LayoutError
        For each link that leads nowhere, and each empty folder of a subdataset.
    """
    places = [folder] if sessions is None else []
    for path in list_session_folders(folder, is_ignored):
        label = path.name.removeprefix("ses-")
        if is_label(label) and (sessions is None or label in sessions):
            places.append(path)
    for place in places:
        found = () if place == folder else (place,)
        for path in (*found, *(place / datatype for datatype in DATATYPES)):
            if not os.path.lexists(path) or is_ignored(path, is_folder=True):
                continue
            try:
                require_content(path, LayoutError)
                require_installed(path, LayoutError)
            except LayoutError as error:
                yield error


def list_images(folder: Path, is_ignored: BidsIgnore) -> list[Path]:
    """Return the NIfTI files that lie directly in a participant's datatype folders.

    Sessions whose label BIDS does not allow are left out. Names are not looked at beyond their
    ending.

    Raises
    ------
    LayoutError
        If a folder cannot be read.
    """
    sessions = [
        path
        for path in list_session_folders(folder, is_ignored)
        if path.is_dir() and is_label(path.name[4:])
    ]
    return [
        path
        for place in (folder, *sessions)
        for datatype in DATATYPES
        if (place / datatype).is_dir() and not is_ignored(place / datatype, is_folder=True)
        for path in _entries(place / datatype)
        if is_image(path) and not path.is_dir() and not is_ignored(path)
    ]


def is_image(path: Path) -> bool:
    """Tell a NIfTI file by its ending, in any case."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _folders(place: Path, prefix: str, is_ignored: BidsIgnore) -> list[Path]:
    return [
        path
        for path in _entries(place)
        if path.name.startswith(prefix)
        and (path.is_dir() or (path.is_symlink() and not path.exists()))
        and not is_ignored(path, is_folder=True)
    ]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise LayoutError(
            f"folder cannot be read ({error.strerror})",
            path=folder,
            expected="folders and files that this user may read",
            advice="check the permissions",
        ) from None
