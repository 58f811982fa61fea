"""A pybids database gives the same scans as the folders."""

from __future__ import annotations

import shutil

import pytest

from dmri_fm.errors import ConfigError, LayoutError
from dmri_fm_workflows.bids import read_dataset


def test_database_and_folders_give_the_same_scans_and_problems(maker, tmp_path) -> None:
    maker.dwi("sub-01_ses-a_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-02_dwi", metadata=maker.AP)
    wrong = maker.root / "sub-02" / "dwi" / "sub-03_dwi.nii.gz"
    shutil.copy(maker.root / "sub-02" / "dwi" / "sub-02_dwi.nii.gz", wrong)
    copies = maker.root / "sub-02" / "dwi" / "old"
    shutil.copytree(maker.root / "sub-02" / "dwi", copies)
    listed = read_dataset(maker.root)
    for _ in ("made", "read"):
        indexed = read_dataset(maker.root, database_dir=tmp_path / "database")
        assert [p.label for p in indexed.participants] == ["01", "02"]
        assert [str(p.error) for p in indexed.problems] == [str(p.error) for p in listed.problems]
        assert [p.path for p in indexed.problems] == [wrong]


def test_database_serves_any_later_label(maker, tmp_path) -> None:
    for label in ("01", "02"):
        maker.dwi(f"sub-{label}_dwi", metadata=maker.AP)
    database = tmp_path / "database"
    for label in ("01", "02"):
        dataset = read_dataset(maker.root, participant_labels=[label], database_dir=database)
        assert [p.label for p in dataset.participants] == [label]
    assert any(database.iterdir())


def test_stale_database_is_hinted_at(maker, tmp_path) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    database = tmp_path / "database"
    read_dataset(maker.root, database_dir=database)
    maker.dwi("sub-02_dwi", metadata=maker.AP)
    with pytest.raises(LayoutError, match=f"remove {database}"):
        read_dataset(maker.root, participant_labels=["02"], database_dir=database)


def test_database_of_another_dataset_is_refused(maker, tmp_path) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    read_dataset(maker.root, database_dir=tmp_path / "database")
    copy = tmp_path / "copy"
    shutil.copytree(maker.root, copy)
    with pytest.raises(ConfigError, match="database of another dataset"):
        read_dataset(copy, database_dir=tmp_path / "database")


def test_damaged_database_is_named(maker, tmp_path) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    database = tmp_path / "database"
    read_dataset(maker.root, database_dir=database)
    for path in database.rglob("*.sqlite"):
        path.write_bytes(b"damaged" * 999)
    with pytest.raises(ConfigError, match="database cannot be used") as caught:
        read_dataset(maker.root, database_dir=database)
    assert caught.value.path == database
