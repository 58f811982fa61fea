from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.scan_tables import (
    Cohort,
    count_reasons,
    join_people,
    one_scan_each,
    read_people,
    read_scan_table,
)

SCANS = """participant_id\tsession_id\tdirection\tqc_exclude\tfa\tmd\tnote
sub-01\tses-a\tAP\tn/a\t0.5\t0.7\tx
sub-01\tses-b\tAP\tn/a\t0.3\tn/a\ty
sub-02\tses-a\tAP\tmean_fd > 1\t0.4\t0.8\tz
sub-03\tses-a\tAP\tn/a\t0.2\t0.9\tz
"""
PEOPLE = "participant_id\tage\tsex\tsite\n01\t60\tF\t1\nsub-02\tn/a\tM\t2\nsub-04\t50\tM\t2\n"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    path = tmp_path / "scans.tsv"
    path.write_text(SCANS)
    return path


@pytest.fixture
def people(tmp_path: Path) -> Path:
    path = tmp_path / "participants.tsv"
    path.write_text(PEOPLE)
    return path


def test_scans_have_a_key_numbers_and_an_exclusion(scans: Path) -> None:
    table = read_scan_table(scans)
    assert list(table.values.index) == [
        "sub-01_ses-a_dir-AP",
        "sub-01_ses-b_dir-AP",
        "sub-03_ses-a_dir-AP",
    ]
    assert list(table.values) == ["fa", "md"]
    assert np.isnan(table.values["md"].iloc[1])
    assert table.left_out == (("sub-02_ses-a_dir-AP", "excluded by QC: mean_fd > 1"),)


def test_parquet_says_what_the_text_says(scans: Path, tmp_path: Path) -> None:
    text = read_scan_table(scans)
    cells = pd.read_csv(scans, sep="\t", na_values=["n/a"])
    cells.to_parquet(tmp_path / "scans.parquet")
    stored = read_scan_table(tmp_path / "scans.parquet")
    pd.testing.assert_frame_equal(text.values, stored.values)
    assert text.left_out == stored.left_out


def test_vectors_come_from_npz(tmp_path: Path) -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.savez(tmp_path / "v.npz", participant_id=["1", "2", "3"], features=vectors)
    table = read_scan_table(tmp_path / "v.npz")
    assert list(table.values.index) == ["sub-1", "sub-2", "sub-3"]
    np.testing.assert_array_equal(table.values, vectors)


def test_a_join_names_everyone_who_is_left_out(scans: Path, people: Path) -> None:
    cohort = join_people(read_scan_table(scans), read_people(people))
    assert list(cohort.people["age"]) == [60, 60]
    assert count_reasons(cohort.left_out) == {
        "excluded by QC: mean_fd > 1": 1,
        "no scan in the table": 1,
        "no row in the table of participants": 1,
    }
    assert ("sub-04", "no scan in the table") in cohort.left_out


def test_sessions_have_columns_of_their_own(scans: Path, people: Path, tmp_path: Path) -> None:
    visits = tmp_path / "sessions.tsv"
    visits.write_text("participant_id\tsession_id\tage\nsub-01\tb\t62\nsub-01\tses-a\t61\n")
    cohort = join_people(read_scan_table(scans), read_people(people, sessions=visits))
    assert list(cohort.people["age"]) == [61, 62]
    assert list(cohort.people["sex"]) == ["F", "F"]


@pytest.mark.parametrize("ending", ["tsv", "npz"])
def test_sessions_of_own_tables_match_with_and_without_prefix(ending, people, tmp_path) -> None:
    visits = tmp_path / "sessions.tsv"
    visits.write_text("participant_id\tsession_id\tage\n01\t1\t61\nsub-01\tses-2\t62\n")
    path = tmp_path / f"own.{ending}"
    if ending == "npz":
        np.savez(path, participant_id=["01", "01"], session_id=["1", "2"], features=np.eye(2))
    else:
        path.write_text("participant_id\tsession_id\tfa\n01\t1\t0.3\n01\tses-2\t0.4\n")
    cohort = join_people(read_scan_table(path), read_people(people, sessions=visits))
    assert list(cohort.people.index) == ["sub-01_ses-1", "sub-01_ses-2"]
    assert list(cohort.people["age"]) == [61, 62]
    path = tmp_path / "one.tsv"
    path.write_text("participant_id\tfa\n01\t0.3\n")
    with pytest.raises(InputError, match="no column session_id, and several sessions"):
        join_people(read_scan_table(path), read_people(people, sessions=visits))


