"""Tables that are joined, scans that are chosen, and the file for R."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from dmri_fm.errors import ConfigError, InputError
from dmri_fm_lab.__main__ import main
from dmri_fm_lab.exports import Source, read_source, write_csv
from dmri_fm_lab.scan_tables import count_reasons

FIRST = "participant_id\tsession_id\tfa\nsub-1\tses-a\t0.1\nsub-1\tses-b\t0.3\nsub-2\tses-a\t0.5\n"
SECOND = "participant_id\tsession_id\tcls000\tfa\nsub-1\tses-a\t1\t0.1\nsub-2\tses-a\t2\t0.5\n"
SECOND += "sub-3\tses-a\t3\t0.6\n"
PEOPLE = "participant_id\tage\tsex (M/F)\nsub-1\t50\tM\nsub-2\tn/a\tF\nsub-3\t52\tF\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    for name, text in (("a", FIRST), ("b", SECOND), ("people", PEOPLE)):
        (tmp_path / f"{name}.tsv").write_text(text)
    return tmp_path / "a.tsv", tmp_path / "b.tsv", tmp_path / "people.tsv"


def test_a_scan_has_to_be_in_all_tables(files: tuple[Path, Path, Path]) -> None:
    cohort = read_source(Source(files[:2], files[2]))
    assert list(cohort.values.index) == ["sub-1_ses-a", "sub-2_ses-a"]
    assert list(cohort.values) == ["fa", "cls000"]
    assert count_reasons(cohort.left_out) == {"no row in b.tsv": 1, "no row in a.tsv": 1}
    text = files[1].read_text().replace("0.1\n", "0.2\n")
    files[1].write_text(text)
    with pytest.raises(InputError, match=r"columns with other values in .*: fa"):
        read_source(Source(files[:2], files[2]))


def test_an_exclusion_in_one_table_counts_once(files: tuple[Path, Path, Path]) -> None:
    text = files[1].read_text().splitlines()
    marks = ["qc_exclude", "mean_fd > 1", "n/a", "n/a"]
    rows = [f"{row}\t{mark}" for row, mark in zip(text, marks, strict=True)]
    files[1].write_text("\n".join(rows) + "\n")
    for tables in (files[:2], files[1::-1]):
        cohort = read_source(Source(tables, files[2]))
        assert list(cohort.values.index) == ["sub-2_ses-a"]
        assert count_reasons(cohort.left_out) == {
            "excluded by QC: mean_fd > 1": 1, "no row in b.tsv": 1, "no row in a.tsv": 1,
        }  # fmt: skip


def test_several_scans_ask_for_a_choice(files: tuple[Path, Path, Path]) -> None:
    with pytest.raises(ConfigError, match="1 participants have several scans: sub-1"):
        read_source(Source(files[:1], files[2]))
    assert list(read_source(Source(files[:1], files[2], scans="first")).values["fa"]) == [0.1, 0.5]
    assert list(read_source(Source(files[:1], files[2], scans="mean")).values["fa"]) == [0.2, 0.5]
    assert len(read_source(Source(files[:1], files[2], scans="all"))) == 3


def test_a_mean_has_the_mean_age_and_no_scanner_of_two(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    visits = tmp_path / "sessions.tsv"
    visits.write_text(
        "participant_id\tsession_id\tage\tscanner\tcentre\n"
        "sub-1\ta\t50\tx\tA\nsub-1\tb\t53\ty\tA\nsub-2\ta\t40\tx\tB\n"
    )
    people = read_source(Source(files[:1], files[2], sessions=visits, scans="mean")).people
    assert list(people["age"]) == [51.5, 40]
    assert list(people["scanner"].isna()) == [True, False]
    assert list(people["centre"]) == ["A", "B"]


def test_the_table_for_r(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    assert main(["export", "csv", str(files[0]), "--participants", str(files[2]), "--scans", "all",
                 "--out", str(path)]) == 0  # fmt: skip
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["scan_id", "participant_id", "session_id", "age", "sex..M.F.", "fa"]
    assert rows[1] == {"scan_id": "sub-1_ses-b", "participant_id": "sub-1", "session_id": "ses-b",
                       "age": "50", "sex..M.F.": "M", "fa": "0.3"}  # fmt: skip
    assert rows[2]["age"] == "NA"
    assert json.loads(path.with_suffix(".json").read_text())["Scans"] == 3


def test_names_that_become_one_in_r_are_refused(
    files: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    files[0].write_text(FIRST.replace("fa", "fa-x\tfa x").replace("0.", "0.2\t0."))
    cohort = read_source(Source(files[:1], files[2], scans="all"))
    with pytest.raises(ConfigError, match=r"one name in R: fa\.x"):
        write_csv(cohort, tmp_path / "r.csv")
    write_csv(cohort, tmp_path / "r.csv", columns=["fa-x"])
    assert list(pd.read_csv(tmp_path / "r.csv"))[-1] == "fa.x"
