"""Scans whose owner is in doubt: named, no output under any label, and no exit code 0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.run import run_participants


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """A dataset in which nothing can be told apart for sure; images need not be read for that."""
    root = tmp_path / "raw"
    for name in (
        "sub-A_x/dwi/sub-A_x_dwi",
        "sub-A_y/dwi/sub-A_y_dwi",
        "sub-WMHMRI01H/dwi/sub-WMH_MRI_01H_dwi",
    ):
        for ending in (".nii.gz", ".json", ".bval", ".bvec"):
            path = root / (name + ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    return root


def run(bids: Path, tmp_path: Path, *, dry_run: bool) -> int:
    config = RunConfig(
        bids_dir=bids,
        output_dir=tmp_path / "out",
        analysis_level="participant",
        models=(),
        nprocs=1,
        dry_run=dry_run,
    )
    return run_participants(config)


def test_run_names_them_and_writes_nothing_under_another_label(bids, tmp_path, capsys) -> None:
    assert run(bids, tmp_path, dry_run=False) == 1
    said = capsys.readouterr().out
    for words in ("sub-A_x: 'A_x' is no label", "sub-A_y: 'A_y'", "sub-WMH_MRI_01H_dwi.nii.gz:"):
        assert words in said
    written = {p.relative_to(tmp_path / "out").parts[0] for p in (tmp_path / "out").rglob("sub-*")}
    assert written - {"work"} == {"sub-WMHMRI01H", "sub-WMHMRI01H.html"}
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    (record,) = (tmp_path / "out" / "sub-WMHMRI01H" / "log").rglob("provenance.json")
    assert json.loads(record.read_text())["status"] == "failed"


def test_folders_alone_are_reason_enough_for_an_error(bids, tmp_path, capsys) -> None:
    (bids / ".bidsignore").write_text("sub-WMH*\n")
    assert run(bids, tmp_path, dry_run=True) == 1
    assert run(bids, tmp_path, dry_run=False) == 1
    assert "Not read: sub-A_x, sub-A_y." in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("sub-*"))
