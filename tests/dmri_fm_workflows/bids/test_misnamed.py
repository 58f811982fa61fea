"""Misnamed files: they describe no image, and only a filter of names hides them."""

from __future__ import annotations

import shutil

import pytest

from dmri_fm_workflows.bids import read_dataset


@pytest.fixture
def maker(maker):
    """A dataset with one sound participant, `01`, and a series to copy, outside of it."""
    return maker.with_source()


def describe(maker, stem: str, *, folder: str = "sub-01/dwi", extensions=(".bval", ".bvec")):
    """Give `sub-01_dwi`'s files of some extensions another name or place."""
    for extension in extensions:
        source = maker.root / "sub-01" / "dwi" / f"sub-01_dwi{extension}"
        source.rename(maker.root / folder / (stem + extension))


@pytest.mark.parametrize(
    ("folder", "stem"),
    [
        *(("sub-01/dwi", s) for s in ("sub-02_dwi", "dwi", "sub-01_ses-1_dwi", "sub-01_x_dwi")),
        *(("sub-01", s) for s in ("sub-02_dwi", "dwi", "sub-01_x_dwi")),
    ],
)
@pytest.mark.parametrize("extension", [".bval", ".bvec", ".json"])
def test_misnamed_file_that_would_describe_an_image_refuses_it(
    maker, folder, stem, extension
) -> None:
    describe(maker, stem, folder=folder, extensions=[extension])
    dataset = read_dataset(maker.root)
    assert dataset.participants == ()
    (problem,) = dataset.problems
    assert problem.path == maker.root / folder / (stem + extension)
    assert problem.error.expected == "sub-01_dwi" + extension
    assert f"folder {folder}:" in problem.error.found


def test_misnamed_file_beside_the_images_own_is_a_problem_and_not_read(maker) -> None:
    path = maker.root / "sub-01" / "dwi" / "sub-02_dwi.json"
    path.write_text('{"EchoTime": 9}')
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01"]
    assert "EchoTime" not in dataset.participants[0].sessions[0].series[0].runs[0].metadata
    assert [(p.participant, p.path) for p in dataset.problems] == [("01", path)]


def test_misnamed_file_of_another_acquisition_describes_nothing_here(maker) -> None:
    (maker.root / "sub-01" / "dwi" / "sub-02_acq-y_dwi.json").write_text("{}")
    (maker.root / "sub-01" / "dwi" / "sub-01_y_T1w.json").write_text("{}")
    assert read_dataset(maker.root).problems == ()


def test_files_of_one_misnamed_scan_are_one_problem(maker) -> None:
    for extension in (".bval", ".bvec", ".json"):
        source = maker.root / "sub-01" / "dwi" / f"sub-01_dwi{extension}"
        shutil.copy(source, source.with_name("sub-02_dwi" + extension))
    assert [p.path.suffix for p in read_dataset(maker.root).problems] == [".json"]


def test_files_above_the_images_folder_are_inherited_as_before(maker) -> None:
    describe(maker, "sub-01_dwi", folder="sub-01")
    describe(maker, "dwi", folder=".", extensions=[".json"])
    dataset = read_dataset(maker.root)
    assert dataset.problems == ()
    run = dataset.participants[0].sessions[0].series[0].runs[0]
    assert run.bval == maker.root / "sub-01" / "sub-01_dwi.bval"
    assert run.phase_encoding == "j-"


# Filters


def test_filter_may_leave_misnamed_files_out(maker) -> None:
    maker.put("sub-01/dwi", "sub-02_acq-x_dwi")
    maker.put("sub-01/dwi", "sub-01_acq-y_dwi")
    dataset = read_dataset(maker.root, filters={"dwi": {"acquisition": "y"}})
    assert (maker.names(dataset), dataset.problems) == (["sub-01_acq-y"], ())
    wanted = read_dataset(maker.root, filters={"dwi": {"acquisition": ["x", "y"]}})
    assert [p.path.name for p in wanted.problems] == ["sub-02_acq-x_dwi.nii.gz"]


def test_filter_by_session_or_sidecar_does_not_hide_a_misnamed_file(maker) -> None:
    maker.put("sub-02/ses-1/dwi", "sub-02_dwi")
    for query in ({"session": "1"}, {"PhaseEncodingDirection": "j-"}):
        problems = read_dataset(maker.root, filters={"dwi": query}).problems
        assert [p.path.name for p in problems] == ["sub-02_dwi.nii.gz"]
