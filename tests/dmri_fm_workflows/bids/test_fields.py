"""Which image corrects which series, and what is said of those that do not."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from dmri_fm.errors import ImageError

B0 = (0, 5)
LINK = {"IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}


# What stands against an image that was meant


@pytest.mark.parametrize(
    ("encoding", "word"),
    [
        ("j-", "its phase encoding, j-, is that of the series"),
        ("i", "its phase encoding, i, is along another axis than that of the series, j-"),
        (None, "it has no PhaseEncodingDirection"),
        ("AP", "it has PhaseEncodingDirection 'AP', not one of i, i-, j, j-, k, k-"),
    ],
)
def test_linked_image_of_no_opposite_direction(maker, encoding, word) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.epi("sub-01_dir-PA_epi", {"PhaseEncodingDirection": encoding, **LINK})
    series = maker.only_series()
    assert series.blip_pair is None
    assert maker.reasons(series) == {"sub-01_dir-PA_epi": word}


def test_series_of_unknown_direction(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata={"TotalReadoutTime": 0.05})
    maker.epi("sub-01_dir-PA_epi", {**maker.PA, **LINK})
    assert maker.reasons(maker.only_series()) == {
        "sub-01_dir-PA_epi": "the series has no PhaseEncodingDirection"
    }


@pytest.mark.parametrize(
    ("image", "word"),
    [
        ({"shape": (8, 8, 4)}, "another grid, 8 x 8 x 4 voxels in place of 6 x 6 x 4"),
        ({"affine": np.diag([-3.0, 3, 3, 1])}, "another grid, voxels of 3 x 3 x 3 mm in place of"),
        ({"affine": np.diag([2.0, 2, 2, 1])}, "stored as the mirror image"),
        ({"turned": 12.0}, "another head pose, turned by 12.0 degrees"),
        ({"shift_mm": 8.0}, "another head pose, 8.0 mm away"),
    ],
)
def test_linked_image_of_another_grid_or_pose_is_named_and_an_error(maker, image, word) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    if "shape" not in image and "affine" not in image:
        turned, shift = image.get("turned", 0.0), image.get("shift_mm", 0.0)
        image = {"affine": maker.turned(turned, shift_mm=shift)}
    maker.epi("sub-01_dir-PA_epi", {**maker.PA, **LINK}, **image)
    visits, (problem,) = maker.read()
    assert isinstance(problem.error, ImageError)
    (series,) = visits[0].series
    for text in (str(problem.error), maker.reasons(series)["sub-01_dir-PA_epi"]):
        assert word in text


def test_image_without_b0_volume(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.epi("sub-01_dir-PA_epi", {**maker.PA, **LINK}, shape=(6, 6, 4, 2))
    maker.gradients("sub-01_dir-PA_epi", [1000, 1000])
    assert maker.reasons(maker.only_series()) == {"sub-01_dir-PA_epi": "it holds no b=0 volume"}


def test_opposite_run_of_the_series_without_b0_volume(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", bvals=[1000] * 6, metadata=maker.PA)
    series = maker.only_series()
    assert series.blip_pair is None
    assert "a run of the series itself" in maker.reasons(series)["sub-01_dir-PA_dwi"]


def test_unlinked_image_of_the_same_direction_is_told_both(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.epi("sub-01_dir-AP_epi", maker.AP)
    found = maker.reasons(maker.only_series())["sub-01_dir-AP_epi"]
    assert "does not say for which scans" in found
    assert "its phase encoding, j-, is that of the series" in found
    assert "add IntendedFor" not in found  # of no use here


def test_second_image_is_not_needed_and_says_which_are_used(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    for run in "12":
        maker.epi(f"sub-01_dir-PA_run-{run}_epi", {**maker.PA, **LINK})
    series = maker.only_series()
    assert series.outside_image.entities["run"] == "1"
    assert maker.reasons(series) == {
        "sub-01_dir-PA_run-2_epi": "not needed: sub-01_dir-AP_dwi.nii.gz and "
        "sub-01_dir-PA_run-1_epi.nii.gz are used"
    }


def test_pair_of_the_series_itself_comes_first(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA)
    maker.epi("sub-01_dir-PA_epi", {**maker.PA, **LINK})
    series = maker.only_series()
    assert series.pair_reason == "both are runs of the series"
    assert series.outside_image is None
    assert "not needed: sub-01_dir-AP_dwi.nii.gz and" in maker.reasons(series)["sub-01_dir-PA_epi"]


def test_linked_image_comes_before_a_b0_run_that_names_no_scan(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-b0_dir-PA_dwi", bvals=B0, metadata=maker.PA)
    maker.epi("sub-01_dir-PA_epi", {**maker.PA, **LINK})
    series = maker.only_series()
    assert series.outside_image.path.name == "sub-01_dir-PA_epi.nii.gz"
    assert "not needed" in maker.reasons(series)["sub-01_acq-b0_dir-PA_dwi"]


def test_b0_run_of_the_same_direction_is_a_reason_and_no_error(maker) -> None:
    maker.dwi("sub-01_acq-ms_dir-AP_dwi", metadata=maker.AP)
    for direction, said in (("AP", maker.AP), ("PA", maker.PA)):
        maker.dwi(f"sub-01_acq-b0_dir-{direction}_dwi", bvals=B0, metadata=said)
    series = maker.only_series()
    assert series.outside_image.path.name == "sub-01_acq-b0_dir-PA_dwi.nii.gz"
    assert list(maker.reasons(series)) == ["sub-01_acq-b0_dir-AP_dwi"]


def test_b0_run_alone_in_its_session_is_an_error(maker) -> None:
    maker.dwi("sub-01_ses-a_dwi", metadata=maker.AP)
    path = maker.dwi("sub-01_ses-b_dwi", bvals=B0, metadata=maker.PA)
    assert [p.path for p in maker.read()[1]] == [path]


def test_damaged_image_is_named(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.epi("sub-01_dir-PA_epi", {**maker.PA, **LINK})
    maker.path("sub-01_dir-PA_epi.nii.gz").write_bytes(b"")
    (series,) = maker.read()[0][0].series
    assert "it cannot be read: file has zero bytes" in maker.reasons(series)["sub-01_dir-PA_epi"]


def test_image_that_a_filter_leaves_out_is_named(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA)
    maker.epi("sub-01_dir-PA_epi", {**maker.PA, **LINK})
    filters = {"dwi": {"direction": "AP"}, "fmap": {"direction": None}}
    series = maker.only_series(filters=filters)
    assert series.blip_pair is None
    assert maker.reasons(series) == dict.fromkeys(
        ("sub-01_dir-PA_dwi", "sub-01_dir-PA_epi"), "a filter leaves it out"
    )


def test_broken_sidecar_that_a_filter_leaves_out_is_no_problem(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA)
    maker.path("sub-01_dir-PA_dwi.json").write_text("{")
    series = maker.only_series(filters={"dwi": {"direction": "AP"}})
    assert list(maker.reasons(series)) == ["sub-01_dir-PA_dwi"]


# Other sessions


def two_sessions(maker, **said) -> None:
    for session in "ab":
        maker.dwi(f"sub-01_ses-{session}_dir-AP_dwi", metadata={**maker.AP, **said})


@pytest.mark.parametrize("chosen", [{}, {"session": "b"}])
@pytest.mark.parametrize("by", ["IntendedFor", "B0FieldIdentifier"])
def test_links_across_sessions_are_followed(maker, chosen, by) -> None:
    two_sessions(maker)
    said = {"IntendedFor": "ses-b/dwi/sub-01_ses-b_dir-AP_dwi.nii.gz"}
    if by == "B0FieldIdentifier":
        said = {by: "f"}
        maker.json("sub-01_ses-b_dir-AP_dwi.json", {**maker.AP, "B0FieldSource": "f"})
    maker.epi("sub-01_ses-a_dir-PA_epi", {**maker.PA, **said})
    series = maker.only_series(**chosen)
    assert series.name == "sub-01_ses-b_dir-AP"
    assert series.outside_image.path.name == "sub-01_ses-a_dir-PA_epi.nii.gz"
    assert series.pair_reason.startswith("linked by")
    assert any("of another session: the head was placed anew" in w for w in series.warnings)


def test_image_of_another_session_in_another_pose_is_a_reason_and_no_error(maker) -> None:
    two_sessions(maker)
    said = {"IntendedFor": "ses-b/dwi/sub-01_ses-b_dir-AP_dwi.nii.gz"}
    maker.epi("sub-01_ses-a_dir-PA_epi", {**maker.PA, **said}, affine=maker.turned(3.0))
    found = maker.reasons(maker.only_series())
    assert found == {
        "sub-01_ses-a_dir-PA_epi": "it shows another head pose, turned by 3.0 degrees"
    }


def test_identifiers_that_sessions_share_stay_in_their_session(maker) -> None:
    two_sessions(maker, B0FieldSource="f")
    for session in "ab":
        said = maker.PA if session == "a" else maker.AP
        maker.epi(f"sub-01_ses-{session}_epi", {**said, "B0FieldIdentifier": "f"})
    first, second = (visit.series[0] for visit in maker.read()[0])
    assert first.outside_image.path.name == "sub-01_ses-a_epi.nii.gz"
    assert second.blip_pair is None
    assert "own session has images" in maker.reasons(second)["sub-01_ses-a_epi"]


@pytest.mark.parametrize("stem", ["dir-PA_dwi", "phasediff"])
def test_runs_and_field_maps_of_another_session_that_name_a_series(maker, stem) -> None:
    two_sessions(maker)
    said = {**maker.PA, "IntendedFor": "bids::sub-01/ses-b/dwi/sub-01_ses-b_dir-AP_dwi.nii.gz"}
    if stem == "phasediff":
        maker.epi("sub-01_ses-a_phasediff", said)
    else:
        maker.dwi("sub-01_ses-a_dir-PA_dwi", bvals=B0, metadata=said)
    series = maker.only_series()
    if stem == "phasediff":
        assert [f.method for f in series.fieldmaps] == ["phasediff"]
        assert "no magnitude image" in maker.reasons(series)["sub-01_ses-a_phasediff"]
    else:
        assert series.outside_image.path.name == "sub-01_ses-a_dir-PA_dwi.nii.gz"


# Series that differ in `acq` alone


def uk_biobank(maker, *, labels=("AP", "PA"), bvals=(0, 0, 0, 2000, 2000, 2000), **said) -> None:
    maker.dwi(f"sub-01_acq-{labels[0]}_dwi", metadata=maker.AP)
    maker.dwi(f"sub-01_acq-{labels[1]}_dwi", bvals=bvals, metadata={**maker.PA, **said})


@pytest.mark.parametrize("labels", [("AP", "PA"), ("msAP", "msPA")])
def test_acquisitions_that_are_called_opposite_are_a_pair(maker, labels) -> None:
    uk_biobank(maker, labels=labels)
    first, second = maker.session().series
    assert first.outside_image.path.name == f"sub-01_acq-{labels[1]}_dwi.nii.gz"
    assert second.outside_image.path.name == f"sub-01_acq-{labels[0]}_dwi.nii.gz"
    assert first.pair_reason.startswith(f"labels acq-{labels[0]} and acq-{labels[1]}")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (
            {"labels": ("a", "b")},
            "it belongs to another series: to tie them add B0FieldIdentifier",
        ),
        (
            {"labels": ("b1000AP", "b2000PA")},
            "it belongs to another series: to tie them add B0FieldIdentifier",
        ),
        ({"EchoTime": 0.2}, "another series of another EchoTime, 0.2 s: to tie"),
        ({"bvals": (1000, 2000, 2000)}, "it holds no b=0 volume"),
        ({"PhaseEncodingDirection": "j-"}, "its phase encoding, j-, is that of the series"),
    ],
)
def test_acquisitions_that_do_not_match_are_no_pair(maker, change, word) -> None:
    labels = change.get("labels", ("AP", "PA"))
    uk_biobank(maker, **change)
    maker.json(f"sub-01_acq-{labels[0]}_dwi.json", {**maker.AP, "EchoTime": 0.1})
    first = maker.read()[0][0].series[0]
    assert first.blip_pair is None
    assert word in maker.reasons(first)[f"sub-01_acq-{labels[1]}_dwi"]


def test_acquisitions_of_any_label_pair_by_a_link(maker) -> None:
    uk_biobank(maker, labels=("main", "rev"), B0FieldIdentifier="f")
    maker.json("sub-01_acq-main_dwi.json", {**maker.AP, "B0FieldSource": "f"})
    first = maker.session().series[0]
    assert first.outside_image.path.name == "sub-01_acq-rev_dwi.nii.gz"


@pytest.mark.parametrize("echo", [True, "0.1", [0.1], -1, float("nan")])
def test_echo_time_that_is_no_time_is_an_unknown_one(maker, echo) -> None:
    uk_biobank(maker, EchoTime=echo)
    assert maker.session().series[0].blip_pair is not None


def test_b0_run_of_another_echo_time_is_used_and_said_so(maker) -> None:
    uk_biobank(maker, bvals=B0, EchoTime=0.2)
    maker.json("sub-01_acq-AP_dwi.json", {**maker.AP, "EchoTime": 0.1})
    series = maker.only_series()
    assert series.blip_pair is not None
    assert "differ in EchoTime: 0.1 and 0.2 s" in series.warnings[-1]


# Single-band references


def test_single_band_reference_of_the_opposite_direction_serves_and_is_said_so(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.epi("sub-01_dir-AP_sbref", maker.AP)
    maker.epi("sub-01_dir-PA_sbref", maker.PA)
    series = maker.only_series()
    assert series.outside_image.path.name == "sub-01_dir-PA_sbref.nii.gz"
    assert "a single-band reference, is the other half" in series.warnings[0]
    assert series.unused == ()


def test_single_band_reference_gives_way_to_the_run_itself(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-b0_dir-PA_dwi", bvals=B0, metadata=maker.PA)
    maker.epi("sub-01_dir-PA_sbref", maker.PA)
    series = maker.only_series()
    assert series.outside_image.path.name == "sub-01_acq-b0_dir-PA_dwi.nii.gz"
    assert "not needed" in maker.reasons(series)["sub-01_dir-PA_sbref"]


def test_single_band_reference_of_another_protocol_needs_a_link(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.epi("sub-01_acq-x_dir-PA_sbref", maker.PA)
    reasons = maker.reasons(maker.only_series())
    assert "does not say for which" in reasons["sub-01_acq-x_dir-PA_sbref"]


def test_single_band_reference_of_functional_runs_is_left_alone(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    folder = maker.root / "sub-01" / "func"
    folder.mkdir()
    image = nib.Nifti1Image(np.ones((6, 6, 4), np.int16), np.eye(4))
    nib.save(image, folder / "sub-01_dir-PA_sbref.nii.gz")
    assert maker.only_series().unused == ()
