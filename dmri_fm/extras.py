"""Packages of the extras `app` and `lab`, which a plain installation leaves out."""

from __future__ import annotations

import re
from importlib import metadata

from dmri_fm.errors import MissingToolError
from dmri_fm.project import DISTRIBUTION


def require_extra(extra: str) -> None:
    """Refuse to start where packages of an extra are not installed.

    The metadata of the installed distribution list them. A source tree that is not installed has
    no metadata: its imports fail by themselves.

    Raises
    ------
    MissingToolError
        If one is missing; the message, one line, has the command that installs them all.
    """
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return
    names = [
        found["name"]
        for text in requirements
        if (found := re.fullmatch(r"(?P<name>[\w.-]+).*; extra == ['\"](?P<extra>.+)['\"]", text))
        and found["extra"] == extra
    ]
    missing = [name for name in names if not _is_installed(name)]
    if missing:
        raise MissingToolError(
            f"packages are missing ({', '.join(missing)}); "
            f"install them, in a clone of {DISTRIBUTION}, with: pip install '.[{extra}]'"
        )


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
