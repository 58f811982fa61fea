"""Tables: what is written is read back."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import InputError
from dmri_fm_workflows.outputs.tsv import format_cell, format_table, read_table, scan_columns


def test_round_trip(tmp_path):
    rows = [{"a": "x y", "b": 0.1}, {"a": 'quoted "text"', "b": None}]
    (tmp_path / "t.tsv").write_text(format_table(rows, ["a", "b"]))
    assert read_table(tmp_path / "t.tsv") == [
        {"a": "x y", "b": "0.1"},
        {"a": 'quoted "text"', "b": "n/a"},
    ]


def test_nine_digits_keep_a_float32():
    values = np.random.default_rng(1).normal(size=200).astype(np.float32)
    assert all(np.float32(format_cell(v, digits=9)) == v for v in values)


def test_cell_has_no_tab_and_no_line_end():
    assert format_cell("a\tb\nc") == "a b c"


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "empty"), ("a\tb\n1\n", "line 2 has 1 cells"), (b"\xff\xfe\x00", "cannot be read")],
)
def test_damaged_tables(tmp_path, content, message):
    path = tmp_path / "t.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message):
        read_table(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "missing.tsv")


def test_participant_comes_first():
    columns = list(scan_columns({"run": "2", "subject": "a", "session": "b", "echo": "1"}))
    assert columns[:2] == ["participant_id", "session_id"]
    assert scan_columns({"subject": "a", "session": "b"})["session_id"] == "ses-b"