def test_missing_values_are_left_out_by_column(scans: Path, people: Path) -> None:
    cohort = join_people(read_scan_table(scans), read_people(people))
    cohort.people.loc["sub-01_ses-b_dir-AP", "age"] = np.nan
    kept = cohort.complete(["age", "sex"])
    assert list(kept.people.index) == ["sub-01_ses-a_dir-AP"]
    assert ("sub-01_ses-b_dir-AP", "no value of age") in kept.left_out
    with pytest.raises(ConfigError, match="no column height"):
        cohort.complete(["height"])
    cohort.people["weight"] = np.nan
    with pytest.raises(ConfigError, match="no value of weight for any of 2 scans"):
        cohort.complete(["sex", "weight"])
    cohort.people["weight"] = [np.nan, 70.0]
    cohort.people["age"] = [50.0, np.nan]
    both = "none of 2 scans has all columns: age is missing in 1, weight is missing in 1"
    with pytest.raises(ConfigError, match=both):
        cohort.complete(["age", "weight"])


def test_one_scan_of_each_participant(scans: Path, people: Path) -> None:
    cohort = join_people(read_scan_table(scans), read_people(people))
    first = one_scan_each(cohort, how="first")
    assert list(first.values["fa"]) == [0.5]
    assert first.left_out[-1].name == "sub-01_ses-b_dir-AP"
    mean = one_scan_each(cohort, how="mean")
    assert list(mean.values["fa"]) == [0.4]
    assert len(one_scan_each(cohort, by=["participant_id", "session_id"], how="first")) == 2


def test_a_mean_is_of_covariates_too_and_classes_have_none(scans, people, tmp_path) -> None:
    visits = tmp_path / "sessions.tsv"
    visits.write_text(
        "participant_id\tsession_id\tage\tcoil\nsub-01\tb\t62\tx\nsub-01\ta\t61\ty\n"
    )
    cohort = join_people(read_scan_table(scans), read_people(people, sessions=visits))
    mean = one_scan_each(cohort, how="mean", constant=["sex", "site"])
    assert list(mean.people["age"]) == [61.5]
    assert list(mean.people["site"]) == [1]
    with pytest.raises(ConfigError, match="scans of sub-01 differ in coil"):
        one_scan_each(cohort, how="mean", constant=["coil"])


def test_an_empty_cohort_after_all() -> None:
    frame = pd.DataFrame({"participant_id": ["sub-1"]}, index=["sub-1"])
    values = pd.DataFrame({"fa": [0.5]}, index=["sub-1"])
    assert len(Cohort(frame, values).keep(np.array([False]), "a test")) == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "subject\tfa\n1\t2\n", "no column participant_id"),
        ("a.tsv", "participant_id\tfa\n1\t2\nsub-1\t3\n", "1 scans have several rows: sub-1"),
        ("a.tsv", "participant_id\tfa\n1\tx\n", "no column of numbers"),
        ("a.tsv", "", "cannot be read"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.npz", "no zip", "cannot be read"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_scan_table(tmp_path / name)


def test_ids_that_match_nobody_are_listed(scans: Path, tmp_path: Path) -> None:
    other = tmp_path / "p.tsv"
    other.write_text("participant_id\tage\nsub-X1\t5\n")
    with pytest.raises(InputError, match=r"none of the 3 scans.*sub-01, sub-03 against sub-X1"):
        join_people(read_scan_table(scans), read_people(other))
