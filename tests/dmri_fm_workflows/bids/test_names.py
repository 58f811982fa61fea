from __future__ import annotations

from pathlib import Path

import pytest

from dmri_fm_workflows.bids.names import find_fault, scan_name, split_name


@pytest.mark.parametrize(
    "stem",
    ["sub-01", "sub-01_ses-a", "sub-01_ses-a_acq-x_dir-AP_run-02", "sub-01_rec-n_dir-AP_part-mag"],
)
def test_joining_undoes_splitting(stem: str) -> None:
    entities, suffix, extension = split_name(Path(f"/data/{stem}_dwi.nii.gz"))
    assert (scan_name(entities), suffix, extension) == (stem, "dwi", ".nii.gz")


def test_joining_sorts_entities_as_bids_does() -> None:
    assert scan_name({"run": "1", "direction": "AP", "subject": "x"}) == "sub-x_dir-AP_run-1"


def test_index_keeps_its_zeros() -> None:
    assert split_name(Path("sub-01_run-002_dwi.nii"))[0]["run"] == "002"


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_dwi.nii.gz",
        "sub-a+b_ses-2_acq-b1000+_dir-AP_run-02_part-mag_dwi.nii",
        "sub-01_acq-T1w_T1w.json",
        "dwi.bval",
        "acq-x_dwi.bvec",
    ],
)
def test_bids_names_have_no_fault(name: str) -> None:
    assert find_fault(name) is None


@pytest.mark.parametrize(
    "name",
    ["sub-01_dwi.NII", "sub-01_dwi", "sub-01_dwi.tar.gz", "sub-01_.nii", "sub-01_dwi_acq-x.json"],
)
def test_names_without_suffix_or_extension_have_one(name: str) -> None:
    assert find_fault(name)
