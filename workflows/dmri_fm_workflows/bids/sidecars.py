"""Gradient files and JSON sidecars that apply to an image.

The file with the image's own stem wins. Only where it is absent does the inheritance principle
apply: a file of the same suffix, in the image's folder or one above it up to the dataset's root,
whose entities all occur in the image's name with the same labels. The nearest folder wins, and in
one folder the file with the most entities.

A file whose own name does not agree with its folder has no known owner, and never applies. Where
it would apply if it were named after its folder, and the image has no file of its own, the image
is refused rather than read without it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dmri_fm.content import require_content
from dmri_fm.errors import GradientError, InputError, LayoutError
from dmri_fm.json_files import read_object
from dmri_fm_workflows.bids.folders import find_foreign_link, find_misplacement
from dmri_fm_workflows.bids.ignore import BidsIgnore
from dmri_fm_workflows.bids.names import own_file, split_name

_EXTENSIONS = (".json", ".bval", ".bvec")


@dataclass(frozen=True)
class _Name:
    """Name of an image or of a file that may describe it.

    Attributes
    ----------
    path
        The file.
    labels
        Entities and labels.
    suffix, extension
        The rest of the name.
    """

    path: Path
    labels: frozenset[tuple[str, str]]
    suffix: str
    extension: str

    @classmethod
    def of(cls, path: Path) -> _Name:
        entities, suffix, extension = split_name(path)
        return cls(path, frozenset(entities.items()), suffix, extension)

    @cached_property
    def labels_below_owner(self) -> frozenset[tuple[str, str]]:
        """Labels without participant and session."""
        return frozenset((k, v) for k, v in self.labels if k not in ("subject", "session"))


class Sidecars:
    """Finds the files that describe the images of one dataset.

    Folder listings and JSON files are kept, so one object serves one reading of the dataset.

    Parameters
    ----------
    root
        Folder of the dataset.
    is_ignored
        Tells which files are not part of it.
    """

    def __init__(self, root: Path, is_ignored: BidsIgnore) -> None:
        self._root = root
        self._is_ignored = is_ignored
        self._listings: dict[Path, list[_Name]] = {}
        self._objects: dict[Path, dict[str, Any]] = {}

    def find(self, image: Path, extension: str) -> Path:
        """Find the `.bval` or `.bvec` file of an image.

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
        own = own_file(image, extension)
        self._refuse_misnamed(image, extension)
        for names in self._applicable(image, extension):
            if len(names) > 1 and len(names[-1].labels) == len(names[-2].labels):
                raise InputError(
                    f"{names[-2].path.name} and {names[-1].path.name} both apply by inheritance",
                    path=image,
                    expected=f"one {extension} file",
                    advice=f"put a file of the image's own name beside it: {own.name}",
                )
            self._refuse_foreign(names[-1].path)
            return names[-1].path
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

        Raises
        ------
        LayoutError
            If it is a link to another participant's file.
        """
        own = own_file(image, extension)
        if not self._is_there(own):
            return None
        self._refuse_foreign(own)
        return own

    def find_own_gradients(self, image: Path) -> tuple[Path | None, Path | None]:
        """Return the `.bval` and the `.bvec` file of an image's own name, as :meth:`find_own`."""
        return self.find_own(image, ".bval"), self.find_own(image, ".bvec")

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
        if not self._is_there(own_file(image, ".json")):
            self._refuse_misnamed(image, ".json")
        merged: dict[str, Any] = {}
        for names in reversed(list(self._applicable(image, ".json"))):
            for name in names:
                self._refuse_foreign(name.path)
                merged |= self._read(name.path)
        return merged

    def misnamed(self, image: Path) -> Iterator[LayoutError]:
        """Yield an error for each file that would apply if it were named after its folder."""
        for extension in _EXTENSIONS:
            yield from self._misnamed(image, extension)

    def _misnamed(self, image: Path, extension: str) -> Iterator[LayoutError]:
        own = _Name.of(image)
        for listing in self._upwards(own, extension):
            for name in listing:
                if name.labels_below_owner <= own.labels_below_owner and (
                    error := self._find_misplacement(name)
                ):
                    yield error

    def _refuse_misnamed(self, image: Path, extension: str) -> None:
        for error in self._misnamed(image, extension):
            raise error

    def _refuse_foreign(self, path: Path) -> None:
        if error := find_foreign_link(path, self._root):
            raise error

    def _find_misplacement(self, name: _Name) -> LayoutError | None:
        return find_misplacement(name.path, self._root, suffix=name.suffix)

    def _read(self, path: Path) -> dict[str, Any]:
        # Asked for several times an image, and one above the participants by every image.
        if path not in self._objects:
            self._objects[path] = read_json_object(path)
        return self._objects[path]

    def _is_there(self, path: Path) -> bool:
        # A link that leads nowhere is there: its content was not fetched.
        return os.path.lexists(path) and not self._is_ignored(path)

    def _applicable(self, image: Path, extension: str) -> Iterator[list[_Name]]:
        """Yield the files that apply, folder by folder upwards, by number of entities."""
        own = _Name.of(image)
        for listing in self._upwards(own, extension):
            names = [
                name
                for name in listing
                if name.labels <= own.labels and self._find_misplacement(name) is None
            ]
            if names:
                yield sorted(names, key=lambda name: (len(name.labels), name.path.name))

    def _upwards(self, image: _Name, extension: str) -> Iterator[list[_Name]]:
        """Yield the files of the image's suffix, folder by folder from its own to the root."""
        for folder in image.path.parents:
            if folder not in self._listings:
                self._listings[folder] = [
                    _Name.of(path)
                    for path in sorted(folder.iterdir())
                    if path.suffix in _EXTENSIONS and not self._is_ignored(path)
                ]
            yield [
                name
                for name in self._listings[folder]
                if (name.suffix, name.extension) == (image.suffix, extension)
            ]
            if folder == self._root:
                return


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
