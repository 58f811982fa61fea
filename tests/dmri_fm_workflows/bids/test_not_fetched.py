"""Content that was not fetched is never taken for a missing file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm.errors import LayoutError
from dmri_fm_workflows.bids import read_dataset


@pytest.fixture
def maker(maker):
    """A dataset with one sound participant, `01`, and a series to copy, outside of it."""
    return maker.with_source()


def unfetch(path: Path, placeholder: str) -> None:
    path.unlink(missing_ok=True)
    if placeholder == "link":
        path.symlink_to("../../.git/annex/objects/aa/bb/KEY/KEY")
    elif placeholder == "pointer":
        path.write_text("/annex/objects/KEY")
    else:
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")


@pytest.mark.parametrize("extension", [".nii.gz", ".json", ".bval", ".bvec"])
@pytest.mark.parametrize("placeholder", ["link", "pointer", "LFS"])
def test_file_that_was_not_fetched_is_never_taken_for_a_missing_one(
    maker, placeholder, extension
) -> None:
    # What would be inherited, were the file missing.
    maker.gradients("dwi", [0, *[2000] * 6])
    maker.json("dwi.json", maker.PA)
    path = maker.root / "sub-01" / "dwi" / f"sub-01_dwi{extension}"
    unfetch(path, placeholder)
    dataset = read_dataset(maker.root)
    assert dataset.participants == ()
    (problem,) = dataset.problems
    assert (problem.participant, problem.path) == ("01", path)
    assert "the content is not here" in problem.error.found
    assert f"sub-01/dwi/sub-01_dwi{extension}" in problem.error.advice or placeholder != "link"


@pytest.mark.parametrize("extension", [".nii.gz", ".bval"])
def test_signal_marked_as_derived_is_not_left_out_because_it_was_not_fetched(
    maker, extension
) -> None:
    folder = maker.root / "sub-01" / "dwi"
    (folder / "sub-01_dwi.json").write_text('{"ImageType": ["DERIVED", "PRIMARY", "M"]}')
    unfetch(folder / f"sub-01_dwi{extension}", "link")
    assert [p.path.name for p in read_dataset(maker.root).problems] == [f"sub-01_dwi{extension}"]


@pytest.mark.parametrize("name", ["sub-01_dir-PA_epi.nii.gz", "sub-01_dir-PA_epi.bval"])
def test_reverse_image_that_was_not_fetched_is_a_problem(maker, name) -> None:
    maker.image("sub-01_dir-PA_epi.nii.gz", shape=(6, 6, 4, 2))
    maker.gradients("sub-01_dir-PA_epi", [0, 0])
    unfetch(maker.root / "sub-01" / "fmap" / name, "link")
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01"]
    assert [p.path.name for p in dataset.problems] == [name]


def test_gradient_echo_image_that_was_not_fetched_is_a_problem(maker) -> None:
    path = maker.image("sub-01_phasediff.nii.gz")
    unfetch(path, "pointer")
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01"]
    assert [p.path for p in dataset.problems] == [path]


def test_description_that_was_not_fetched_is_named(maker) -> None:
    unfetch(maker.root / "dataset_description.json", "link")
    with pytest.raises(LayoutError, match="git-annex has not fetched it"):
        read_dataset(maker.root)
