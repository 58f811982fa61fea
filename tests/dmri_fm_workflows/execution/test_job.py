"""Folders of a participant."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm.errors import OutputError
from dmri_fm_workflows.execution import job
from dmri_fm_workflows.execution.job import remove_work


def test_work_is_removed_and_not_what_its_links_lead_to(tmp_path: Path) -> None:
    work, precious = tmp_path / "work" / "sub-01", tmp_path / "precious"
    for folder in (work / "node", precious):
        folder.mkdir(parents=True)
        (folder / "scan.nii").write_text("voxels")
    (work / "node" / "input").symlink_to(precious)
    remove_work(work)
    assert not work.parent.exists()
    assert (precious / "scan.nii").read_text() == "voxels"


def test_participant_whose_folders_are_links_is_not_started(tmp_path: Path) -> None:
    out, work, precious = tmp_path / "out", tmp_path / "work" / "drope-1" / "sub-a", tmp_path / "p"
    for folder in (out / "sub-a", out / "sub-b", work.parent, precious):
        folder.mkdir(parents=True)
    job._refuse_links(out, "a", work)
    (out / "sub-a" / "dwi").symlink_to(precious)
    with pytest.raises(OutputError, match="sub-a/dwi: is a link"):
        job._refuse_links(out, "a", work)
    work.symlink_to(precious)
    with pytest.raises(OutputError, match="drope-1/sub-a: is a link"):
        job._refuse_links(out, "b", work)
