"""Brain masks of the user: whose they are, what they fit, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmri_fm.errors import LayoutError
from dmri_fm.series import save_image
from dmri_fm_workflows.bids import Dataset, read_dataset
from dmri_fm_workflows.bids.user_masks import attach_masks, count_masks
from tests.dmri_fm_workflows.bids.conftest import AFFINE

SHAPE = (6, 6, 4)


def write_mask(folder: Path, name: str, *, shape=SHAPE, affine=AFFINE, values=None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = np.zeros(shape)
    inside[1:4, 1:4, 1:3] = 1
    return save_image(inside if values is None else values, affine, path)


def attach(maker, folder: Path, **options) -> Dataset:
    return attach_masks(read_dataset(maker.root, **options), folder)


def errors(dataset: Dataset) -> list[str]:
    return [str(problem.error) for problem in dataset.problems]


def test_masks_of_series_and_t1w_image_are_found(maker, tmp_path: Path) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA)
    maker.image("sub-01_run-1_T1w.nii.gz", shape=SHAPE)
    maker.dwi("sub-02_dwi", metadata=maker.AP)
    masks = tmp_path / "masks"
    of_pa = write_mask(masks, "sub-01/dwi/sub-01_dir-PA_desc-brain_mask.nii.gz")
    # The run of the T1w image need not be named, as there is one such image.
    of_t1w = write_mask(masks, "sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    dataset = attach(maker, masks)
    assert not dataset.problems
    one, other = (p.sessions[0] for p in dataset.participants)
    assert one.series[0].user_mask.path == of_pa
    assert one.series[0].user_mask.run.path.name == "sub-01_dir-PA_dwi.nii.gz"
    assert one.user_t1w_mask == of_t1w
    assert other.series[0].user_mask is None
    assert other.user_t1w_mask is None
    assert count_masks(dataset) == (1, 1)


def test_of_masks_of_merged_runs_the_first_counts_and_the_other_is_named(maker, tmp_path) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA)
    for direction in ("AP", "PA"):
        write_mask(tmp_path / "m", f"sub-01/dwi/sub-01_dir-{direction}_desc-brain_mask.nii")
    (series,) = attach(maker, tmp_path / "m").participants[0].sessions[0].series
    assert series.user_mask.path.name == "sub-01_dir-AP_desc-brain_mask.nii"
    assert any("sub-01_dir-PA_desc-brain_mask.nii is not used" in w for w in series.warnings)


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("sub-01/dwi/sub-02_acq-a_desc-brain_mask.nii.gz", {}, "it has sub-02"),
        ("sub-01/dwi/sub-01_acq-c_desc-brain_mask.nii.gz", {}, "fits no dwi image"),
        ("sub-01/sub-01_acq-a_desc-brain_mask.nii.gz", {}, "fits no dwi or T1w image"),
        ("sub-01/ses-a/dwi/sub-01_ses-a_desc-brain_mask.nii.gz", {}, "fits no dwi image"),
        ("sub-01/dwi/sub-01_desc-brain_mask.nii.gz", {}, "fits sub-01_acq-a_dwi.nii.gz and"),
        (
            "sub-01/dwi/sub-01_acq-a_space-ACPC_desc-brain_mask.nii.gz",
            {},
            "in the space ACPC",
        ),
        ("sub-01/dwi/sub-01_acq-a_desc-brain_mask.nii.gz", {"shape": (6, 6, 5)}, "of shape"),
        (
            "sub-01/dwi/sub-01_acq-a_desc-brain_mask.nii.gz",
            {"affine": np.diag([2.0, 2.0, 2.0, 1.0])},
            "at another position",
        ),
        (
            "sub-01/dwi/sub-01_acq-a_desc-brain_mask.nii.gz",
            {"values": np.zeros(SHAPE)},
            "every voxel is 0",
        ),
    ],
)
def test_mask_that_cannot_be_used_leaves_its_participant_out(
    maker, tmp_path: Path, name: str, options: dict, found: str
) -> None:
    for label in ("01", "02"):
        for acquisition in ("a", "b"):
            maker.dwi(f"sub-{label}_acq-{acquisition}_dwi", metadata=maker.AP)
    path = write_mask(tmp_path / "m", name, **options)
    dataset = attach(maker, tmp_path / "m")
    assert [p.label for p in dataset.participants] == ["02"]
    (problem,) = dataset.problems
    assert problem.participant == "01"
    assert problem.path == path
    assert found in str(problem.error)


def test_link_to_another_participant_is_refused(maker, tmp_path: Path) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    masks = tmp_path / "m"
    other = write_mask(masks, "sub-02/dwi/sub-02_desc-brain_mask.nii.gz")
    link = masks / "sub-01" / "dwi" / "sub-01_desc-brain_mask.nii.gz"
    link.parent.mkdir(parents=True)
    link.symlink_to(other)
    (error,) = errors(attach(maker, masks))
    assert "data of another participant" in error


def test_two_masks_of_one_image_are_refused(maker, tmp_path: Path) -> None:
    maker.dwi("sub-01_acq-a_dwi", metadata=maker.AP)
    for name in ("sub-01_desc-brain_mask.nii.gz", "sub-01_acq-a_desc-brain_mask.nii.gz"):
        write_mask(tmp_path / "m", f"sub-01/dwi/{name}")
    (error,) = errors(attach(maker, tmp_path / "m"))
    assert "a second brain mask of sub-01_acq-a_dwi.nii.gz" in error


def test_mask_of_an_image_that_is_filtered_out_has_no_say(maker, tmp_path: Path) -> None:
    for acquisition in ("a", "b"):
        maker.dwi(f"sub-01_acq-{acquisition}_dwi", metadata=maker.AP)
    name = "sub-01/dwi/sub-01_acq-b_desc-brain_mask.nii.gz"
    write_mask(tmp_path / "m", name, values=np.zeros(SHAPE))
    dataset = attach(maker, tmp_path / "m", filters={"dwi": {"acquisition": "a"}})
    assert not dataset.problems
    assert count_masks(dataset) == (0, 0)


def test_masks_of_sessions_stay_apart(maker, tmp_path: Path) -> None:
    for session in ("a", "b"):
        maker.dwi(f"sub-01_ses-{session}_dwi", metadata=maker.AP)
    name = "sub-01/ses-b/dwi/sub-01_ses-b_desc-brain_mask.nii.gz"
    write_mask(tmp_path / "m", name)
    sessions = attach(maker, tmp_path / "m").participants[0].sessions
    assert [s.series[0].user_mask is not None for s in sessions] == [False, True]


def test_folder_without_masks_is_an_error(maker, tmp_path: Path) -> None:
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    (tmp_path / "m").mkdir()
    with pytest.raises(LayoutError, match="no brain mask"):
        attach(maker, tmp_path / "m")
