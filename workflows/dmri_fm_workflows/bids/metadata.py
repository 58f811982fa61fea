"""Entries of sidecars that this program uses, read by the type that BIDS gives them.

An entry of another type counts as absent; :func:`list_ignored` names it.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

#: Values of PhaseEncodingDirection.
PHASE_ENCODINGS = ("i", "i-", "j", "j-", "k", "k-")


def read_number(metadata: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number; None if there is none.

    Examples
    --------
    >>> read_number({"EchoTime": 0.08}, "EchoTime")
    0.08
    >>> [read_number({"EchoTime": v}, "EchoTime") for v in ([0.08], "0.08", True, math.nan)]
    [None, None, None, None]
    """
    value = metadata.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def read_text(metadata: Mapping[str, Any], key: str) -> str:
    """Return a text; empty if there is none."""
    value = metadata.get(key)
    return value if isinstance(value, str) else ""


def words(value: object) -> tuple[str, ...]:
    """Return the texts of an entry that holds one or several, without empty ones and repeats.

    Examples
    --------
    >>> words("a"), words(["a", "", "b", 3, "a"]), words(None)
    (('a',), ('a', 'b'), ())
    """
    listed = value if isinstance(value, list | tuple) else [value]
    return tuple(dict.fromkeys(w for w in listed if isinstance(w, str) and w.strip()))


def read_words(metadata: Mapping[str, Any], key: str) -> tuple[str, ...]:
    r"""Return a list of words, or the words of one text, which DICOM parts by backslashes.

    Examples
    --------
    >>> read_words({"ImageType": ["ORIGINAL", "M", 3]}, "ImageType")
    ('ORIGINAL', 'M')
    >>> read_words({"ImageType": "ORIGINAL\\M"}, "ImageType")
    ('ORIGINAL', 'M')
    >>> read_words({"ImageType": 3}, "ImageType")
    ()
    """
    return tuple(w for text in words(metadata.get(key)) for w in text.split("\\"))


def describe_fault(metadata: Mapping[str, Any], key: str, wanted: str) -> str:
    """Describe an unusable entry: `missing`, or its value and `wanted`.

    Examples
    --------
    >>> describe_fault({}, "TotalReadoutTime", "which is no time in seconds")
    'missing'
    >>> describe_fault({"TotalReadoutTime": 50}, "TotalReadoutTime", "which is no time in seconds")
    '50, which is no time in seconds'
    """
    value = metadata.get(key)
    return "missing" if value is None else f"{reprlib.repr(value)}, {wanted}"


#: Entries in use, by type. PhaseEncodingDirection is named where a phase encoding is needed.
_TYPES: Mapping[str, tuple[str, ...]] = {
    "a finite number": (
        "EchoTime", "EchoTime1", "EchoTime2", "TotalReadoutTime", "EffectiveEchoSpacing",
        "ReconMatrixPE",
    ),
    "text": ("SeriesDescription", "Units"),
    "text or a list of texts": ("ImageType", "IntendedFor", "B0FieldIdentifier", "B0FieldSource"),
}  # fmt: skip


def _is_of(wanted: str, metadata: Mapping[str, Any], key: str) -> bool:
    if wanted == "a finite number":
        return read_number(metadata, key) is not None
    value = metadata[key]
    if wanted == "text or a list of texts" and isinstance(value, list | tuple):
        return all(isinstance(text, str) for text in value)
    return isinstance(value, str)


def list_ignored(metadata: Mapping[str, Any], *, skip: Collection[str] = ()) -> Iterator[str]:
    """Yield the entries whose type cannot be used, but for the keys in `skip`.

    Examples
    --------
    >>> list(list_ignored({"EchoTime": [0.08], "ImageType": ["M"]}))
    ['EchoTime is [0.08], not a finite number: it is ignored']
    """
    for wanted, key in ((wanted, key) for wanted, keys in _TYPES.items() for key in keys):
        if key not in skip and metadata.get(key) is not None and not _is_of(wanted, metadata, key):
            yield f"{key} is {reprlib.repr(metadata[key])}, not {wanted}: it is ignored"
