"""Which gradient files and JSON sidecars belong to an image.

The file with the image's own stem wins. Only where it is absent does the inheritance principle
apply: a file of the same suffix, in the image's folder or one above it up to the dataset's root,
whose entities all occur in the image's name with the same labels; the nearest folder wins, and in
one folder the file with the most entities.

A file whose own name does not agree with its folder is of nobody that could be known, and never
applies. Where it would, were it named after its folder, and the image has no file of its own, the
image is refused rather than read without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmri_fm.content import require_content
from dmri_fm.errors import GradientError, InputError, LayoutError
from dmri_fm.json_files import read_object
from dmri_fm_workflows.bids.folders import check_name, owner_of, refuse_foreign_link
from dmri_fm_workflows.bids.ignore import BidsIgnore
from dmri_fm_workflows.bids.names import split_name

__all__ = ["Sidecars"]

_EXTENSIONS = (".json", ".bval", ".bvec")

#: Entities that a folder gives.
_OWNER = ("subject", "session")


class Sidecars:
    """Finds the files that describe the images of one dataset.

    Folder listings and JSON files are kept, so one object serves one reading of the dataset.

    Parameters
    ----------
    root
        Folder of the dataset.
    is_ignored
        Tells which files are not part of it; by default, those that its `.bidsignore` lists.
    """

    def __init__(self, root: Path, *, is_ignored: BidsIgnore | None = None) -> None:
        self._root = root
        self._is_ignored = BidsIgnore(root) if is_ignored is None else is_ignored
        self._listings: dict[Path, tuple[tuple[Path, frozenset[tuple[str, str]], str], ...]] = {}
        self._objects: dict[Path, dict[str, Any]] = {}

    def find(self, image: Path, extension: str) -> Path:
        """Find the file of an image with another extension.

        Parameters
        ----------
        image
            An image of the dataset.
        extension
            `.bval` or `.bvec`.

        Returns
        -------
        Path
            The file that applies; the image's own, which is then missing, if none does. Its
            content may not be fetched.

        Raises
        ------
        InputError
            If two inherited files of one folder apply equally, or one whose name does not agree
            with its folder might; if the file is a link to another participant's; if the
            image's own is the only one and `.bidsignore` lists it.
        """
        if (there := self.find_own(image, extension)) is not None:
            return there
        own = image.with_name(image.name.partition(".")[0] + extension)
        self._refuse_misnamed(image, extension)
        for found in self._applicable(image, extension):
            if len(found) > 1 and len(found[-1][1]) == len(found[-2][1]):
                raise InputError(
                    f"{found[-2][0].name} and {found[-1][0].name} both apply by inheritance",
                    path=image,
                    expected=f"one {extension} file",
                    advice=f"put a file of the image's own name beside it: {own.name}",
                )
            self._refuse_foreign(found[-1][0])
            return found[-1][0]
        if os.path.lexists(own):
            raise GradientError(
                "is left out by .bidsignore",
                path=own,
                expected=f"a {extension} file that is part of the dataset",
                advice="take it off .bidsignore, or list the image there, too",
            )
        return own

    def find_own(self, image: Path, extension: str) -> Path | None:
        """Return the file of an image's own name; None if there is none in the dataset.

        A link that leads nowhere is there: its content was not fetched.

        Raises
        ------
        LayoutError
            If it is a link to another participant's file.
        """
        own = image.with_name(image.name.partition(".")[0] + extension)
        if not self._is_there(own):
            return None
        refuse_foreign_link(own, self._root)
        return own

    def metadata(self, image: Path) -> dict[str, Any]:
        """Merge the JSON files that apply to an image, the nearest one last.

        Returns
        -------
        dict
            Empty if there are none.

        Raises
        ------
        InputError
            If a file is not a JSON object, or was not fetched, or one whose name does not agree
            with its folder might apply, or one is a link to another participant's.
        """
        if not self._is_there(image.with_name(image.name.partition(".")[0] + ".json")):
            self._refuse_misnamed(image, ".json")
        merged: dict[str, Any] = {}
        for found in reversed(list(self._applicable(image, ".json"))):
            for path, _ in found:
                self._refuse_foreign(path)
                merged |= self._read(path)
        return merged

    def misnamed(self, image: Path) -> Iterator[LayoutError]:
        """Yield an error for each file that would apply, were it named after its folder."""
        for extension in _EXTENSIONS:
            yield from self._misnamed(image, extension)

    def _misnamed(self, image: Path, extension: str) -> Iterator[LayoutError]:
        entities, suffix, _ = split_name(image)
        own = frozenset((k, v) for k, v in entities.items() if k not in _OWNER)
        for folder in self._upwards(image):
            for path, labels, ending in self._list(folder):
                others = frozenset((k, v) for k, v in labels if k not in _OWNER)
                if ending == suffix + extension and others <= own:
                    error = self._find_fault(path, suffix)
                    if error is not None:
                        yield error

    def _refuse_misnamed(self, image: Path, extension: str) -> None:
        for error in self._misnamed(image, extension):
            raise error

    def _find_fault(self, path: Path, suffix: str) -> LayoutError | None:
        try:
            check_name(path, self._root, suffix=suffix)
        except LayoutError as error:
            return error
        return None

    def is_foreign(self, path: Path) -> bool:
        """Tell a link to another participant's file."""
        try:
            refuse_foreign_link(path, self._root)
        except LayoutError:
            return True
        return False

    def _read(self, path: Path) -> dict[str, Any]:
        # Asked for several times an image, and one above the participants by every image.
        if path not in self._objects:
            self._objects[path] = read_json_object(path)
        return self._objects[path]

    def _refuse_foreign(self, path: Path) -> None:
        # A file above the participants is of all of them, wherever it is kept.
        if owner_of(path.parent, self._root).subject is not None:
            refuse_foreign_link(path, self._root)

    def _is_there(self, path: Path) -> bool:
        # A link that leads nowhere is there: its content was not fetched.
        return os.path.lexists(path) and not self._is_ignored(path)

    def _upwards(self, image: Path) -> Iterator[Path]:
        folder = image.parent
        while True:
            yield folder
            if folder == self._root or folder == folder.parent:
                return
            folder = folder.parent

    def _applicable(
        self, image: Path, extension: str
    ) -> Iterator[list[tuple[Path, frozenset[tuple[str, str]]]]]:
        """Yield the files that apply, folder by folder upwards, by number of entities."""
        entities, suffix, _ = split_name(image)
        own = frozenset(entities.items())
        for folder in self._upwards(image):
            found = [
                (path, labels)
                for path, labels, ending in self._list(folder)
                if ending == suffix + extension
                and labels <= own
                and self._find_fault(path, suffix) is None
            ]
            if found:
                yield sorted(found, key=lambda pair: (len(pair[1]), pair[0].name))

    def _list(self, folder: Path) -> tuple[tuple[Path, frozenset[tuple[str, str]], str], ...]:
        if folder not in self._listings:
            listing = []
            for path in sorted(folder.iterdir()):
                if path.suffix in _EXTENSIONS and not self._is_ignored(path):
                    entities, suffix, extension = split_name(path)
                    listing.append((path, frozenset(entities.items()), suffix + extension))
            self._listings[folder] = tuple(listing)
        return self._listings[folder]


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises
    ------
    InputError
        If it cannot be read, was not fetched, or holds something else or what could not be
        written again; see :func:`dmri_fm.json_files.read_object`.
    """
    require_content(path)
    return read_object(path)
