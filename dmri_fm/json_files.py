"""JSON files read strictly: their values can be printed, hashed and written again.

Python's reader accepts more than other programs can handle, and fails in five ways on the rest.
Here such files are refused with one class of error.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

from dmri_fm.errors import DmriError, InputError

#: Characters of a file that a message quotes.
MAX_QUOTED = 200

#: Larger files are no sidecars; the largest that converters write have a few MB.
MAX_JSON_BYTES = 16 * 2**20

#: Deepest nesting of objects and lists. Sidecars nest three or four deep.
MAX_NESTING = 64

#: Longest integer, digits: the longest that a float holds. Nothing that is measured comes near.
MAX_DIGITS = 308

_WIDE_TEXT = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_SURROGATE = re.compile("[\ud800-\udfff]")


class _UnusableError(ValueError):
    """Reason why a file is refused; becomes the caller's error."""


def read_object(
    path: str | Path, *, error_class: type[DmriError] = InputError, expected: str | None = None
) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Parameters
    ----------
    path
        UTF-8, with or without a byte order mark.
    error_class
        Class of the error.
    expected
        Content of the file, for the error.

    Returns
    -------
    dict
        Every text can be encoded, every integer fits a float, nothing nests deeper than
        :data:`MAX_NESTING`. Numbers may still be NaN or infinite.

    Raises
    ------
    DmriError
        Of the given class: no regular file, larger than :data:`MAX_JSON_BYTES`, no JSON, no
        object, a key that stands twice with different values, or a value that is refused.
    """
    path = Path(path)
    expected = expected or "a JSON object in UTF-8"
    try:
        content = _parse(_read_text(path))
        _check_values(content)
    except (OSError, ValueError) as error:
        raise error_class(
            f"cannot be read as JSON ({_shorten(_describe(error))})",
            path=path,
            expected=expected,
            advice="repair the file; a JSON validator names the line",
        ) from None
    if not isinstance(content, dict):
        raise error_class(
            f"holds a {type(content).__name__}",
            path=path,
            expected=expected if "object" in expected else f"{expected}: a JSON object {{...}}",
            advice='write the entries between braces, {"Name": value}; a list or a bare value has '
            "no names",
        )
    return content


def _read_text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise _UnusableError("it is no regular file")
    with path.open("rb") as stream:
        data = stream.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise _UnusableError(f"it is larger than {MAX_JSON_BYTES // 2**20} MB")
    if not data:
        raise _UnusableError("it is empty")
    for mark, name in _WIDE_TEXT.items():
        if data.startswith(mark):
            raise _UnusableError(f"it is {name}; save it as UTF-8")
    return data.decode("utf-8-sig")


def _parse(text: str) -> Any:
    try:
        return json.loads(text, parse_int=_parse_integer, object_pairs_hook=_parse_pairs)
    except RecursionError:
        raise _UnusableError(f"it nests deeper than {MAX_NESTING} levels") from None


def _parse_integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise _UnusableError(f"an integer of {len(text.lstrip('-'))} digits")
    return int(text)


def _parse_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for key, value in pairs:
        # repr tells 1 from true and 1.0, and finds NaN equal to itself.
        if key in parsed and repr(parsed[key]) != repr(value):
            raise _UnusableError(f"the key {_shorten(key)!r} stands there twice")
        parsed[key] = value
    return parsed


def _check_values(content: Any) -> None:
    """Walk through a value without recursion; refuse deep nesting and half characters."""
    waiting = [(content, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            if _SURROGATE.search(value):
                raise _UnusableError(f"half a character (a lone surrogate) in {_shorten(value)!a}")
        elif isinstance(value, dict | list):
            if depth > MAX_NESTING:
                raise _UnusableError(f"it nests deeper than {MAX_NESTING} levels")
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            waiting.extend((part, depth + 1) for part in parts)


def _describe(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 3] + "..."
