"""Ratings that pages saved: which count, and what the table of image quality gets of them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import dmri_fm_workflows.report as report
from dmri_fm.errors import InputError
from dmri_fm_workflows.group.ratings import LEVELS, Ratings, read_ratings
from dmri_fm_workflows.run_group import run_group

HEADER = "scan_id\trating\tcomment\trater\trated\n"
QUALITY = pd.DataFrame({
    "scan_id": ["sub-1", "sub-2", "sub-3"], "participant_id": ["sub-1", "sub-2", "sub-3"],
    "mean_fd": ["0.2", "0.7", "n/a"],
})  # fmt: skip


def write(path: Path, *rows: str) -> Path:
    path.write_text(HEADER + "".join("\t".join(row.split("|")) + "\n" for row in rows))
    return path


def test_the_pages_offer_the_levels_that_are_read() -> None:
    script = Path(report.__file__).parent / "templates" / "ratings.js"
    offered = re.search(r'\["", ([^]]+)\]\.forEach', script.read_text(encoding="utf-8"))
    assert offered is not None
    assert tuple(re.findall(r'"(\w+)"', offered[1])) == LEVELS


def test_the_worst_rating_stands_and_everybody_is_named(tmp_path: Path) -> None:
    anna = write(tmp_path / "a.tsv", "sub-1|acceptable|n/a|Anna|2026-01-02T00:00:00Z",
                 "sub-3|n/a|cut at the top|Anna|2026-01-02T00:00:00Z")  # fmt: skip
    bob = write(tmp_path / "b.tsv", "sub-1|exclude|moved|Bob|2026-01-01T00:00:00Z",
                "sub-9|poor|n/a|n/a|n/a")  # fmt: skip
    ratings = read_ratings([anna, bob])
    table = ratings.add_to(QUALITY)
    assert table.columns.tolist() == [
        "scan_id", "participant_id", "rating", "raters", "rating_comment", "mean_fd"
    ]  # fmt: skip
    assert table["rating"].tolist() == ["exclude", "n/a", "n/a"]
    assert table["raters"].tolist() == ["Anna; Bob", "n/a", "Anna"]
    assert table["rating_comment"].tolist() == ["Bob: moved", "n/a", "Anna: cut at the top"]
    assert ratings.find_unknown(QUALITY) == ["sub-9"]
    assert ratings.count(QUALITY["scan_id"]) == {"exclude": 1}
    assert "rating" not in QUALITY
    assert Ratings().add_to(QUALITY) is QUALITY


def test_of_one_rater_the_latest_rating_counts(tmp_path: Path) -> None:
    new = write(tmp_path / "new.tsv", "sub-1|excellent|n/a|Anna|2026-01-03T00:00:00Z")
    old = write(tmp_path / "old.tsv", "sub-1|poor|n/a|Anna|2026-01-02T00:00:00Z")
    for paths in ([new, old], [old, new]):
        assert read_ratings(paths).worst("sub-1") == "excellent"
    no_name = [
        write(tmp_path / f"{word}.tsv", f"sub-1|{word}|n/a|n/a|n/a")
        for word in ("exclude", "poor")
    ]
    assert read_ratings(no_name).worst("sub-1") == "exclude"
    untimed = write(tmp_path / "untimed.tsv", "sub-1|acceptable|n/a|Anna|n/a")
    assert read_ratings([new, untimed]).worst("sub-1") == "acceptable"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan_id\tgrade\nsub-1\tpoor\n", "no column rating"),
        (HEADER + "sub-1\tgood\tn/a\tAnna\tn/a\n", "line 2 rates sub-1 as 'good'"),
        (HEADER + "sub-1\tpoor\n", "line 2 has 2 cells"),
    ],
)
def test_other_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ratings.tsv"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_ratings([path])
    assert "ratings.tsv" in str(caught.value)


def test_group_takes_ratings_up_and_rules_can_use_them(make_outputs, tmp_path, caplog) -> None:
    outputs = make_outputs(tmp_path / "out")
    outputs.root.mkdir()
    for i in range(2):
        outputs.add_participant(f"{i}", fd=0.1)
    saved = write(tmp_path / "ratings.tsv", "sub-0_dir-AP|exclude|<b>=1+1|Anna|n/a",
                  "sub-7|poor|n/a|Anna|n/a")  # fmt: skip
    code = run_group(outputs.root, ratings=[saved], qc_exclude=["rating == exclude"])
    assert code == 0
    assert "Ratings of scans that are not there: sub-7" in caplog.text
    stem = outputs.root / "group" / "desc-image_qc"
    table = pd.read_csv(stem.with_suffix(".tsv"), sep="\t")
    assert table["qc_exclude"].fillna("").tolist() == ["rating == exclude", ""]
    assert table["rating"].fillna("").tolist() == ["exclude", ""]
    assert pq.read_table(stem.with_suffix(".parquet")).schema.field("rating").type == "string"
    page = (outputs.root / "group" / "report.html").read_text(encoding="utf-8")
    assert "Anna: &lt;b&gt;=1+1" in page
    assert "1 (1 exclude)" in page
    assert "Ratings of scans that have no row here (1): sub-7." in page
