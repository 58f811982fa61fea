"""Which gradient files and JSON sidecars belong to an image.

The file with the image's own stem wins. Only where it is absent does the inheritance principle
apply: a file of the same suffix, in the image's folder or one above it up to the dataset's root,
whose entities all occur in the image's name with the same labels; the nearest folder wins, and in
one folder the file with the most entities.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dmri_fm.bids.names import split_name
from dmri_fm.errors import InputError
from dmri_fm.json_files import read_object

__all__ = ["Sidecars"]


class Sidecars:
    """Finds the files that describe the images of one dataset.

    Folder listings are kept, so one object serves one reading of the dataset.

    Parameters
    ----------
    root
        Folder of the dataset.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listings: dict[Path, tuple[tuple[Path, frozenset[tuple[str, str]], str], ...]] = {}

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
            The file that applies; the image's own, which is then missing, if none does.

        Raises
        ------
        InputError
            If two inherited files of one folder apply equally.
        """
        own = image.with_name(image.name.partition(".")[0] + extension)
        if own.exists() or own.is_symlink():
            return own
        for found in self._applicable(image, extension):
            if len(found) > 1 and len(found[-1][1]) == len(found[-2][1]):
                raise InputError(
                    f"{found[-2][0].name} and {found[-1][0].name} both apply by inheritance",
                    path=image,
                    expected=f"one {extension} file",
                    advice=f"put a file of the image's own name beside it: {own.name}",
                )
            return found[-1][0]
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
            If a file is not a JSON object.
        """
        merged: dict[str, Any] = {}
        for found in reversed(list(self._applicable(image, ".json"))):
            for path, _ in found:
                merged |= read_json_object(path)
        return merged

    def _applicable(
        self, image: Path, extension: str
    ) -> Iterator[list[tuple[Path, frozenset[tuple[str, str]]]]]:
        """Yield the files that apply, folder by folder upwards, by number of entities."""
        entities, suffix, _ = split_name(image)
        own = frozenset(entities.items())
        folder = image.parent
        while True:
            found = [
                (path, labels)
                for path, labels, ending in self._list(folder)
                if ending == suffix + extension and labels <= own
            ]
            if found:
                yield sorted(found, key=lambda pair: (len(pair[1]), pair[0].name))
            if folder == self._root or folder == folder.parent:
                return
            folder = folder.parent

    def _list(self, folder: Path) -> tuple[tuple[Path, frozenset[tuple[str, str]], str], ...]:
        if folder not in self._listings:
            listing = []
            for path in sorted(folder.iterdir()):
                if path.suffix in (".json", ".bval", ".bvec"):
                    entities, suffix, extension = split_name(path)
                    listing.append((path, frozenset(entities.items()), suffix + extension))
            self._listings[folder] = tuple(listing)
        return self._listings[folder]


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises
    ------
    InputError
        If it cannot be read, or holds something else or what could not be written again; see
        :func:`dmri_fm.json_files.read_object`.
    """
    return read_object(path)
