"""Folders and images of a dataset, as the file system lists them.

Only the folders of requested participants are listed. That takes less time than an index of the
dataset, and cannot be out of date. :mod:`dmri_fm_workflows.bids.database` serves where listing
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


def list_folders(folder: Path, prefix: str, is_ignored: BidsIgnore) -> list[Path]:
    """Return the folders in a folder whose names begin with `sub-` or `ses-`, by name.

    Links are among them. So is a link that leads nowhere: it stands for a participant or session.

    Raises
    ------
    LayoutError
        If the folder cannot be read.
    """
    return [
        path
        for path in list_entries(folder)
        if path.name.startswith(prefix)
        and (path.is_dir() or (path.is_symlink() and not path.exists()))
        and not is_ignored(path, is_folder=True)
    ]


def find_missing_folders(
    folder: Path, is_ignored: BidsIgnore, *, sessions: Collection[str] | None
) -> Iterator[LayoutError]:
    """Yield an error for each folder of a participant whose content was not fetched.

    That is each link that leads nowhere, and each empty folder of a subdataset.

    Parameters
    ----------
    folder
        Of the participant.
    is_ignored
        Tells which folders are not part of the dataset.
    sessions
        Requested labels. None requests all sessions, and what lies outside of them.
    """
    paths = [] if sessions is not None else [folder / datatype for datatype in DATATYPES]
    for path in list_folders(folder, "ses-", is_ignored):
        label = path.name.removeprefix("ses-")
        if is_label(label) and (sessions is None or label in sessions):
            paths += [path, *(path / datatype for datatype in DATATYPES)]
    for path in paths:
        if not os.path.lexists(path) or is_ignored(path, is_folder=True):
            continue
        try:
            require_content(path, LayoutError)
            require_installed(path, LayoutError)
        except LayoutError as error:
            yield error


def list_images(folder: Path, is_ignored: BidsIgnore) -> list[Path]:
    """Return the NIfTI files that lie directly in a participant's datatype folders.

    Sessions whose label BIDS does not allow are skipped. Of a name only the ending is checked.

    Raises
    ------
    LayoutError
        If a folder cannot be read.
    """
    sessions = [
        path
        for path in list_folders(folder, "ses-", is_ignored)
        if path.is_dir() and is_label(path.name[4:])
    ]
    return [
        path
        for parent in (folder, *sessions)
        for datatype in DATATYPES
        if (parent / datatype).is_dir() and not is_ignored(parent / datatype, is_folder=True)
        for path in list_entries(parent / datatype)
        if is_image(path) and not path.is_dir() and not is_ignored(path)
    ]


def is_image(path: Path) -> bool:
    """Tell a NIfTI file by its ending, in any case."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def list_entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, by name.

    Raises
    ------
    LayoutError
        If the folder cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise unreadable(folder, error.strerror) from None


def unreadable(path: Path, reason: str | None) -> LayoutError:
    """Return the error of a folder that cannot be read."""
    return LayoutError(
        f"folder cannot be read ({reason})",
        path=path,
        expected="folders and files that this user may read",
        advice="check the permissions, or list it in .bidsignore",
    )
