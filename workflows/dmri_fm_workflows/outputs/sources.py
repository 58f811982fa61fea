"""Direct inputs of an output, as BIDS URIs.

BIDS wants `Sources` to name what a file was made from directly: if A gives B and B gives C, then
C names B only. What the direct inputs are stands in `maps.yaml`; which of them a run writes, and
under which name, is known to the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath

from dmri_fm.errors import ConfigError
from dmri_fm_workflows.outputs.maps import load_catalogue
from dmri_fm_workflows.outputs.naming import identify

__all__ = ["derivative_uri", "direct_sources", "raw_uri"]

#: Word of `maps.yaml` for the raw images of a scan.
RAW = "raw"


def raw_uri(path: str | Path, root: str | Path) -> str:
    """Return the BIDS URI of a file of the raw dataset.

    Examples
    --------
    >>> raw_uri("/data/ds/sub-01/dwi/sub-01_dwi.nii.gz", "/data/ds")
    'bids:raw:sub-01/dwi/sub-01_dwi.nii.gz'
    """
    try:
        relative = Path(path).relative_to(root)
    except ValueError:
        raise ConfigError(
            "file is outside the raw dataset", path=path, expected=f"a path below {root}"
        ) from None
    return f"bids:raw:{relative.as_posix()}"


def derivative_uri(path: str | PurePath) -> str:
    """Return the BIDS URI of an output, given relative to the output folder.

    Examples
    --------
    >>> derivative_uri("sub-01/dwi/sub-01_space-ACPC_dwiref.nii.gz")
    'bids::sub-01/dwi/sub-01_space-ACPC_dwiref.nii.gz'
    """
    if PurePath(path).is_absolute():
        raise ConfigError(
            "path is absolute", path=str(path), expected="relative to the output folder"
        )
    return f"bids::{PurePath(path).as_posix()}"


def direct_sources(
    path: str | PurePath, *, raw: Sequence[str], written: Iterable[str | PurePath]
) -> list[str]:
    """Return the BIDS URIs of what an output was made from directly.

    Parameters
    ----------
    path
        The output, relative to the output folder.
    raw
        BIDS URIs of the raw images of its scan.
    written
        Outputs of the same scan and of its anatomy, relative to the output folder. The first of
        a kind counts for an input; inputs that are not among them are left out.

    Raises
    ------
    ConfigError
        If a path is none of an output.

    Examples
    --------
    >>> series = "sub-01/dwi/sub-01_space-ACPC_desc-preproc_dwi.nii.gz"
    >>> direct_sources("sub-01/dwi/sub-01_space-ACPC_dwiref.nii.gz",
    ...                raw=["bids:raw:sub-01/dwi/sub-01_dwi.nii.gz"], written=[series])
    ['bids::sub-01/dwi/sub-01_space-ACPC_desc-preproc_dwi.nii.gz']
    """
    found = identify(path)
    kind, entities = found.kind, found.entities
    space = entities.get("space", "")
    place = space or " ".join(_ends(entities))
    by_word: dict[str, str] = {}
    for other in written:
        for word in _words(other):
            by_word.setdefault(word, derivative_uri(other))
    sources: list[str] = []
    for listed in kind.sources.get(place, kind.sources.get("", ())):
        word = listed.format(kind=kind.name, model=kind.model, space=space)
        if word == RAW:
            sources += raw
        elif word in by_word:
            sources.append(by_word[word])
        elif word.split(" ", 1)[0] not in load_catalogue().kinds:
            raise ConfigError(
                f"{kind.name} names the source {word!r}",
                expected=f"{RAW}, or a kind of maps.yaml",
            )
    return sources


def _ends(entities: Mapping[str, str]) -> list[str]:
    return sorted(entities[key] for key in ("from", "to") if key in entities)


def _words(path: str | PurePath) -> list[str]:
    """Return how `maps.yaml` may name an output: its kind, and its space or its ends in order."""
    found = identify(path)
    entities = found.entities
    if found.kind.is_transform:
        return [f"{found.kind.name} {entities['from']} {entities['to']}"]
    return [f"{found.kind.name} {entities['space']}" if "space" in entities else found.kind.name]
