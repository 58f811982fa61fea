"""Owner of a participant's folder: other names that tell whose scan it holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dmri_fm.errors import LayoutError
from dmri_fm_workflows.bids.folders import find_link_out
from dmri_fm_workflows.bids.listing import list_entries
from dmri_fm_workflows.bids.preprocessed.layouts import FolderLayout

#: Start of the names of FreeSurfer's own subjects, which it links into the folder of each study.
_TEMPLATE = "fsaverage"


def check_owner(layout: FolderLayout, folder: Path) -> None:
    """Refuse a folder inside of which another participant is named.

    Raises
    ------
    LayoutError
        If it is a link to the folder of another participant beside it, or holds FreeSurfer's
        folder of another.
    """
    if fault := find_link_out(folder, folder):
        raise fault
    if layout.named_inside is None:
        return
    owner = layout.find_owner(folder.name)
    for path in list_entries(folder / layout.named_inside):
        if path.name.startswith(_TEMPLATE) or not (path.is_dir() and (path / "mri").is_dir()):
            continue
        inside = layout.find_owner(path.name)
        # FreeSurfer's folder may leave out the visit.
        if inside is None or owner is None or inside not in (owner, (owner[0], "")):
            raise LayoutError(
                f"FreeSurfer's folder in it is that of {path.name}",
                path=folder,
                expected=f"{layout.named_inside}/{folder.name}",
                advice="find out whose scans they are, and rename the folder",
            )


def check_stores(layout: FolderLayout, folder: Path, files: Sequence[Path]) -> tuple[str, ...]:
    """Compare a folder's name with those of the folders in which links keep its files.

    A file that is kept under its own path in another folder, `/store/100307/T1w/...`, is that
    folder's. Stores whose paths tell nothing, as those of git-annex, are not looked at.

    Returns
    -------
    tuple of str
        A warning if all files are kept in the folder of one other participant or visit: the
        folder may have been given another label on purpose.

    Raises
    ------
    LayoutError
        If they are kept in the folders of several.
    """
    kept = {file: store for file in files if (store := _find_store(file, folder)) is not None}
    owners = {
        file: owner for file, store in kept.items() if (owner := layout.find_owner(store.name))
    }
    own = layout.find_owner(folder.name)
    foreign = {file: owner for file, owner in owners.items() if owner != own}
    if not foreign:
        return ()
    first = next(iter(foreign))
    if len(set(owners.values())) > 1:
        shown = sorted({f"{store} ({file.relative_to(folder)})" for file, store in kept.items()})
        raise LayoutError(
            "links keep its files in the folders of several participants or visits: "
            + ", ".join(shown),
            path=folder,
            expected="files of one scan",
            advice="find out whose files they are, and put those of one in place of the links",
        )
    return (
        f"{folder.name} is a link, or holds links, to {kept[first]}, whose name tells another "
        "participant or visit. Check that it is the same person's.",
    )


def _find_store(file: Path, folder: Path) -> Path | None:
    """Return the folder in which a file of a participant's folder is kept under its path."""
    parts = file.relative_to(folder).parts
    target = Path(os.path.realpath(file))
    return target.parents[len(parts) - 1] if target.parts[-len(parts) :] == parts else None
