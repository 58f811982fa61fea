"""Folders of a participant that are links, or were not fetched."""

from __future__ import annotations

import pytest

from dmri_fm_workflows.bids import read_dataset


@pytest.mark.parametrize(
    ("place", "target", "word"),
    [
        ("sub-01/dwi", "/mnt/nowhere/dwi", "mount the folder"),
        ("sub-01/ses-2", ".git/annex/objects/x", "datalad get"),
        ("sub-01/ses-1/fmap", "/mnt/nowhere/fmap", "mount the folder"),
        ("sub-01/ses-2", "ses-2", "mount the folder"),  # a link to itself
    ],
)
def test_folder_link_that_leads_nowhere_is_a_problem(maker, place, target, word) -> None:
    maker.dwi("sub-01_ses-1_dwi", metadata=maker.AP)
    link = maker.root / place
    link.symlink_to(target)
    dataset = read_dataset(maker.root)
    assert [p.label for p in dataset.participants] == ["01"]
    assert [(p.participant, p.path) for p in dataset.problems] == [("01", link)]
    assert word in str(dataset.problems[0].error)


def test_folder_link_of_a_session_not_asked_for_is_no_problem(maker) -> None:
    maker.dwi("sub-01_ses-1_dwi", metadata=maker.AP)
    (maker.root / "sub-01" / "ses-2").symlink_to("/mnt/nowhere")
    assert not read_dataset(maker.root, session_labels=["1"]).problems
    assert len(read_dataset(maker.root, session_labels=["2", "1"]).problems) == 1


@pytest.mark.parametrize(("modules", "name"), [("sub-01", "ses-2"), ("", "sub-01/ses-2")])
def test_empty_session_subdataset_is_a_problem(maker, modules, name) -> None:
    maker.dwi("sub-01_ses-1_dwi", metadata=maker.AP)
    (maker.root / "sub-01" / "ses-2").mkdir()
    text = f'[submodule "s"]\n\tpath = {name}\n\turl = ./x\n'
    (maker.root / modules / ".gitmodules").write_text(text)
    (problem,) = read_dataset(maker.root).problems
    assert problem.path == maker.root / "sub-01" / "ses-2"
    assert f"datalad get {name}" in str(problem.error)
