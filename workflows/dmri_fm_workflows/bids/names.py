"""BIDS file names: their entities, suffix and extension, and the stem of a scan's outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import MappingProxyType

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

_LABEL = re.compile(r"[0-9A-Za-z+]+")
_NOT_IN_LABELS = re.compile(r"[^0-9A-Za-z+]+")
_KEY = re.compile(r"[a-z]+")
_SUFFIX = re.compile(r"[0-9A-Za-z]+")
_EXTENSION = re.compile(r"\.nii\.gz|\.[0-9a-z]+")


def is_label(label: str) -> bool:
    """Tell whether BIDS allows a label: letters, digits and, since 1.10, `+`.

    Examples
    --------
    >>> is_label("b1000+"), is_label("A_x"), is_label("pre-1"), is_label("")
    (True, False, False, False)
    """
    return _LABEL.fullmatch(label) is not None


def plain_label(label: str) -> str:
    """Return a label without the characters that BIDS does not allow.

    Examples
    --------
    >>> plain_label("WMH_MRI_01H")
    'WMHMRI01H'
    """
    return _NOT_IN_LABELS.sub("", label)


def find_fault(name: str) -> str | None:
    """Return the fault that makes a file name invalid in BIDS; None if it is valid.

    An invalid name is ambiguous: `sub-WMH_MRI_01H_dwi.nii.gz` is not of participant `WMH`.
    The order of entities, and which of them a suffix allows, are not checked.

    Examples
    --------
    >>> find_fault("sub-01_dir-AP_dwi.nii.gz")
    >>> find_fault("sub-WMH_MRI_01H_dwi.nii.gz")
    "'MRI' is no entity: it has no dash"
    >>> find_fault("sub-01_run-1_run-2_dwi.nii.gz")
    'run- stands there twice'
    >>> find_fault("sub-01_acq-_dwi.nii.gz"), find_fault("sub-01_acq-b0.5_dwi.nii.gz")
    ('acq- has no label', "'.5_dwi.nii.gz' is no extension: it begins at the first dot")
    """
    stem, dot, rest = name.partition(".")
    *words, suffix = stem.split("_")
    keys: set[str] = set()
    if not _EXTENSION.fullmatch(dot + rest):
        return f"{dot + rest!r} is no extension: it begins at the first dot"
    for word in words:
        key, dash, label = word.partition("-")
        if not dash:
            return f"{word!r} is no entity: it has no dash"
        if not _KEY.fullmatch(key):
            return f"{key!r} in {word!r} is no entity: keys are lower-case letters"
        if key in keys:
            return f"{key}- stands there twice"
        if not label:
            return f"{key}- has no label"
        if not is_label(label):
            return f"{label!r} is no label: letters and digits only"
        keys.add(key)
    if not _SUFFIX.fullmatch(suffix):
        return f"{suffix!r} is no suffix: letters and digits only"
    return None


def split_name(path: PurePath) -> tuple[dict[str, str], str, str]:
    """Split a file name into entities, suffix and extension.

    Entities outside :data:`SCAN_ENTITIES` keep their short key. The suffix is the last word, or
    empty if that is an entity. The extension begins at the first dot.

    Examples
    --------
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


def own_file(image: Path, extension: str) -> Path:
    """Return the path of an image's own file with another extension, beside the image.

    Examples
    --------
    >>> own_file(Path("dwi/sub-01_dwi.nii.gz"), ".bval").name
    'sub-01_dwi.bval'
    """
    return image.with_name(image.name.partition(".")[0] + extension)


def contrast_of(path: Path | None) -> str:
    """Return `T2w` for an anatomical image of that name, else `T1w`: filters allow others.

    Examples
    --------
    >>> contrast_of(Path("sub-01_T2w.nii.gz")), contrast_of(Path("sub-01_UNIT1.nii.gz"))
    ('T2w', 'T1w')
    """
    return "T2w" if path is not None and split_name(path)[1] == "T2w" else "T1w"


def session_of(path: PurePath) -> str:
    """Return the label of an image's session, which its folder says; empty outside the sessions.

    Examples
    --------
    >>> session_of(Path("sub-01/ses-a/dwi/sub-01_ses-a_dwi.nii.gz")), session_of(Path("x/y.nii"))
    ('a', '')
    """
    folder = path.parent.parent.name
    return folder.removeprefix("ses-") if folder.startswith("ses-") else ""
