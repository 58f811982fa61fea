"""Which image corrects which series, and what is said of those that do not."""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np
import pytest

from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradient_options import GradientOptions
from dmri_fm_workflows.bids import DwiSeries, Session, read_dataset

B0 = (0, 5)
LINK = {"IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}


def read_session(maker, **chosen) -> Session:
    visits, problems = maker.read(**chosen)
    assert not problems, [str(p.error) for p in problems]
    return visits[-1]


def only_series(maker, **chosen) -> DwiSeries:
    (series,) = read_session(maker, **chosen).series
    return series


def reasons(series: DwiSeries) -> dict[str, str]:
    return {u.path.name.split(".")[0]: u.reason for u in series.unused}


def epi(maker, stem: str, said: dict, **image) -> None:
    maker.image(f"{stem}.nii.gz", **image)
    maker.json(f"{stem}.json", said)


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
    epi(maker, "sub-01_dir-PA_epi", {"PhaseEncodingDirection": encoding, **LINK})
    series = only_series(maker)
    assert series.blip_pair is None
    assert reasons(series) == {"sub-01_dir-PA_epi": word}


def test_series_of_unknown_direction(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata={"TotalReadoutTime": 0.05})
    epi(maker, "sub-01_dir-PA_epi", {**maker.PA, **LINK})
    assert reasons(only_series(maker)) == {
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
    epi(maker, "sub-01_dir-PA_epi", {**maker.PA, **LINK}, **image)
    visits, (problem,) = maker.read()
    assert isinstance(problem.error, ImageError)
    (series,) = visits[0].series
    for text in (str(problem.error), reasons(series)["sub-01_dir-PA_epi"]):
        assert word in text


def test_image_without_b0_volume(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    epi(maker, "sub-01_dir-PA_epi", {**maker.PA, **LINK}, shape=(6, 6, 4, 2))
    maker.gradients("sub-01_dir-PA_epi", [1000, 1000])
    assert reasons(only_series(maker)) == {"sub-01_dir-PA_epi": "it holds no b=0 volume"}


def test_opposite_run_of_the_series_without_b0_volume(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", bvals=[1000] * 6, metadata=maker.PA)
    series = only_series(maker)
    assert series.blip_pair is None
    assert "a run of the series itself" in reasons(series)["sub-01_dir-PA_dwi"]


def test_unlinked_image_of_the_same_direction_is_told_both(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    epi(maker, "sub-01_dir-AP_epi", maker.AP)
    found = reasons(only_series(maker))["sub-01_dir-AP_epi"]
    assert "does not say for which scans" in found
    assert "its phase encoding, j-, is that of the series" in found
    assert "add IntendedFor" not in found  # of no use here


def test_second_image_is_not_needed_and_says_which_are_used(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    for run in "12":
        epi(maker, f"sub-01_dir-PA_run-{run}_epi", {**maker.PA, **LINK})
    series = only_series(maker)
    assert series.outside_image.entities["run"] == "1"
    assert reasons(series) == {
        "sub-01_dir-PA_run-2_epi": "not needed: sub-01_dir-AP_dwi.nii.gz and "
        "sub-01_dir-PA_run-1_epi.nii.gz are used"
    }


def test_pair_of_the_series_itself_comes_first(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA)
    epi(maker, "sub-01_dir-PA_epi", {**maker.PA, **LINK})
    series = only_series(maker)
    assert series.pair_reason == "both are runs of the series"
    assert series.outside_image is None
    assert "not needed: sub-01_dir-AP_dwi.nii.gz and" in reasons(series)["sub-01_dir-PA_epi"]


def test_linked_image_comes_before_a_b0_run_that_names_no_scan(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-b0_dir-PA_dwi", bvals=B0, metadata=maker.PA)
    epi(maker, "sub-01_dir-PA_epi", {**maker.PA, **LINK})
    series = only_series(maker)
    assert series.outside_image.path.name == "sub-01_dir-PA_epi.nii.gz"
    assert "not needed" in reasons(series)["sub-01_acq-b0_dir-PA_dwi"]


def test_b0_run_of_the_same_direction_is_a_reason_and_no_error(maker) -> None:
    maker.dwi("sub-01_acq-ms_dir-AP_dwi", metadata=maker.AP)
    for direction, said in (("AP", maker.AP), ("PA", maker.PA)):
        maker.dwi(f"sub-01_acq-b0_dir-{direction}_dwi", bvals=B0, metadata=said)
    series = only_series(maker)
    assert series.outside_image.path.name == "sub-01_acq-b0_dir-PA_dwi.nii.gz"
    assert list(reasons(series)) == ["sub-01_acq-b0_dir-AP_dwi"]


def test_b0_run_alone_in_its_session_is_an_error(maker) -> None:
    maker.dwi("sub-01_ses-a_dwi", metadata=maker.AP)
    path = maker.dwi("sub-01_ses-b_dwi", bvals=B0, metadata=maker.PA)
    assert [p.path for p in maker.read()[1]] == [path]


def test_damaged_image_is_named(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    epi(maker, "sub-01_dir-PA_epi", {**maker.PA, **LINK})
    maker.path("sub-01_dir-PA_epi.nii.gz").write_bytes(b"")
    (series,) = maker.read()[0][0].series
    assert "it cannot be read: file has zero bytes" in reasons(series)["sub-01_dir-PA_epi"]


def test_image_that_a_filter_leaves_out_is_named(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA)
    epi(maker, "sub-01_dir-PA_epi", {**maker.PA, **LINK})
    filters = {"dwi": {"direction": "AP"}, "fmap": {"direction": None}}
    series = only_series(maker, filters=filters)
    assert series.blip_pair is None
    assert reasons(series) == dict.fromkeys(
        ("sub-01_dir-PA_dwi", "sub-01_dir-PA_epi"), "a filter leaves it out"
    )


def test_broken_sidecar_that_a_filter_leaves_out_is_no_problem(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA)
    maker.path("sub-01_dir-PA_dwi.json").write_text("{")
    series = only_series(maker, filters={"dwi": {"direction": "AP"}})
    assert list(reasons(series)) == ["sub-01_dir-PA_dwi"]


@pytest.mark.parametrize(
    ("suffixes", "named"),
    [
        (("phasediff", "magnitude1"), ["phasediff"]),
        (("phase1", "phase2", "magnitude1"), ["phase1", "phase2"]),
        (("fieldmap", "magnitude"), ["fieldmap"]),
    ],
)
def test_gradient_echo_field_maps_are_named(maker, suffixes, named) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    for suffix in suffixes:
        epi(maker, f"sub-01_{suffix}", {})
    found = reasons(only_series(maker))
    assert list(found) == [f"sub-01_{suffix}" for suffix in named]
    assert all("not built in yet (it does not say for which" in text for text in found.values())


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
    epi(maker, "sub-01_ses-a_dir-PA_epi", {**maker.PA, **said})
    series = only_series(maker, **chosen)
    assert series.name == "sub-01_ses-b_dir-AP"
    assert series.outside_image.path.name == "sub-01_ses-a_dir-PA_epi.nii.gz"
    assert series.pair_reason.startswith("linked by")
    assert any("of another session: the head was placed anew" in w for w in series.warnings)


def test_image_of_another_session_in_another_pose_is_a_reason_and_no_error(maker) -> None:
    two_sessions(maker)
    said = {"IntendedFor": "ses-b/dwi/sub-01_ses-b_dir-AP_dwi.nii.gz"}
    epi(maker, "sub-01_ses-a_dir-PA_epi", {**maker.PA, **said}, affine=maker.turned(3.0))
    found = reasons(only_series(maker))
    assert found == {
        "sub-01_ses-a_dir-PA_epi": "it shows another head pose, turned by 3.0 degrees"
    }


def test_identifiers_that_sessions_share_stay_in_their_session(maker) -> None:
    two_sessions(maker, B0FieldSource="f")
    for session in "ab":
        said = maker.PA if session == "a" else maker.AP
        epi(maker, f"sub-01_ses-{session}_epi", {**said, "B0FieldIdentifier": "f"})
    first, second = (visit.series[0] for visit in maker.read()[0])
    assert first.outside_image.path.name == "sub-01_ses-a_epi.nii.gz"
    assert second.blip_pair is None
    assert "own session has images" in reasons(second)["sub-01_ses-a_epi"]


@pytest.mark.parametrize("stem", ["dir-PA_dwi", "phasediff"])
def test_runs_and_field_maps_of_another_session_that_name_a_series(maker, stem) -> None:
    two_sessions(maker)
    said = {**maker.PA, "IntendedFor": "bids::sub-01/ses-b/dwi/sub-01_ses-b_dir-AP_dwi.nii.gz"}
    if stem == "phasediff":
        epi(maker, "sub-01_ses-a_phasediff", said)
    else:
        maker.dwi("sub-01_ses-a_dir-PA_dwi", bvals=B0, metadata=said)
    series = only_series(maker)
    if stem == "phasediff":
        assert [f.method for f in series.fieldmaps] == ["phasediff"]
        assert "not built in yet" in reasons(series)["sub-01_ses-a_phasediff"]
    else:
        assert series.outside_image.path.name == "sub-01_ses-a_dir-PA_dwi.nii.gz"


# Series that differ in `acq` alone


def uk_biobank(maker, *, labels=("AP", "PA"), bvals=(0, 0, 0, 2000, 2000, 2000), **said) -> None:
    maker.dwi(f"sub-01_acq-{labels[0]}_dwi", metadata=maker.AP)
    maker.dwi(f"sub-01_acq-{labels[1]}_dwi", bvals=bvals, metadata={**maker.PA, **said})


@pytest.mark.parametrize("labels", [("AP", "PA"), ("msAP", "msPA")])
def test_acquisitions_that_are_called_opposite_are_a_pair(maker, labels) -> None:
    uk_biobank(maker, labels=labels)
    first, second = read_session(maker).series
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
    assert word in reasons(first)[f"sub-01_acq-{labels[1]}_dwi"]


def test_acquisitions_of_any_label_pair_by_a_link(maker) -> None:
    uk_biobank(maker, labels=("main", "rev"), B0FieldIdentifier="f")
    maker.json("sub-01_acq-main_dwi.json", {**maker.AP, "B0FieldSource": "f"})
    first = read_session(maker).series[0]
    assert first.outside_image.path.name == "sub-01_acq-rev_dwi.nii.gz"


@pytest.mark.parametrize("echo", [True, "0.1", [0.1], -1, float("nan")])
def test_echo_time_that_is_no_time_is_an_unknown_one(maker, echo) -> None:
    uk_biobank(maker, EchoTime=echo)
    assert read_session(maker).series[0].blip_pair is not None


def test_b0_run_of_another_echo_time_is_used_and_said_so(maker) -> None:
    uk_biobank(maker, bvals=B0, EchoTime=0.2)
    maker.json("sub-01_acq-AP_dwi.json", {**maker.AP, "EchoTime": 0.1})
    series = only_series(maker)
    assert series.blip_pair is not None
    assert "differ in EchoTime: 0.1 and 0.2 s" in series.warnings[-1]


# MultipartID


def test_runs_of_one_multipart_scan_are_one_series(maker) -> None:
    for acq, bvals in (("b0", B0), ("b1000", [1000] * 7), ("b2000", [2000] * 9)):
        said = {**maker.AP, "MultipartID": "scan"}
        maker.dwi(f"sub-01_acq-{acq}_dwi", bvals=bvals, metadata=said)
    series = only_series(maker)
    assert series.name == "sub-01"
    assert [run.entities["acquisition"] for run in series.runs] == ["b0", "b1000", "b2000"]
    assert series.n_volumes == 18


def test_multipart_scans_of_two_names_are_two_series(maker) -> None:
    for run in "1234":
        said = {**maker.AP, "MultipartID": "first" if run in "12" else "second"}
        maker.dwi(f"sub-01_run-{run}_dwi", metadata=said)
    assert [len(s.runs) for s in read_session(maker).series] == [2, 2]


def test_b0_image_without_gradients_is_pointed_at_where_the_series_lacks_one(maker) -> None:
    said = {**maker.AP, "MultipartID": "scan"}
    maker.dwi("sub-01_acq-b1000_dwi", bvals=[1000] * 7, metadata=said)
    epi(maker, "sub-01_acq-b0_dwi", said)
    errors = [p.error for p in maker.read()[1]]
    (error,) = [e for e in errors if isinstance(e, GradientError)]
    assert "sub-01_acq-b0_dwi.nii.gz needs .bval and .bvec files of zeros" in str(error)


def test_reconstructions_of_one_multipart_scan_are_kept_apart(maker) -> None:
    for rec in "ab":
        maker.dwi(f"sub-01_rec-{rec}_dwi", metadata={**maker.AP, "MultipartID": "scan"})
    assert len(read_session(maker).series) == 2


def test_multipart_scan_on_two_grids_is_kept_apart_and_said_so(maker) -> None:
    said = {**maker.AP, "MultipartID": "scan"}
    maker.dwi("sub-01_acq-a_dwi", metadata=said)
    maker.dwi("sub-01_acq-b_dwi", metadata=said, affine=maker.turned(2.0))
    first, second = read_session(maker).series
    for series in (first, second):
        assert "one MultipartID, 'scan', and are kept apart" in series.warnings[0]
        assert "turned by 2.0 degrees" in series.warnings[0]


# A reverse-phase b=0 image in `dwi`


def reverse_b0(
    maker, shape, *, bval: str | None, has_bvec: bool, stem="sub-01_dir-PA_dwi", **said
):
    """Write an image of the opposite direction and the gradient files it is to have."""
    epi(maker, stem, {**maker.PA, **said}, shape=shape)
    if bval is not None:
        maker.path(f"{stem}.bval").write_text(bval)
    if has_bvec:
        n = len(bval.split()) if bval else 1
        np.savetxt(maker.path(f"{stem}.bvec"), np.zeros((3, n)))
    return maker.path(f"{stem}.nii.gz")


@pytest.mark.parametrize(
    ("shape", "bval", "has_bvec"),
    [
        ((6, 6, 4), None, False),
        ((6, 6, 4), "0", True),
        ((6, 6, 4), "0", False),
        ((6, 6, 4, 1), None, False),
        ((6, 6, 4, 1), "5", False),
        ((6, 6, 4, 3), None, False),
        ((6, 6, 4, 3), "0 0 5", False),
        # HCP 7T and Bruker store 55 to 70 for b=0.
        ((6, 6, 4, 3), "60 65 60", False),
        ((6, 6, 4), "60", True),
    ],
)
def test_b0_image_serves_whatever_its_files(maker, shape, bval, has_bvec) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    path = reverse_b0(maker, shape, bval=bval, has_bvec=has_bvec)
    series = only_series(maker)
    assert series.outside_image.path == path
    assert series.outside_image.bval is None
    assert series.n_volumes == 7


def test_b0_image_of_one_volume_with_gradients_serves(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    reverse_b0(maker, (6, 6, 4, 1), bval="0", has_bvec=True)
    assert only_series(maker).blip_pair is not None


@pytest.mark.parametrize(
    ("shape", "stem", "said", "error"),
    [
        pytest.param((6, 6, 4, 3), "sub-01_acq-x_dwi", {}, GradientError, id="not named"),
        pytest.param((6, 6, 4, 11), "sub-01_dir-PA_dwi", {}, GradientError, id="many volumes"),
        pytest.param(
            (6, 6, 4, 3),
            "sub-01_dir-PA_dwi",
            {"PhaseEncodingDirection": "j-"},
            GradientError,
            id="not opposed",
        ),
    ],
)
def test_several_volumes_without_gradients_are_refused_unless_said_to_be_reverse(
    maker, shape, stem, said, error
) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    path = reverse_b0(maker, shape, bval=None, has_bvec=False, stem=stem, **said)
    visits, (problem,) = maker.read()
    assert isinstance(problem.error, error)
    assert problem.path == path.with_name(f"{stem}.bval")
    (series,) = visits[0].series
    assert series.blip_pair is None
    assert f"{stem}" in reasons(series)


@pytest.mark.parametrize(
    ("bval", "has_bvec", "file", "found"),
    [
        pytest.param("", True, "bval", "file is empty", id="empty"),
        pytest.param("0 x", True, "bval", "not a number: 'x'", id="words"),
        pytest.param("0_0", False, "bval", "not a number: '0_0'", id="Python's own digits"),
        pytest.param("1000", True, "bval", "b = 1000 s/mm^2 for a 3-D image", id="weighted"),
        pytest.param("0 0", True, "bval", "2 b-values for a 3-D image", id="several"),
        pytest.param(None, True, "bvec", "no .bval file", id="bvec alone"),
    ],
)
def test_gradient_files_that_spoil_a_single_volume_are_named(
    maker, bval, has_bvec, file, found
) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    path = reverse_b0(maker, (6, 6, 4), bval=bval, has_bvec=has_bvec)
    _, (problem,) = maker.read()
    assert isinstance(problem.error, GradientError)
    assert found in problem.error.found
    assert problem.path == path.with_name(f"sub-01_dir-PA_dwi.{file}")


def test_the_threshold_of_the_user_decides_about_a_b0_image(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", bvals=[0, *[1000] * 6], metadata=maker.AP)
    reverse_b0(maker, (6, 6, 4), bval="60", has_bvec=False)
    strict = GradientOptions(b0_threshold=50)
    (problem,) = read_dataset(maker.root, gradient_options=strict).problems
    assert "b = 60 s/mm^2" in problem.error.found


@pytest.mark.parametrize("ending", ["bval", "bvec", "nii.gz", "json"])
def test_a_pipe_is_refused_and_never_opened(maker, ending) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    path = reverse_b0(maker, (6, 6, 4, 2), bval="0 0", has_bvec=ending == "bvec")
    pipe = path.with_name(f"sub-01_dir-PA_dwi.{ending}")
    pipe.unlink()
    os.mkfifo(pipe)
    _, (problem,) = maker.read()
    assert "no regular file" in problem.error.found
    assert problem.path == pipe


def test_weighted_volume_without_a_direction_is_no_b0(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    reverse_b0(maker, (6, 6, 4), bval="1000", has_bvec=False)
    visits, problems = maker.read()
    assert len(problems) == 1
    assert visits[0].series[0].blip_pair is None


def test_inherited_gradients_are_not_those_of_a_single_volume(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    for extension in (".bval", ".bvec"):
        own = maker.path(f"sub-01_dir-AP_dwi{extension}")
        own.rename(maker.root / f"dwi{extension}")
    path = reverse_b0(maker, (6, 6, 4, 1), bval=None, has_bvec=False)
    assert only_series(maker).outside_image.path == path


# Single-band references


def test_single_band_reference_of_the_opposite_direction_serves_and_is_said_so(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    epi(maker, "sub-01_dir-AP_sbref", maker.AP)
    epi(maker, "sub-01_dir-PA_sbref", maker.PA)
    series = only_series(maker)
    assert series.outside_image.path.name == "sub-01_dir-PA_sbref.nii.gz"
    assert "a single-band reference, is the other half" in series.warnings[0]
    assert series.unused == ()


def test_single_band_reference_gives_way_to_the_run_itself(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-b0_dir-PA_dwi", bvals=B0, metadata=maker.PA)
    epi(maker, "sub-01_dir-PA_sbref", maker.PA)
    series = only_series(maker)
    assert series.outside_image.path.name == "sub-01_acq-b0_dir-PA_dwi.nii.gz"
    assert "not needed" in reasons(series)["sub-01_dir-PA_sbref"]


def test_single_band_reference_of_another_protocol_needs_a_link(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    epi(maker, "sub-01_acq-x_dir-PA_sbref", maker.PA)
    assert "does not say for which" in reasons(only_series(maker))["sub-01_acq-x_dir-PA_sbref"]


def test_single_band_reference_of_functional_runs_is_left_alone(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    folder = maker.root / "sub-01" / "func"
    folder.mkdir()
    image = nib.Nifti1Image(np.ones((6, 6, 4), np.int16), np.eye(4))
    nib.save(image, folder / "sub-01_dir-PA_sbref.nii.gz")
    assert only_series(maker).unused == ()


# Labels against metadata


@pytest.mark.parametrize(
    ("stems", "encodings", "words"),
    [
        (["dir-AP_dwi", "dir-PA_dwi"], ["j", "j"], ["one direction", "dir-AP and dir-PA"]),
        (["dir-AP_run-1_dwi", "dir-AP_run-2_dwi"], ["j", "j-"], ["opposite directions", "dir-AP"]),
        (["dir-LR_dwi", "dir-rl_dwi"], ["i-", "i-"], ["one direction", "dir-LR and dir-rl"]),
        (["acq-AP_dwi", "acq-PA_dwi"], ["j", "j"], ["one direction", "acq-AP and acq-PA"]),
        (["acq-b1AP_dwi", "acq-b2PA_dwi"], ["j", "j"], ["one direction", "acq-b1AP and acq-b2PA"]),
    ],
)
def test_labels_that_contradict_the_metadata_are_warned_of(maker, stems, encodings, words) -> None:
    for stem, encoding in zip(stems, encodings, strict=True):
        said = {"PhaseEncodingDirection": encoding, "TotalReadoutTime": 0.05}
        maker.dwi(f"sub-01_{stem}", metadata=said)
    (warning,) = read_session(maker).warnings
    for word in (*words, *(f"sub-01_{stem}.nii.gz" for stem in stems)):
        assert word in warning


def test_contradiction_of_an_image_in_fmap_is_warned_of(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    epi(maker, "sub-01_dir-PA_epi", {**maker.AP, **LINK})
    (warning,) = read_session(maker).warnings
    assert "sub-01_dir-AP_dwi.nii.gz and sub-01_dir-PA_epi.nii.gz" in warning


def test_labels_are_compared_in_the_scanner_s_frame(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    # Stored with the second axis reversed, `j-` runs the other way.
    flipped = np.diag([-2.0, -2.0, 2.0, 1.0])
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.AP, affine=flipped)
    assert read_session(maker).warnings == ()


@pytest.mark.parametrize(
    ("stems", "encodings", "named"),
    [
        (["dir-AP", "dir-PA"], ["j", "i"], ["dir-PA"]),
        (["dir-LR", "dir-RL"], ["j", "j-"], ["dir-LR", "dir-RL"]),
        (["acq-HF"], ["j"], ["acq-HF"]),
        (["acq-SNAP", "acq-map"], ["i", "i-"], []),  # no direction words
        (["dir-1", "dir-2"], ["i", "i"], []),
        (["acq-AP_dir-1", "acq-AP_dir-2"], ["j", "j-"], []),
    ],
)
def test_axis_that_the_label_does_not_name_is_warned_of(maker, stems, encodings, named) -> None:
    for stem, encoding in zip(stems, encodings, strict=True):
        said = {"PhaseEncodingDirection": encoding, "TotalReadoutTime": 0.05}
        maker.dwi(f"sub-01_{stem}_dwi", metadata=said)
    warnings = read_session(maker).warnings
    assert len(warnings) == len(named)
    for label, warning in zip(named, warnings, strict=True):
        assert f"under the label {label}." in warning


def test_opposite_words_of_directions_that_are_not_opposed(maker) -> None:
    # The first is turned by 50 degrees: each is near its axis, and they do not oppose each other.
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP, affine=maker.turned(-50))
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA, affine=maker.turned(0))
    (warning,) = read_session(maker).warnings
    assert "directions not opposed, under the opposite labels dir-AP and dir-PA" in warning
