"""JSON that Python would take, or choke on, and nobody could use."""

from __future__ import annotations

import json
import math
import os

import pytest

from dmri_fm.errors import InputError, WeightsError
from dmri_fm.json_files import MAX_JSON_BYTES, MAX_NESTING, read_object

HOSTILE = {
    "integer of 400 digits": (b'{"a": ' + b"9" * 400 + b"}", "an integer of 400 digits"),
    "integer of 5000 digits": (b'{"a": -' + b"9" * 5000 + b"}", "an integer of 5000 digits"),
    "deep lists": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nests deeper than 64"),
    "deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nests deeper than 64"),
    "a little too deep": (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "nests deeper than 64"),
    "half a character": (rb'{"a": "x\ud800y"}', "surrogate"),
    "half a character in a key": (rb'{"x\udfff": 1}', "surrogate"),
    "key twice": (b'{"a": "j", "a": "j-"}', "'a' stands there twice"),
    "true is not 1": (b'{"a": true, "a": 1}', "'a' stands there twice"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "it is UTF-16; save it as UTF-8"),
    "UTF-32": ('{"a": 1}'.encode("utf-32"), "it is UTF-32"),
    "Latin-1": ('{"a": "ü"}'.encode("latin-1"), "byte 7 is not UTF-8"),
    "empty": (b"", "it is empty"),
    "NUL": (b"\0", "cannot be read as JSON"),
    "cut": (b'{"a": ', "cannot be read as JSON"),
    "list": (b"[1]", "holds a list"),
    "number": (b"3", "holds a int"),
    "too large": (b" " * MAX_JSON_BYTES + b"{}", "it is larger than 16 MB"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_carried_on_is_refused(tmp_path, name) -> None:
    content, words = HOSTILE[name]
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_object(path)
    assert caught.value.path == path
    assert caught.value.expected
    # The message itself can be printed, and is short.
    assert len(str(caught.value).encode()) < 1000


def test_what_is_no_regular_file_is_refused_unopened(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "device.json").symlink_to("/dev/zero")
    for name in ("pipe.json", "folder.json", "device.json"):
        with pytest.raises(InputError, match="no regular file"):
            read_object(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        read_object(tmp_path / "missing.json")


def test_caller_names_the_kind_of_error(tmp_path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read as JSON") as caught:
        read_object(tmp_path / "x.json", error_class=WeightsError, expected="weights")
    assert caught.value.expected == "weights"


def test_rare_and_usable_content_is_kept(tmp_path) -> None:
    path = tmp_path / "x.json"
    deepest = b"[" * (MAX_NESTING - 1) + b"]" * (MAX_NESTING - 1)
    path.write_bytes(
        b'\xef\xbb\xbf{"big": ' + b"9" * 308 + b', "nan": NaN, "inf": 1e999, "same": 1, "same": 1,'
        b' "text": "\\u0000\\ud83d\\ude00", "deep": ' + deepest + b"}"
    )
    found = read_object(path)
    assert float(found["big"]) == 1e308
    assert math.isnan(found["nan"])
    assert found["inf"] == math.inf
    assert found["text"] == "\0\N{GRINNING FACE}"
    assert json.dumps(found).encode()


def test_a_list_is_refused_with_advice(tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]")
    with pytest.raises(InputError, match="holds a list") as caught:
        read_object(path)
    assert "between braces" in caught.value.advice
