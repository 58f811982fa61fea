"""Address of the project's source code, from its package metadata."""

from __future__ import annotations

from functools import cache
from importlib import metadata

#: Name of the distribution, in `pyproject.toml`.
DISTRIBUTION = "drope-bidsapp"


@cache
def source_url() -> str | None:
    """Return the address of the source code, or None while the package metadata hold none.

    It is `Source` under `[project.urls]` of `pyproject.toml`. A source tree that is not installed
    has no metadata.
    """
    try:
        entries = metadata.metadata(DISTRIBUTION).get_all("Project-URL")
    except metadata.PackageNotFoundError:
        return None
    for entry in entries or ():
        label, _, url = entry.partition(",")
        if label.strip().lower() == "source":
            return str(url.strip())
    return None
