"""Files that `.bidsignore` takes out of a dataset, by the rules of `.gitignore`."""

from __future__ import annotations

from pathlib import Path

from pathspec import GitIgnoreSpec

from dmri_fm.content import require_content
from dmri_fm.errors import LayoutError


class BidsIgnore:
    """Tells which files below a dataset's root are not part of the dataset.

    Files whose name begins with a dot never are: file managers and network drives write copies
    such as `._sub-01_dwi.nii.gz` beside the original.

    Parameters
    ----------
    root
        Folder of the dataset; its `.bidsignore` is read if there is one.

    Raises
    ------
    LayoutError
        If `.bidsignore` cannot be read, or a line of it is no pattern.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._spec = GitIgnoreSpec.from_lines(())
        path = root / ".bidsignore"
        require_content(path, LayoutError)
        if not path.is_file():
            return
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            self._spec = GitIgnoreSpec.from_lines(lines)
        except (OSError, ValueError) as error:
            raise LayoutError(
                f"cannot be read ({error})",
                path=path,
                expected="one pattern a line, as in .gitignore",
                advice="repair the file, or remove it",
            ) from None

    def __call__(self, path: Path, *, is_folder: bool = False) -> bool:
        """Tell whether a file or folder below the root is left out."""
        if path.name.startswith("."):
            return True
        name = path.relative_to(self._root).as_posix()
        return self._spec.match_file(name + "/" * is_folder)
