"""Tables that are joined, columns and rows that are chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.scan_tables import LeftOut, ScanTable
from dmri_fm_lab.table_selection import choose_columns, join_tables, select_rows


def table(name: str, left_out: tuple[LeftOut, ...] = (), **columns: list[float]) -> ScanTable:
    index = pd.Index([f"sub-{i}" for i in range(len(next(iter(columns.values()))))])
    values = pd.DataFrame(columns, index=index)
    return ScanTable(pd.DataFrame({"participant_id": index}, index), values, left_out, Path(name))


def test_shared_measures_have_to_be_equal_and_differing_protocol_columns_are_named(caplog) -> None:
    first = table("a.tsv", fa=[0.1, np.nan, 0.3], max_bval=[1000.0, 1000, 1000])
    second = table("b.tsv", fa=[0.1, np.nan], max_bval=[995.0, 1000], md=[1.0, 2.0])
    third = table("c.tsv", max_bval=[1000.0, 1000], n_volumes=[30.0, 30])
    joined = join_tables([first, second, third])
    assert list(joined.values) == ["fa", "md", "n_volumes"]
    assert joined.left_out == (LeftOut("sub-2", "no row in b.tsv"),)
    assert "not used, since tables differ in them: max_bval (a.tsv, b.tsv, c.tsv)" in caplog.text
    other = table("d.tsv", fa=[0.1, 0.2, 0.3])
    with pytest.raises(InputError, match=r"columns with other values in a.tsv: fa"):
        join_tables([first, other])


def test_a_scan_is_left_out_once_with_the_rule_that_excludes_it(caplog) -> None:
    marked = LeftOut("sub-2", "excluded by QC: mean_fd > 1")
    joined = join_tables([table("a.tsv", fa=[1.0, 2, 3]), table("b.tsv", (marked,), md=[1.0, 2])])
    assert list(joined.values.index) == ["sub-0", "sub-1"]
    assert joined.left_out == (marked,)
    assert caplog.text == ""


def test_a_pattern_without_a_column_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no column ad_\*, x in the table"):
        choose_columns(["fa_*", "ad_*", "x"], ["fa_a"], where="the table")


PEOPLE = pd.DataFrame(
    {
        "age": [30.0, np.nan, 50.0],
        "group": pd.Series(["patient", "control", np.nan], dtype=object),
        "sex (M/F)": ["F", "not known", "M"],
        "code": ["1", "02", "x"],
        "site": ["a and  b", "2_1", "it's 'a'"],
    }
)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("age >= 40", [2]),
        # What is missing neither equals nor differs.
        ("age != 30", [2]),
        ("group != patient", [1]),
        ("group == 'patient' or age > 40", [0, 2]),
        ("`sex (M/F)` == 'not known'", [1]),
        # A word differs from every number.
        ("code != 2", [0, 2]),
        ('code == "02"', [1]),
        # A word with an underscore is no number, and quotes keep what is in them.
        ("site == 2_1", [1]),
        ('site == "a and  b"', [0]),
        ("site  ==\n'a and  b'\n or site == 2_1", [0, 1]),
        ("site == 'a and b'", []),
        ("site == \"it's 'a'\"", [2]),
    ],
)
def test_conditions_choose_rows(condition: str, rows: list[int]) -> None:
    assert np.flatnonzero(select_rows(PEOPLE, condition)).tolist() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("height > 3", "no column height"),
        ("age == young", "a number for age"),
        ("age == 2_1", "a number for age"),
        ("age > 2_1", "'2_1' is no number"),
        ("age < -Infinity", "'-Infinity' is not finite"),
        ("age < 1e999", "'1e999' is not finite"),
        ("group > b", "'b' is no number"),
        ("group > 3", "group is text"),
        ("age > 3 and", "'' is no comparison"),
        ("age > 3, group == b", "', group == b' is not `and` or `or`"),
        ("sex (M/F) == M", "is no comparison"),
    ],
)
def test_conditions_that_cannot_be_read(condition: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        select_rows(PEOPLE, condition)
    assert message in str(caught.value)
    assert f"condition {condition!r}" in str(caught.value)
