"""Packages that only some commands need: extras of this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dmri_fm.errors import MissingToolError

__all__ = ["needs_extra"]


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Name the extra to install, where an import within finds no package.

    Raises
    ------
    MissingToolError
        In place of the import's own error.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingToolError(
            f"{error.name} is not installed",
            expected=f"the packages of the extra `{extra}`",
            advice=f"pip install 'drope-bidsapp[{extra}]'",
        ) from None
