"""Links below the output folder: none is written through."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm.errors import OutputError
from dmri_fm_workflows.links import refuse_links


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output folder with two participants, and a precious folder beside it."""
    for folder in ("out/sub-a/dwi", "out/sub-b/dwi", "precious"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "precious" / "data.txt").write_text("years of work")
    (tmp_path / "out" / "sub-b" / "dwi" / "x.json").write_text("{}")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("sub-a/anat", "../../precious"),  # a folder outside
        ("sub-a/dwi/deep", "../../../precious"),
        ("sub-a/dwi/y.json", "../../../precious/data.txt"),  # a file outside
        ("sub-a/dwi/z.json", "../../../precious/none"),  # one that is not there yet
        ("sub-a/log", "../sub-b"),  # another person's folder
    ],
)
def test_link_that_leads_out_is_named_with_its_target(out: Path, link: str, target: str) -> None:
    (out / link).symlink_to(target)
    with pytest.raises(OutputError) as caught:
        refuse_links(out / "sub-a", root=out)
    assert caught.value.path == out / link
    assert str((out / link).parent.joinpath(target).resolve().name) in caught.value.found
    refuse_links(out / "sub-b", root=out)


def test_participant_folder_or_page_that_is_a_link_is_refused(out: Path) -> None:
    (out / "sub-c").symlink_to("../precious")
    (out / "sub-d").symlink_to("sub-b")
    (out / "sub-a.html").symlink_to("../precious/data.txt")
    for name in ("sub-c", "sub-d", "sub-a.html"):
        with pytest.raises(OutputError, match="is a link"):
            refuse_links(out / name, root=out)


def test_output_folder_may_be_a_link_and_links_may_stay_inside(out: Path) -> None:
    (out.parent / "disk").symlink_to(out)
    (out / "sub-a" / "dwi" / "same.json").symlink_to("../../sub-b/dwi/x.json")
    (out / "sub-a" / "old").symlink_to("dwi")
    refuse_links(out.parent / "disk" / "sub-a", root=out.parent / "disk")
    refuse_links(out / "sub-nobody", root=out)


def test_files_that_datalad_has_saved_are_no_strangers(out: Path) -> None:
    store = out.parent / ".git" / "annex" / "objects" / "k" / "key"
    store.mkdir(parents=True)
    (store / "content").write_text("{}")
    (out / "sub-a" / "dwi" / "x.json").symlink_to("../../../.git/annex/objects/k/key/content")
    refuse_links(out / "sub-a", root=out)
    (out / "sub-a" / "figures").symlink_to("../../.git/annex/objects/k/key")
    with pytest.raises(OutputError, match="is a link"):
        refuse_links(out / "sub-a", root=out)
