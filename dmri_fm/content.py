"""Tell a file whose content is here from a place-holder of git-annex, DataLad or Git LFS.

A clone of a dataset holds every name, but the content of large files only once it is fetched.
Until then a name is a link into `.git/annex/objects` that leads nowhere, or a small text file
that says which content belongs here. Neither is a missing file, and neither is a damaged one.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path, PurePath

from dmri_fm.errors import InputError

#: A link or a pointer of git-annex holds one of these: locked, locked on a file system without
#: links, unlocked.
_ANNEX_LINK = ".git/annex/objects/"
_ANNEX_POINTER = b"/annex/objects/"

_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1"

#: Bytes that tell a pointer: git-annex's have a key after the prefix, LFS's a second line.
_N_POINTER_BYTES = 512


def require_content(path: str | Path, error_class: type[InputError] = InputError) -> None:
    """Refuse a file whose content has not been fetched.

    Missing and unreadable files pass: whoever reads them says what is wrong.

    Raises
    ------
    InputError
        Of the class `error_class`, if the file is a link that leads nowhere, or a pointer of
        git-annex or Git LFS. The advice holds the command that fetches it.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "sub-01_dwi.bval"
    ...     _ = path.write_text("/annex/objects/MD5E-s4--0cc1.bval")
    ...     require_content(path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    dmri_fm.errors.InputError: ...the content is not here: git-annex has not fetched it
      expected: the file itself
      what to do: in ..., run `datalad get ...sub-01_dwi.bval` or `git annex get ...`
    """
    path = Path(path)
    if path.is_symlink() and not os.path.exists(path):
        target = os.readlink(path)
        if _ANNEX_LINK in PurePath(target).as_posix():
            raise _of_annex(path, error_class, target)
        raise error_class(
            f"the link leads nowhere, to {target}",
            path=path,
            expected="the file that it names",
            advice="copy the data there; in a container, mount the folder that holds it as well",
        )
    start = _read_start(path)
    if start.startswith(_LFS_POINTER):
        root, name = _root_and_name(path)
        raise error_class(
            "the content is not here: Git LFS has not fetched it",
            path=path,
            expected="the file itself",
            advice=f"in {root}, run `git lfs pull --include {name}`",
        )
    first = start.partition(b"\n")[0].replace(b"\\", b"/")
    if first.startswith(_ANNEX_POINTER) or _is_written_link(first):
        raise _of_annex(path, error_class)


def require_installed(folder: Path, error_class: type[InputError] = InputError) -> None:
    """Refuse an empty folder that is a subdataset, by the `.gitmodules` of a parent folder.

    Raises
    ------
    InputError
        Of the class `error_class`, if the folder is empty and listed there.
    """
    if not _is_empty(folder):
        return
    # A dataset of participants lists `sub-1/ses-1`, one of sessions in `sub-1` lists `ses-1`.
    for parent in folder.parents:
        name = folder.relative_to(parent).as_posix()
        if name in _list_modules(parent):
            name = shlex.quote(name)
            raise error_class(
                "folder is empty: the subdataset it stands for is not here",
                path=folder,
                expected="its files",
                advice=f"in {parent}, run `datalad get {name}` or "
                f"`git submodule update --init {name}`, then fetch its files",
            )


def _is_empty(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except OSError:
        return False  # whoever lists the folder next says why it cannot be read


def _list_modules(root: Path) -> list[str]:
    """Return the paths of the subdatasets that a dataset lists; none if it lists none."""
    try:
        text = (root / ".gitmodules").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    entries = (line.partition("=") for line in text.splitlines())
    return [value.strip() for key, _, value in entries if key.strip() == "path"]


def describe_absence(path: Path) -> str:
    """Say why there is no regular file at a path; pipes and devices are never opened.

    Examples
    --------
    >>> describe_absence(Path("/no/such/file")), describe_absence(Path("/"))
    ('file is missing', 'it is no regular file')
    """
    return "it is no regular file" if path.exists() else "file is missing"


def _read_start(path: Path) -> bytes:
    # Only regular files: opening a pipe would wait for ever.
    if not os.path.isfile(path):
        return b""
    try:
        with path.open("rb") as file:
            return file.read(_N_POINTER_BYTES)
    except OSError:
        return b""  # whoever reads the file next says why it cannot be read


def _is_written_link(line: bytes) -> bool:
    """Tell a link that git wrote as text, as it does where a file system has no links."""
    climb, inside, _ = line.partition(_ANNEX_LINK.encode())
    return bool(inside) and not climb.replace(b"../", b"")


def _of_annex(path: Path, error_class: type[InputError], target: str | None = None) -> InputError:
    root, name = _root_and_name(path, target)
    return error_class(
        "the content is not here: git-annex has not fetched it",
        path=path,
        expected="the file itself",
        advice=f"in {root}, run `datalad get {name}` or `git annex get {name}`",
    )


def _root_and_name(path: Path, target: str | None = None) -> tuple[Path, str]:
    """Return the repository that a file belongs to, and the file's path in it, quoted."""
    absolute = Path(os.path.abspath(path))
    root = next((p for p in absolute.parents if (p / ".git").exists()), absolute.parent)
    if target is not None and not (root / ".git").exists():
        # The link itself says where its repository should be.
        inside, annex, _ = os.path.normpath(absolute.parent / target).partition("/.git/annex/")
        if annex and absolute.is_relative_to(inside):
            root = Path(inside)
    return root, shlex.quote(absolute.relative_to(root).as_posix())
