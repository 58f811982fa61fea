"""Symbolic links in the output folder: refused, so that nothing is written through them.

The output folder itself may be a link, as a lab's disks are often arranged. A link below it, left
there by mistake or by somebody else, would lead writing into another person's data.
"""

from __future__ import annotations

import os
from pathlib import Path

from dmri_fm.errors import OutputError

#: Store of git-annex and DataLad for the contents of files. A file that is a link into it is
#: replaced by a new one, as git-annex expects; the stored content is never written to.
ANNEX_OBJECTS = os.path.join(".git", "annex", "objects")


def refuse_links(path: Path, *, root: Path) -> None:
    """Refuse links at or below a path that lead elsewhere.

    Parameters
    ----------
    path
        A file or folder that will be written to; need not exist.
    root
        The output folder. A file may be a link to another one in it, or into the store of
        git-annex. A folder may be a link to another one below `path`.

    Raises
    ------
    OutputError
        With the link and what it leads to.
    """
    refuse_link(path, inside=root if path.is_file() else path)
    for folder, subfolders, names in os.walk(path):
        for name in subfolders:
            refuse_link(Path(folder, name), inside=path)
        for name in names:
            refuse_link(Path(folder, name), inside=root)


def refuse_links_of(participant: str, output_dir: Path) -> None:
    """Refuse links in the folder and at the page of a participant (with the prefix)."""
    for name in (participant, f"{participant}.html"):
        refuse_links(output_dir / name, root=output_dir)


def refuse_link(path: Path, *, inside: Path) -> None:
    """Refuse a path that is a link, unless it leads to something inside a folder.

    Raises
    ------
    OutputError
        With the link and what it leads to.
    """
    if not path.is_symlink():
        return
    target, limit = os.path.realpath(path), os.path.realpath(inside)
    if f"{os.sep}{ANNEX_OBJECTS}{os.sep}" in target and not os.path.isdir(target):
        return
    # A folder that is a link itself has no inside of its own.
    if path != inside and os.path.commonpath([target, limit]) == limit:
        return
    raise OutputError(
        f"is a link, and leads to {target}",
        path=path,
        expected="a file or folder of its own; the output and work folders given may be links",
        advice="remove the link, or put what it leads to in its place",
    )
