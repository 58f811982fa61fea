"""Which file is the lesion mask of an anatomical image."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dmri_fm_workflows.bids import read_dataset


def put_mask(maker, name: str, *, grid=(6, 6, 4), value: int = 1) -> Path:
    data = np.zeros(grid, np.uint8)
    data[1:3, 1:3, 1] = value
    path = maker.root / "sub-01" / "anat" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([-2.0, 2, 2, 1])), path)
    return path


@pytest.fixture
def scan(maker):
    maker.dwi("sub-01_dwi", metadata=maker.AP)
    maker.image("sub-01_T1w.nii.gz")
    return maker


@pytest.mark.parametrize(
    "name",
    ["sub-01_label-lesion_roi.nii.gz", "sub-01_label-lesion_mask.nii.gz",
     "sub-01_T1w_label-lesion_roi.nii.gz"],
)  # fmt: skip
def test_names_of_bids_and_of_fmriprep_are_found(scan, name: str) -> None:
    path = put_mask(scan, name)
    dataset = read_dataset(scan.root)
    assert not dataset.problems
    (session,) = dataset.participants[0].sessions
    assert session.lesion_mask == path
    assert [p.name for p in session.t1w] == ["sub-01_T1w.nii.gz"]


def test_mask_of_another_image_is_not_taken(scan) -> None:
    put_mask(scan, "sub-01_acq-x_label-lesion_roi.nii.gz")
    put_mask(scan, "sub-01_label-GM_mask.nii.gz")
    (session,) = read_dataset(scan.root).participants[0].sessions
    assert session.lesion_mask is None
    assert [w for w in session.warnings if "lesion" in w] == [
        "sub-01_acq-x_label-lesion_roi.nii.gz is not used: it is not named as a lesion mask of "
        "the anatomical image is."
    ]


@pytest.mark.parametrize("fault", ["two", "grid", "empty"])
def test_a_mask_that_cannot_be_used_stops_the_session(scan, fault: str) -> None:
    grid = (6, 6, 5) if fault == "grid" else (6, 6, 4)
    put_mask(scan, "sub-01_label-lesion_roi.nii.gz", grid=grid, value=int(fault != "empty"))
    if fault == "two":
        put_mask(scan, "sub-01_label-lesion_mask.nii.gz")
    dataset = read_dataset(scan.root)
    assert not dataset.participants
    (problem,) = dataset.problems
    assert "lesion" in problem.path.name
    said = {"two": "one of 2 lesion masks", "grid": "lesion mask", "empty": "1 different values"}
    assert said[fault] in str(problem.error)
