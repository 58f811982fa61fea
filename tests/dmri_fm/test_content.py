"""Files whose content was not fetched: named as such, with the command that fetches them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dmri_fm.content import require_content, require_installed
from dmri_fm.errors import ImageError, InputError

KEY = "MD5E-s1234--0cc175b9c0f1b6a831c399e269772661.nii.gz"
LOCKED = f"../../.git/annex/objects/Zz/9k/{KEY}/{KEY}"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The root of a repository with a participant's folder."""
    (tmp_path / "raw" / ".git").mkdir(parents=True)
    (tmp_path / "raw" / "sub-01" / "dwi").mkdir(parents=True)
    return tmp_path / "raw"


def place_holder(path: Path, kind: str) -> Path:
    if kind == "link":
        path.symlink_to(LOCKED)
    else:
        path.write_text(
            {
                "pointer": f"/annex/objects/{KEY}\n",
                "pointer without a line's end": f"/annex/objects/{KEY}",
                "pointer with a note": f"/annex/objects/{KEY}\n/annex/ not fetched\n",
                "link written as text": LOCKED,
                "link written on Windows": LOCKED.replace("/", "\\"),
                "LFS": LFS,
            }[kind]
        )
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "link",
        "pointer",
        "pointer without a line's end",
        "pointer with a note",
        "link written as text",
        "link written on Windows",
    ],
)
@pytest.mark.parametrize("ending", [".nii.gz", ".json", ".bval", ".bvec"])
def test_file_of_git_annex_is_named_with_its_command(dataset, kind, ending) -> None:
    path = place_holder(dataset / "sub-01" / "dwi" / f"sub-01_dwi{ending}", kind)
    with pytest.raises(ImageError, match="git-annex has not fetched it") as caught:
        require_content(path, ImageError)
    assert caught.value.path == path
    name = f"sub-01/dwi/sub-01_dwi{ending}"
    assert caught.value.advice == (
        f"in {dataset}, run `datalad get {name}` or `git annex get {name}`"
    )


def test_file_of_git_lfs_is_named_with_its_command(dataset) -> None:
    path = place_holder(dataset / "sub-01" / "dwi" / "sub-01_dwi.nii.gz", "LFS")
    with pytest.raises(InputError, match="Git LFS") as caught:
        require_content(path)
    assert caught.value.advice == (
        f"in {dataset}, run `git lfs pull --include sub-01/dwi/sub-01_dwi.nii.gz`"
    )


def test_link_tells_the_repository_where_git_is_not_mounted(dataset) -> None:
    (dataset / ".git").rmdir()
    path = place_holder(dataset / "sub-01" / "dwi" / "sub 01_dwi.bval", "link")
    with pytest.raises(InputError) as caught:
        require_content(path)
    assert f"in {dataset}, run `datalad get 'sub-01/dwi/sub 01_dwi.bval'`" in caught.value.advice


def test_file_of_a_subdataset_is_named_from_its_own_root(dataset) -> None:
    (dataset / "sub-01" / ".git").write_text("gitdir: ../.git/modules/sub-01")
    path = place_holder(dataset / "sub-01" / "dwi" / "sub-01_dwi.bval", "pointer")
    with pytest.raises(InputError) as caught:
        require_content(path)
    assert caught.value.advice.startswith(
        f"in {dataset / 'sub-01'}, run `datalad get dwi/sub-01_dwi.bval`"
    )


def test_other_link_that_leads_nowhere_names_its_target(tmp_path) -> None:
    path = tmp_path / "x.bval"
    path.symlink_to("/archive/x.bval")
    with pytest.raises(InputError, match=r"leads nowhere, to /archive/x\.bval") as caught:
        require_content(path)
    assert "mount" in caught.value.advice


def test_files_that_are_here_or_missing_pass(tmp_path) -> None:
    there = tmp_path / "a.bval"
    there.write_text("0 1000")
    link = tmp_path / "b.bval"
    link.symlink_to(there)
    empty = tmp_path / "c.bval"
    empty.touch()
    odd = tmp_path / "d.json"
    odd.write_text('{"Source": "/annex/objects/x", "Link": ".git/annex/objects/"}')
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (there, link, empty, odd, pipe, tmp_path, tmp_path / "none"):
        require_content(path)


def test_empty_folder_is_a_subdataset_only_if_it_is_listed(tmp_path) -> None:
    (tmp_path / "sub-1").mkdir()
    require_installed(tmp_path / "sub-1")
    (tmp_path / ".gitmodules").write_text('[submodule "s"]\n\tpath = sub-10\n\turl = ./sub-1\n')
    require_installed(tmp_path / "sub-1")
    (tmp_path / ".gitmodules").write_text('[submodule "s"]\n\tpath = sub-1\n\turl = ./x\n')
    with pytest.raises(InputError, match="subdataset") as caught:
        require_installed(tmp_path / "sub-1")
    assert "datalad get sub-1" in caught.value.advice
    (tmp_path / "sub-1" / "dwi").mkdir()
    require_installed(tmp_path / "sub-1")
