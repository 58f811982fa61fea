"""Ages from the tables of a raw dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.bids.ages import Age, read_age


@pytest.mark.parametrize(
    ("age", "unit", "years"),
    [
        ("34", None, 34),
        ("0.5", "years", 0.5),
        ("30", "yrs", 30),
        ("18", "months", 1.5),
        ("52", "week", 1),
        ("89+", None, 89),
        ("n/a", None, None),
        ("young", None, None),
        ("3", "gestational weeks", None),
    ],
)
def test_age_follows_the_unit_of_the_sidecar(
    tmp_path: Path, age: str, unit: str | None, years: float | None
) -> None:
    (tmp_path / "participants.tsv").write_text(f"participant_id\tage\nsub-0\t7\nsub-01\t{age}\n")
    if unit is not None:
        (tmp_path / "participants.json").write_text(json.dumps({"age": {"Units": unit}}))
    found = read_age(tmp_path, "01")
    assert found.years == (years if years is None else pytest.approx(years, rel=0.01))
    assert bool(found.problem) == (age != "n/a" and years is None)
    assert read_age(tmp_path, "02") == Age()


@pytest.mark.parametrize("column", ["scan_age", "birth_age", "gestational_age", "PMA"])
def test_another_column_of_ages_is_a_problem(tmp_path: Path, column: str) -> None:
    """As in the tables of newborns, whose `age` may count from conception on."""
    rows = f"participant_id\tage\t{column}\nsub-01\t40\t38.5\n"
    (tmp_path / "participants.tsv").write_text(rows)
    found = read_age(tmp_path, "01")
    assert found.years == 40
    assert repr(column) in found.problem


@pytest.mark.parametrize(
    ("described", "years"),
    [
        ({"Description": "age in weeks"}, None),
        ({"Description": "age in years on the day of the scan"}, 40),
        ({"Units": ["weeks"]}, None),
        ("age in weeks", None),
    ],
)
def test_a_unit_that_is_not_known_is_a_problem(
    tmp_path: Path, described: object, years: float | None
) -> None:
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t40\n")
    (tmp_path / "participants.json").write_text(json.dumps({"age": described}))
    found = read_age(tmp_path, "01")
    assert found.years == years
    assert ("unit that is not known" in found.problem) == (years is None)


def test_the_session_s_own_age_counts_first(tmp_path: Path) -> None:
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t3\n")
    (tmp_path / "sub-01").mkdir()
    sessions = tmp_path / "sub-01" / "sub-01_sessions.tsv"
    sessions.write_text("session_id\tage\nses-a\t1\nses-b\tn/a\n")
    assert [read_age(tmp_path, "01", s).years for s in ("a", "b", "c", "")] == [1, 3, 3, 3]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"participant_id\nsub-01\n"])
def test_tables_without_an_age_leave_it_unknown(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "participants.tsv").write_bytes(content)
    found = read_age(tmp_path, "01")
    assert found.years is None
    assert ("cannot be read" in found.problem) == (content == b"\xff\xfe\x00")


def test_sessions_of_a_dataset_know_the_age(maker) -> None:
    maker.dwi("sub-01_ses-a_dwi", metadata=maker.AP)
    maker.dwi("sub-02_dwi", metadata=maker.AP)
    (maker.root / "participants.tsv").write_text("participant_id\tage\nsub-01\t1.5\n")
    first, second = read_dataset(maker.root).participants
    assert (first.sessions[0].age, second.sessions[0].age) == (Age(1.5), Age())
