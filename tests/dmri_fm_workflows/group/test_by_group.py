"""Groups of participants: which columns hold them, and how scans are counted by them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dmri_fm.errors import InputError
from dmri_fm_workflows.group.by_group import cross_tabulate, read_groups
from dmri_fm_workflows.group.distortion import count_methods, tabulate_methods, warn_of_methods

PEOPLE = """participant_id\tage\tbatch\tsiteid\tname
1\t5\tnorth\t1\tann
sub-2\t5\tnorth\t2\tbob
sub-3\t89+\t\t2\tcyd
"""


def scans(*methods: str) -> pd.DataFrame:
    people = [f"sub-{i + 1}" for i in range(len(methods))]
    return pd.DataFrame({"participant_id": people, "sdc_method": methods})


def test_columns_of_words_that_are_shared_and_those_of_known_names_hold_groups(
    tmp_path: Path,
) -> None:
    people = tmp_path / "participants.tsv"
    people.write_text(PEOPLE)
    assert read_groups(people) == {
        "sub-1": {"siteid": "1", "batch": "north"},
        "sub-2": {"siteid": "2", "batch": "north"},
        "sub-3": {"siteid": "2", "batch": "n/a"},
    }
    assert read_groups(tmp_path / "none.tsv") == {}
    people.write_text("who\tgroup\n1\tx\n")
    with pytest.raises(InputError, match="no column participant_id"):
        read_groups(people)


def test_scans_are_counted_by_group_and_one_group_is_no_table() -> None:
    groups = {
        "sub-1": {"site": "1", "centre": "north"},
        "sub-2": {"site": "2", "centre": "north"},
        "sub-3": {"site": "2", "centre": "north"},
    }
    participants = ["sub-1", "sub-2", "sub-3", "sub-3"]
    (site,) = cross_tabulate({"out": [True, False, True, True]}, participants, groups)
    assert (site.column, site.levels) == ("site", ("out",))
    assert site.rows == (("1", 1, (1,)), ("2", 3, (2,)))


def test_methods_are_counted_by_site() -> None:
    quality = scans("none", "topup", "topup", "n/a")
    groups = {f"sub-{i}": {"site": "AB"[i > 2]} for i in range(1, 5)}
    assert count_methods(quality) == {"topup": 2, "none": 1, "n/a": 1}
    (site,) = tabulate_methods(quality, groups)
    assert site.levels == ("topup", "none", "n/a")
    assert site.rows == (("A", 2, (1, 1, 0)), ("B", 2, (1, 0, 1)))
    assert tabulate_methods(scans("topup", "topup"), groups) == ()


@pytest.mark.parametrize(
    ("methods", "level"),
    [
        (("none", "pepolar"), "warning"),
        (("fieldmap", "pepolar"), "note"),
        (("none", "none", "n/a"), "warning"),
        (("pepolar", "n/a"), "warning"),
        (("n/a", "n/a"), None),
        ((), None),
    ],
)
def test_mixed_correction_is_warned_of(methods: tuple[str, ...], level: str | None) -> None:
    assert [w.level for w in warn_of_methods(scans(*methods))] == ([level] if level else [])
    assert list(warn_of_methods(scans(*methods).drop(columns="sdc_method"))) == []
