"""What a BIDS file name says, and the stem that the outputs of a scan share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from types import MappingProxyType

__all__ = ["SCAN_ENTITIES", "scan_name", "split_name"]

#: Entities of a raw diffusion scan: key in file names to pybids' long name, in name order.
SCAN_ENTITIES: Mapping[str, str] = MappingProxyType(
    {
        "sub": "subject",
        "ses": "session",
        "acq": "acquisition",
        "ce": "ceagent",
        "rec": "reconstruction",
        "dir": "direction",
        "run": "run",
        "echo": "echo",
        "part": "part",
        "chunk": "chunk",
    }
)


def split_name(path: PurePath) -> tuple[dict[str, str], str, str]:
    """Split a file name into entities, suffix and extension.

    Parameters
    ----------
    path
        A path; its folders are not looked at.

    Returns
    -------
    entities
        Labels as written. Entities outside :data:`SCAN_ENTITIES` keep their short key.
    suffix
        The last word; empty if it is an entity.
    extension
        From the first dot on, dot included.

    Examples
    --------
    >>> from pathlib import Path
    >>> split_name(Path("sub-01_dir-AP_desc-x_dwi.nii.gz"))
    ({'subject': '01', 'direction': 'AP', 'desc': 'x'}, 'dwi', '.nii.gz')
    >>> split_name(Path("dwi.bval"))
    ({}, 'dwi', '.bval')
    """
    stem, dot, extension = path.name.partition(".")
    entities: dict[str, str] = {}
    suffix = ""
    for word in stem.split("_"):
        key, dash, label = word.partition("-")
        if dash:
            entities[SCAN_ENTITIES.get(key, key)] = label
        else:
            suffix = word
    return entities, suffix, dot + extension


def scan_name(entities: Mapping[str, str]) -> str:
    """Join the entities of a scan into the stem that its outputs share.

    Examples
    --------
    >>> scan_name({"acquisition": "x", "subject": "01", "run": "02", "desc": "preproc"})
    'sub-01_acq-x_run-02'
    """
    return "_".join(
        f"{key}-{entities[name]}" for key, name in SCAN_ENTITIES.items() if entities.get(name)
    )
