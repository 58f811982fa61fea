"""Which gradient files and sidecars belong to an image: nearest wins, own stem first."""

from __future__ import annotations

import pytest

from dmri_fm.errors import InputError
from dmri_fm_workflows.bids.reading import Reading


def test_own_file_wins_over_every_other(maker) -> None:
    image = maker.dwi("sub-01_dir-PA_dwi")
    for stem in ("dwi", "sub-01_dwi", "sub-01_acq-tilted_dir-PA_dwi"):
        maker.gradients(stem)
    found = Reading(maker.root).sidecars.find(image, ".bvec")
    assert found.name == "sub-01_dir-PA_dwi.bvec"


def test_file_of_another_acquisition_never_applies(maker) -> None:
    image = maker.image("sub-01_dir-PA_dwi.nii.gz")
    maker.gradients("sub-01_acq-tilted_dir-PA_dwi")
    found = Reading(maker.root).sidecars.find(image, ".bval")
    assert found.name == "sub-01_dir-PA_dwi.bval"
    assert not found.exists()


def test_empty_own_file_does_not_fall_back_to_an_inherited_one(maker) -> None:
    image = maker.image("sub-01_dir-PA_dwi.nii.gz")
    maker.gradients("dwi")
    own = maker.path("sub-01_dir-PA_dwi.bval")
    own.touch()
    assert Reading(maker.root).sidecars.find(image, ".bval") == own


@pytest.mark.parametrize("nearest", ["dwi", "acq-x_dwi", "sub-01_ses-1_dwi"])
def test_inherited_file_comes_from_the_nearest_folder_with_most_entities(maker, nearest) -> None:
    image = maker.image("sub-01_ses-1_acq-x_dwi.nii.gz")
    order = ["dwi", "acq-x_dwi", "sub-01_ses-1_dwi"]
    for stem in order[: order.index(nearest) + 1]:
        maker.gradients(stem)
    maker.gradients("acq-y_dwi")
    assert Reading(maker.root).sidecars.find(image, ".bval").name == nearest + ".bval"


def test_two_inherited_files_that_apply_equally_are_refused(maker) -> None:
    image = maker.image("sub-01_acq-x_dir-AP_dwi.nii.gz")
    maker.gradients("acq-x_dwi")
    maker.gradients("dir-AP_dwi")
    with pytest.raises(InputError, match=r"acq-x_dwi.bval and dir-AP_dwi.bval both apply"):
        Reading(maker.root).sidecars.find(image, ".bval")


def test_metadata_merges_from_the_root_down(maker) -> None:
    image = maker.image("sub-01_ses-1_acq-x_dwi.nii.gz")
    maker.json("dwi.json", {"EchoTime": 1, "FlipAngle": 1, "A": 1})
    maker.json("acq-x_dwi.json", {"EchoTime": 2, "FlipAngle": 2})
    maker.json("sub-01_ses-1_acq-x_dwi.json", {"EchoTime": 3})
    maker.json("acq-y_dwi.json", {"EchoTime": 4})
    maker.json("T1w.json", {"EchoTime": 5})
    assert Reading(maker.root).sidecars.metadata(image) == {"EchoTime": 3, "FlipAngle": 2, "A": 1}


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
def test_broken_sidecar_is_named(maker, text) -> None:
    image = maker.image("sub-01_dwi.nii.gz")
    path = maker.path("sub-01_dwi.json")
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Reading(maker.root).sidecars.metadata(image)
    assert caught.value.path == path
    assert caught.value.expected


def test_one_reading_of_the_dataset_reads_a_sidecar_once(maker) -> None:
    image = maker.dwi("sub-01_dwi", metadata={"EchoTime": 0.08})
    sidecars = Reading(maker.root).sidecars
    first = sidecars.metadata(image)
    maker.path("sub-01_dwi.json").write_text("{}")
    first["FlipAngle"] = 90  # the caller's own
    assert sidecars.metadata(image) == {"EchoTime": 0.08}
    assert Reading(maker.root).sidecars.metadata(image) == {}
