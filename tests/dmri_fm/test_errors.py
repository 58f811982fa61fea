from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest

from dmri_fm import errors
from dmri_fm.errors import DmriError

ALL = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "parts", [{}, {"path": "a/b.bval"}, {"path": Path("x"), "expected": "e", "advice": "do"}]
)
def test_error_crosses_process_borders_whole(kind, parts) -> None:
    error = kind("found this", **parts)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_message_names_file_find_expectation_and_advice() -> None:
    error = DmriError("3 b-values", path="a.bval", expected="7 b-values", advice="convert again")
    assert str(error).splitlines() == [
        "a.bval: 3 b-values",
        "  expected: 7 b-values",
        "  what to do: convert again",
    ]
    assert str(DmriError("3 b-values")) == "3 b-values"


def test_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    lines = re.findall(r"^ {4}([│├└─ ]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    above: dict[int, type] = {}
    seen = []
    for stem, name in lines:
        kind = getattr(errors, name)
        depth = len(stem) // 4
        above[depth] = kind
        assert kind.__bases__ == (above[depth - 1] if depth else Exception,)
        seen.append(name)
    assert sorted(seen) == sorted(errors.__all__)
