"""Whose data: the folder says it, and every file that is read agrees with its folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dmri_fm.errors import LayoutError
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.bids.folders import Owner, owner_of


@pytest.fixture
def maker(maker):
    """A dataset with one sound participant, `01`, and a series to copy, outside of it."""
    return maker.with_source()


def test_folder_tells_participant_session_and_datatype() -> None:
    root = Path("/data")
    assert owner_of(root, root) == owner_of(root / "code", root) == Owner(None, None, False)
    assert owner_of(root / "sub-1", root) == Owner("1", None, False)
    assert owner_of(root / "sub-1" / "dwi", root) == Owner("1", None, True)
    assert owner_of(root / "sub-1" / "ses-a" / "fmap", root) == Owner("1", "a", True)


@pytest.mark.parametrize(
    ("folder", "stem", "words", "expected"),
    [
        ("sub-02", "sub-03_dwi", "it has sub-03", "sub-02_dwi"),
        ("sub-02", "sub-01_dwi", "it has sub-01", "sub-02_dwi"),
        ("sub-02", "dwi", "it has no sub-02", "sub-02_dwi"),
        ("sub-02", "acq-x_dwi", "it has no sub-02", "sub-02_acq-x_dwi"),
        ("sub-02", "sub-02_ses-1_dwi", "outside the sessions", "sub-02_dwi"),
        ("sub-02/ses-1", "sub-02_dwi", "it has no ses-1", "sub-02_ses-1_dwi"),
        ("sub-02/ses-1", "sub-02_ses-2_acq-x_dwi", "it has ses-2", "sub-02_ses-1_acq-x_dwi"),
        ("sub-WMHMRI01H", "sub-WMH_MRI_01H_dwi", "'MRI' is no entity", "sub-WMHMRI01H_dwi"),
        ("sub-02", "sub-02_old_dwi", "'old' is no entity", "sub-02_dwi"),
        ("sub-02", "sub-02_dwi_old", "'dwi' is no entity", "sub-02_dwi"),
        ("sub-02", "sub-02__dwi", "'' is no entity", "sub-02_dwi"),
        ("sub-02", "sub-02_run-1_run-2_dwi", "run- stands there twice", "sub-02_run-1_dwi"),
        ("sub-02", "sub-02_sub-03_dwi", "sub- stands there twice", "sub-02_dwi"),
        ("sub-02", "sub-02_acq-_dwi", "acq- has no label", "sub-02_dwi"),
        ("sub-02", "sub-02_acq-a-b_dwi", "'a-b' is no label", "sub-02_acq-ab_dwi"),
        ("sub-02", "sub-02_acq-b 5_dwi", "'b 5' is no label", "sub-02_acq-b5_dwi"),
        ("sub-02", "sub-02_acq-é_dwi", "'é' is no label", "sub-02_dwi"),
        ("sub-02", "sub-02_acq-b0.5_dwi", "'.5_dwi.nii.gz' is no ext", "sub-02_acq-b05_dwi"),
        ("sub-02", "sub-02_ACQ-x_dwi", "'ACQ' in 'ACQ-x' is no entity", "sub-02_acq-x_dwi"),
        ("sub-02", "Sub-02_dwi", "'Sub' in 'Sub-02' is no entity", "sub-02_dwi"),
        ("sub-02", "sub-02_DWI", "'DWI' is written 'dwi'", "sub-02_dwi"),
        ("sub-02", "sub-02-dwi", "'sub-02-dwi' is no suffix", "sub-02_dwi"),
        ("sub-02", "scan1", "it has no sub-02", "sub-02_dwi"),
    ],
)
def test_name_that_disagrees_with_its_folder_is_a_problem(
    maker, folder, stem, words, expected
) -> None:
    path = maker.put(f"{folder}/dwi", stem)
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01"]
    (problem,) = dataset.problems
    assert isinstance(problem.error, LayoutError)
    assert (problem.participant, problem.path) == (folder[4:].split("/")[0], path)
    assert words in problem.error.found
    assert f"{folder}/dwi" in problem.error.found
    assert problem.error.expected == expected + ".nii.gz"
    assert "rename it" in str(problem.error)


def test_name_of_bytes_that_are_no_text_is_a_problem(maker) -> None:
    folder = os.fsencode(maker.root / "sub-01" / "dwi")
    Path(os.fsdecode(folder + b"/sub-01_acq-\xff_dwi.nii.gz")).touch()
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01"]
    assert [p.participant for p in dataset.problems] == ["01"]


def test_other_scans_of_the_participant_go_on(maker) -> None:
    maker.put("sub-01/dwi", "sub-02_dwi")
    maker.put("sub-01/dwi", "sub-01_acq-x_dwi")
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01", "sub-01_acq-x"]
    assert [p.path.name for p in dataset.problems] == ["sub-02_dwi.nii.gz"]


def test_valid_labels_are_no_problem(maker) -> None:
    maker.put("sub-a+b/ses-2/dwi", "sub-a+b_ses-2_acq-b1000+_run-02_dwi")
    dataset = read_dataset(maker.root)
    assert dataset.problems == ()
    assert maker.names(dataset) == ["sub-01", "sub-a+b_ses-2_acq-b1000+_run-02"]


def test_t1w_of_another_person_is_never_used(maker) -> None:
    path = maker.root / "sub-01" / "anat" / "sub-02_T1w.nii.gz"
    maker.image("sub-03_T1w.nii.gz")
    path.parent.mkdir()
    shutil.move(maker.root / "sub-03" / "anat" / "sub-03_T1w.nii.gz", path)
    dataset = read_dataset(maker.root)
    assert dataset.participants[0].sessions[0].t1w == ()
    (problem,) = dataset.problems
    assert (problem.participant, problem.path) == ("01", path)
    assert problem.error.expected == "sub-01_T1w.nii.gz"


def test_field_map_of_another_person_is_never_used(maker) -> None:
    maker.image("sub-01_dir-PA_epi.nii.gz")
    maker.json("sub-01_dir-PA_epi.json", {**maker.PA, "IntendedFor": "dwi/sub-01_dwi.nii.gz"})
    (series,) = read_dataset(maker.root).participants[0].sessions[0].series
    assert len(series.reverse) == 1
    folder = maker.root / "sub-01" / "fmap"
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("sub-01", "sub-02")))
    dataset = read_dataset(maker.root)
    (series,) = dataset.participants[0].sessions[0].series
    assert series.reverse == ()
    assert [p.path.name for p in dataset.problems] == ["sub-02_dir-PA_epi.nii.gz"]


# Folders


def test_folders_of_no_label_are_refused_by_name_and_nothing_is_written_under_another(
    maker,
) -> None:
    for label in ("A_x", "A_y"):
        maker.put(f"sub-{label}/dwi", f"sub-{label}_dwi")
    dataset = read_dataset(maker.root)
    assert [p.label for p in dataset.participants] == ["01"]
    assert [(p.participant, p.path.name) for p in dataset.problems] == [
        (None, "sub-A_x"),
        (None, "sub-A_y"),
    ]
    assert "sub-Ax" in dataset.problems[0].error.expected
    with pytest.raises(LayoutError, match="'A_x' is no label") as caught:
        read_dataset(maker.root, participant_labels=["01", "A_x"])
    assert "rename" in caught.value.advice


def test_a_free_name_is_proposed_only(maker) -> None:
    for label in ("A_x", "Ax"):
        maker.put(f"sub-{label}/dwi", f"sub-{label}_dwi")
    (problem,) = read_dataset(maker.root).problems
    assert "sub-Ax" not in problem.error.expected


def test_dataset_of_folders_without_labels_has_problems_only(maker) -> None:
    (maker.root / "sub-01").rename(maker.root / "sub-0_1")
    dataset = read_dataset(maker.root)
    assert dataset.participants == ()
    assert [p.path.name for p in dataset.problems] == ["sub-0_1"]


def test_session_folder_of_no_label_is_a_problem_where_it_is_asked_for(maker) -> None:
    maker.put("sub-02/ses-A_1/dwi", "sub-02_ses-A_1_dwi")
    maker.put("sub-02/ses-B/dwi", "sub-02_ses-B_dwi")
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01", "sub-02_ses-B"]
    assert [(p.participant, p.path.name) for p in dataset.problems] == [("02", "ses-A_1")]
    assert "ses-A1" in dataset.problems[0].error.expected
    assert read_dataset(maker.root, session_labels=["B"]).problems == ()
    asked = read_dataset(maker.root, participant_labels=["02"], session_labels=["A_1"])
    assert [p.path.name for p in asked.problems] == ["ses-A_1"]


def test_misnamed_files_of_sessions_not_asked_for_do_not_matter(maker) -> None:
    maker.put("sub-02/ses-A/dwi", "sub-02_dwi")
    maker.put("sub-02/ses-B/dwi", "sub-02_ses-B_dwi")
    dataset = read_dataset(maker.root, session_labels=["B"])
    assert (maker.names(dataset), dataset.problems) == (["sub-02_ses-B"], ())


def test_upper_and_lower_case_are_two_people(maker) -> None:
    for label in "aA":
        maker.put(f"sub-{label}/dwi", f"sub-{label}_dwi")
    assert maker.names(read_dataset(maker.root)) == ["sub-01", "sub-A", "sub-a"]
    maker.put("sub-b/dwi", "sub-B_dwi")
    assert [p.participant for p in read_dataset(maker.root).problems] == ["b"]


def test_sessions_and_data_outside_them_stay_apart(maker) -> None:
    maker.put("sub-01/ses-1/dwi", "sub-01_ses-1_dwi")
    dataset = read_dataset(maker.root)
    assert dataset.problems == ()
    assert [(s.label, s.series[0].name) for s in dataset.participants[0].sessions] == [
        (None, "sub-01"),
        ("1", "sub-01_ses-1"),
    ]


@pytest.mark.parametrize(
    "folder",
    [
        "sub-01/dwi/old",
        "sub-01/dwi_backup",
        "sub-01/derivatives",
        "sub-01/sourcedata/dwi",
        "sub-01/func",
        "sub-01/ses-1/extra/dwi",
        "sub-01/extra/ses-1/dwi",
        "derivatives/x/sub-01/dwi",
        "code/sub-01/dwi",
    ],
)
def test_folders_other_than_those_of_bids_are_left_alone(maker, folder) -> None:
    maker.put(folder, "sub-01_acq-copy_dwi")
    maker.put(folder, "sub-02_dwi")
    dataset = read_dataset(maker.root)
    assert (maker.names(dataset), dataset.problems) == (["sub-01"], ())
    assert [run.path.name for run in dataset.participants[0].sessions[0].series[0].runs] == [
        "sub-01_dwi.nii.gz"
    ]


def test_folder_that_links_to_one_above_it_ends_no_reading(maker) -> None:
    (maker.root / "sub-01" / "dwi" / "loop").symlink_to("..")
    (maker.root / "sub-01" / "ses-1").symlink_to(".")
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01"]
    (problem,) = dataset.problems
    assert "it has no ses-1" in problem.error.found


@pytest.mark.parametrize(
    ("folder", "name", "right"),
    [
        ("anat", "dwi", "dwi"),
        ("fmap", "dwi", "dwi"),
        ("dwi", "T1w", "anat"),
        ("dwi", "epi", "fmap"),
    ],
)
def test_image_in_the_folder_of_another_datatype_is_a_problem(maker, folder, name, right) -> None:
    path = maker.put(f"sub-01/{folder}", f"sub-01_acq-x_{name}")
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01"]
    assert dataset.participants[0].sessions[0].t1w == ()
    (problem,) = dataset.problems
    assert problem.path == path
    assert problem.error.expected == f"sub-01/{right}/{path.name}"


def test_other_images_of_bids_names_are_left_alone(maker) -> None:
    for stem in ("sub-01_ADC", "sub-01_acq-dwi_FA", "sub-01_sbref", "sub-01_desc-x_dwi"):
        maker.put("sub-01/dwi", stem)
    (maker.root / "sub-01" / "dwi" / "._sub-01_dwi.nii.gz").write_bytes(b"\0\5\26\7")
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01"]
    assert dataset.problems == ()


def test_linked_folder_of_a_participant_is_read_under_its_own_name(maker, tmp_path) -> None:
    maker.put("elsewhere/dwi", "sub-02_dwi")
    shutil.move(maker.root / "elsewhere", tmp_path / "elsewhere")
    (maker.root / "sub-02").symlink_to(tmp_path / "elsewhere")
    (maker.root / "sub-03").symlink_to("sub-02")
    (maker.root / "sub-04").symlink_to("../nowhere")
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01", "sub-02"]
    assert [p.participant for p in dataset.problems] == ["03", "04"]
    assert "it has sub-02" in dataset.problems[0].error.found
    assert "leads nowhere, to ../nowhere" in dataset.problems[1].error.found


def test_subdataset_that_was_not_fetched_is_a_problem(maker) -> None:
    (maker.root / "sub-02").mkdir()
    assert read_dataset(maker.root).problems == ()
    (maker.root / ".gitmodules").write_text('[submodule "sub-02"]\n\tpath = sub-02\n\turl = x\n')
    (problem,) = read_dataset(maker.root).problems
    assert problem.participant == "02"
    assert "datalad get sub-02" in problem.error.advice


# One output name for two scans


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("sub-02_run-1_dwi", "sub-02_run-01_dwi"),
        ("sub-02_acq-x_dir-AP_dwi", "sub-02_dir-AP_acq-x_dwi"),
        ("sub-02_acq-x_task-a_dwi", "sub-02_acq-x_task-b_dwi"),
        ("sub-02_task-rest_dwi", "sub-02_dwi"),
    ],
)
def test_two_series_of_one_output_name_are_refused_by_name(maker, one, other) -> None:
    paths = [maker.put("sub-02/dwi", stem) for stem in (one, other)]
    maker.put("sub-02/dwi", "sub-02_acq-fine_dwi")
    dataset = read_dataset(maker.root)
    assert maker.names(dataset) == ["sub-01", "sub-02_acq-fine"]
    assert {p.path for p in dataset.problems} == set(paths)
    assert all(p.participant == "02" and "name" in p.error.found for p in dataset.problems)


def test_runs_of_different_grids_keep_names_of_their_own(maker) -> None:
    maker.dwi("sub-02_run-1_dwi", metadata=maker.AP)
    maker.dwi("sub-02_run-2_dwi", metadata=maker.AP, grid=(6, 6, 5))
    dataset = read_dataset(maker.root, participant_labels=["02"])
    assert maker.names(dataset) == ["sub-02_run-1", "sub-02_run-2"]
