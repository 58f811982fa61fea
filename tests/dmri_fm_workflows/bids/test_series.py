"""Which runs make a series, what it is called, and which images oppose its phase encoding."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradient_options import GradientOptions
from dmri_fm_workflows.bids import read_dataset
from dmri_fm_workflows.bids.records import is_opposite

B0 = (0, 5)


def series_names(maker) -> list[str]:
    return [series.name for series in maker.session().series]


@pytest.mark.parametrize(
    ("stems", "names"),
    [
        (["dir-AP"], ["sub-01_dir-AP"]),
        (["dir-AP_run-1"], ["sub-01_dir-AP_run-1"]),
        (["dir-AP", "dir-PA"], ["sub-01"]),
        (["dir-AP_run-1", "dir-AP_run-2"], ["sub-01_dir-AP"]),
        (["dir-AP_run-1", "dir-PA_run-1"], ["sub-01_run-1"]),
        (["dir-AP_run-1", "dir-PA_run-2"], ["sub-01"]),
        (["run-1", "run-2", "run-3"], ["sub-01"]),
        (["acq-a_dir-AP", "acq-b_dir-AP"], ["sub-01_acq-a_dir-AP", "sub-01_acq-b_dir-AP"]),
        (["acq-a_dir-AP", "acq-a_dir-PA", "dir-AP"], ["sub-01_acq-a", "sub-01_dir-AP"]),
        (["echo-1", "echo-2"], ["sub-01_echo-1", "sub-01_echo-2"]),
    ],
)
def test_runs_merge_over_dir_and_run_only(maker, stems, names) -> None:
    for stem in stems:
        maker.dwi(f"sub-01_{stem}_dwi", metadata=maker.PA if "dir-PA" in stem else maker.AP)
    assert series_names(maker) == names


@pytest.mark.parametrize(
    ("merging", "expected"),
    [
        ("all", {"sub-01": ("AP1", "PA1")}),
        ("phase encoding", {"sub-01_dir-AP": ("AP1", "PA1"), "sub-01_dir-PA": ("PA1", "AP1")}),
        (
            "none",
            {
                "sub-01_dir-AP_run-1": ("AP1", "PA1"),
                "sub-01_dir-AP_run-2": ("AP2", "PA1"),
                "sub-01_dir-PA_run-1": ("PA1", "AP1"),
                "sub-01_dir-PA_run-2": ("PA2", "AP1"),
            },
        ),
    ],
)
def test_runs_that_are_kept_apart_correct_one_another(maker, merging, expected) -> None:
    for direction, metadata in (("AP", maker.AP), ("PA", maker.PA)):
        for run in "12":
            maker.dwi(f"sub-01_dir-{direction}_run-{run}_dwi", metadata=metadata)
    found = {
        series.name: tuple(
            image.entities["direction"] + image.entities["run"] for image in series.blip_pair
        )
        for series in maker.session(merging=merging).series
    }
    assert found == expected


def test_no_run_of_a_scan_in_another_pose_corrects_it(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", metadata=maker.PA, affine=maker.turned(5.0))
    for merging in ("all", "phase encoding", "none"):
        assert all(s.blip_pair is None for s in maker.session(merging=merging).series)


@pytest.mark.parametrize(
    ("degrees", "shift_mm", "n_series"),
    [(0.0, 0.0, 1), (0.5, 0.0, 1), (0.0, 3.0, 1), (2.0, 0.0, 2), (180.0, 0.0, 2), (0, 8.0, 2)],
)
def test_other_head_pose_is_another_series(maker, degrees, shift_mm, n_series) -> None:
    maker.dwi("sub-01_run-1_dwi", metadata=maker.AP)
    affine = maker.turned(degrees, shift_mm=shift_mm)
    maker.dwi("sub-01_run-2_dwi", metadata=maker.AP, affine=affine)
    assert len(series_names(maker)) == n_series


def test_mirrored_storage_is_another_series(maker) -> None:
    maker.dwi("sub-01_run-1_dwi", metadata=maker.AP)
    maker.dwi("sub-01_run-2_dwi", metadata=maker.AP, affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    assert series_names(maker) == ["sub-01_run-1", "sub-01_run-2"]


def test_other_grid_is_another_series_with_its_own_name(maker) -> None:
    for run in "12":
        maker.dwi(f"sub-01_dir-AP_run-{run}_dwi", metadata=maker.AP)
    for run in "34":
        maker.dwi(f"sub-01_dir-AP_run-{run}_dwi", metadata=maker.AP, grid=(8, 6, 4))
    assert series_names(maker) == ["sub-01_dir-AP_run-1", "sub-01_dir-AP_run-3"]


def test_opposite_runs_are_a_pair(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", bvals=B0, metadata=maker.PA)
    (series,) = maker.session().series
    one, other = series.blip_pair
    assert (one.path.name, other.path.name) == (
        "sub-01_dir-AP_dwi.nii.gz",
        "sub-01_dir-PA_dwi.nii.gz",
    )
    assert series.n_volumes == 9
    assert series.reverse == ()


@pytest.mark.parametrize("other", ["j-", "i", "i-", "k", None])
def test_pair_needs_one_axis_and_both_directions(maker, other) -> None:
    maker.dwi("sub-01_run-1_dwi", metadata=maker.AP)
    metadata = {"TotalReadoutTime": 0.05, "PhaseEncodingDirection": other}
    maker.dwi("sub-01_run-2_dwi", metadata=metadata)
    assert maker.session().series[0].blip_pair is None


def test_opposition_is_symmetric() -> None:
    codes = ["i", "i-", "j", "j-", "k", "k-", None]
    for one in codes:
        assert not is_opposite(one, one)
        assert sum(is_opposite(one, other) for other in codes) == (one is not None)
        assert all(is_opposite(one, other) == is_opposite(other, one) for other in codes)


def test_pair_needs_b0_on_both_sides(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    maker.dwi("sub-01_dir-PA_dwi", bvals=[1000] * 6, metadata=maker.PA)
    assert maker.session().series[0].blip_pair is None


@pytest.mark.parametrize(
    "link",
    [
        "bids::sub-01/ses-a/dwi/sub-01_ses-a_dir-AP_dwi.nii.gz",
        "ses-a/dwi/sub-01_ses-a_dir-AP_dwi.nii.gz",
        ["ses-a/func/x.nii.gz", "bids::sub-01/ses-a/dwi/sub-01_ses-a_dir-AP_dwi.nii.gz"],
    ],
)
def test_epi_with_a_link_is_the_reverse_image(maker, link) -> None:
    maker.dwi("sub-01_ses-a_dir-AP_dwi", metadata=maker.AP)
    maker.image("sub-01_ses-a_dir-PA_epi.nii.gz")
    maker.json("sub-01_ses-a_dir-PA_epi.json", {**maker.PA, "IntendedFor": link})
    # One with the same direction, as most protocols have, changes nothing.
    maker.image("sub-01_ses-a_dir-AP_epi.nii.gz")
    maker.json("sub-01_ses-a_dir-AP_epi.json", {**maker.AP, "IntendedFor": link})
    (series,) = maker.session().series
    assert [image.path.name for image in series.reverse] == ["sub-01_ses-a_dir-PA_epi.nii.gz"]
    assert series.blip_pair == (series.runs[0], series.reverse[0])
    assert series.warnings == ()


@pytest.mark.parametrize(
    ("source", "identifier", "is_used"),
    [("f0", "f0", True), (["f0", "f1"], ["f1"], True), ("f0", "f1", False)],
)
def test_b0_field_names_decide_over_links(maker, source, identifier, is_used) -> None:
    path = maker.dwi("sub-01_dir-AP_dwi", metadata={**maker.AP, "B0FieldSource": source})
    link = "bids::" + path.relative_to(maker.root).as_posix()
    maker.image("sub-01_dir-PA_epi.nii.gz", shape=(6, 6, 4, 3))
    metadata = {**maker.PA, "IntendedFor": link, "B0FieldIdentifier": identifier}
    maker.json("sub-01_dir-PA_epi.json", metadata)
    assert (maker.session().series[0].blip_pair is not None) == is_used


def test_link_into_another_dataset_is_not_ours(maker) -> None:
    path = maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    link = "bids:other:" + path.relative_to(maker.root).as_posix()
    maker.image("sub-01_dir-PA_epi.nii.gz")
    maker.json("sub-01_dir-PA_epi.json", {**maker.PA, "IntendedFor": link})
    assert maker.session().series[0].blip_pair is None


def test_b0_run_of_another_acquisition_serves_as_reverse_image(maker) -> None:
    maker.dwi("sub-01_acq-b0_dir-PA_dwi", bvals=B0, metadata=maker.PA)
    maker.dwi("sub-01_acq-ms_dir-AP_dwi", metadata=maker.AP)
    (series,) = maker.session().series
    assert series.name == "sub-01_acq-ms_dir-AP"
    assert series.blip_pair[1].path.name == "sub-01_acq-b0_dir-PA_dwi.nii.gz"


def test_reverse_b0_of_another_size_is_an_error_and_the_scan_goes_on(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    path = maker.dwi("sub-01_dir-PA_dwi", bvals=B0, metadata=maker.PA, grid=(8, 8, 4))
    dataset = read_dataset(maker.root)
    (problem,) = dataset.problems
    assert isinstance(problem.error, ImageError)
    assert problem.path == path
    for word in ("(8, 8, 4)", "(6, 6, 4)", "sub-01_dir-AP_dwi.nii.gz"):
        assert word in str(problem.error)
    (series,) = dataset.participants[0].sessions[0].series
    assert series.name == "sub-01_dir-AP"


def test_linked_epi_of_another_size_is_an_error_and_the_scan_goes_on(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    path = maker.image("sub-01_dir-PA_epi.nii.gz", shape=(8, 8, 4))
    metadata = {**maker.PA, "IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}
    maker.json("sub-01_dir-PA_epi.json", metadata)
    dataset = read_dataset(maker.root)
    assert [p.path for p in dataset.problems] == [path]
    assert "8 x 8 x 4 voxels in place of 6 x 6 x 4" in str(dataset.problems[0].error)
    assert len(dataset.participants[0].sessions[0].series) == 1


def test_series_without_b0_is_an_error(maker) -> None:
    maker.dwi("sub-01_dwi", bvals=[1000] * 7, metadata=maker.AP)
    (problem,) = read_dataset(maker.root).problems
    assert isinstance(problem.error, GradientError)
    assert "no b=0 volume among 7" in str(problem.error)


def test_b0_of_one_run_serves_the_others(maker) -> None:
    maker.dwi("sub-01_run-1_dwi", bvals=[1000] * 7, metadata=maker.AP)
    maker.dwi("sub-01_run-2_dwi", bvals=[8, 1000], metadata=maker.AP)
    assert series_names(maker) == ["sub-01"]


def test_few_directions_are_stated(maker) -> None:
    maker.dwi("sub-01_dwi", bvals=[0, 1000, 1000, 1000], metadata=maker.AP)
    (warning,) = maker.session().series[0].warnings
    assert "3 diffusion directions" in warning


def test_unlike_echo_times_are_stated(maker) -> None:
    maker.dwi("sub-01_run-1_dwi", metadata={**maker.AP, "EchoTime": 0.070})
    maker.dwi("sub-01_run-2_dwi", metadata={**maker.AP, "EchoTime": 0.090})
    assert "0.07, 0.09 s" in maker.session().series[0].warnings[0]


def test_gradient_echo_field_map_goes_to_the_series_it_names(maker) -> None:
    maker.dwi("sub-01_acq-a_dwi", metadata=maker.AP)
    maker.dwi("sub-01_acq-b_dwi", metadata={**maker.AP, "B0FieldSource": "gre"})
    for suffix in ("phasediff", "magnitude1", "magnitude2"):
        maker.image(f"sub-01_{suffix}.nii.gz")
    maker.json(
        "sub-01_phasediff.json",
        {
            "EchoTime1": 0.004,
            "EchoTime2": 0.006,
            "IntendedFor": "bids::sub-01/dwi/sub-01_acq-a_dwi.nii.gz",
        },
    )
    for suffix in ("phase1", "phase2", "magnitude1"):
        maker.image(f"sub-01_acq-p_{suffix}.nii.gz")
    for suffix in ("fieldmap", "magnitude"):
        maker.image(f"sub-01_acq-f_{suffix}.nii.gz")
    maker.json("sub-01_acq-p_phase2.json", {"B0FieldIdentifier": "gre"})
    maker.json("sub-01_acq-f_fieldmap.json", {"B0FieldIdentifier": "other"})
    a, b = maker.session().series
    assert [f.method for f in a.fieldmaps] == ["phasediff"]
    assert sorted(a.fieldmaps[0].paths) == ["magnitude1", "magnitude2", "phasediff"]
    assert a.fieldmaps[0].metadata["phasediff"]["EchoTime2"] == 0.006
    assert [f.method for f in b.fieldmaps] == ["phase1phase2"]


@pytest.mark.parametrize(
    ("bvals", "threshold"),
    [
        ([60, 200] + [1000] * 6, 61),
        ([101] + [1000] * 6, 102),
        ([60] * 2 + [259] * 6, 61),
        ([60, 95, 110] + [1000] * 6, 61),
        ([700] + [1000] * 6, None),
    ],
)
def test_a_series_without_b0_is_told_of_the_threshold_where_that_may_help(
    maker, bvals, threshold
) -> None:
    maker.dwi("sub-01_dwi", bvals=bvals, metadata=maker.AP)
    (problem,) = maker.read()[1]
    advice = problem.error.advice
    assert "add the b=0 images" in advice
    if threshold is None:
        assert "--b0-threshold" not in advice
    else:
        assert f"--b0-threshold {threshold} or more, up to 500" in advice
        options = GradientOptions(b0_threshold=threshold)
        assert not read_dataset(maker.root, gradient_options=options).problems


@pytest.mark.parametrize("bval", [101, 3000])
def test_volumes_left_out_are_named_where_a_series_lacks_b0(maker, bval) -> None:
    # b=0 stored with a nominal b-value and vectors of zeros.
    maker.dwi("sub-01_dwi", bvals=[bval, *[3000] * 6, bval], metadata=maker.AP)
    bvecs = np.loadtxt(maker.path("sub-01_dwi.bvec"))
    bvecs[:, [0, 7]] = 0
    np.savetxt(maker.path("sub-01_dwi.bvec"), bvecs)
    (problem,) = maker.read()[1]
    assert (
        f"volumes 0, 7 (counted from 0) of sub-01_dwi.nii.gz, b = {bval} s/mm^2"
        in problem.error.found
    )
    assert f"the lowest b-value is {bval} s/mm^2" in problem.error.found
    assert "write 0 for them into the .bval file" in problem.error.advice
    assert ("--b0-threshold 102" in problem.error.advice) == (bval == 101)


@pytest.mark.parametrize(("bvals", "is_widened"), [([0, *[3000] * 6], True), (None, False)])
def test_a_tensor_of_higher_b_values_is_among_the_warnings(maker, bvals, is_widened) -> None:
    maker.dwi("sub-01_dwi", bvals=bvals or (0, *[1000] * 6, *[3000] * 6), metadata=maker.AP)
    (series,) = maker.session().series
    said = "the tensor is fitted to b-values up to 3000 s/mm^2: those up to 1550 do not determine"
    assert any(said in warning for warning in series.warnings) == is_widened


# MultipartID


def test_runs_of_one_multipart_scan_are_one_series(maker) -> None:
    for acq, bvals in (("b0", B0), ("b1000", [1000] * 7), ("b2000", [2000] * 9)):
        said = {**maker.AP, "MultipartID": "scan"}
        maker.dwi(f"sub-01_acq-{acq}_dwi", bvals=bvals, metadata=said)
    series = maker.only_series()
    assert series.name == "sub-01"
    assert [run.entities["acquisition"] for run in series.runs] == ["b0", "b1000", "b2000"]
    assert series.n_volumes == 18


def test_multipart_scans_of_two_names_are_two_series(maker) -> None:
    for run in "1234":
        said = {**maker.AP, "MultipartID": "first" if run in "12" else "second"}
        maker.dwi(f"sub-01_run-{run}_dwi", metadata=said)
    assert [len(s.runs) for s in maker.session().series] == [2, 2]


def test_b0_image_without_gradients_is_pointed_at_where_the_series_lacks_one(maker) -> None:
    said = {**maker.AP, "MultipartID": "scan"}
    maker.dwi("sub-01_acq-b1000_dwi", bvals=[1000] * 7, metadata=said)
    maker.epi("sub-01_acq-b0_dwi", said)
    errors = [p.error for p in maker.read()[1]]
    (error,) = [e for e in errors if isinstance(e, GradientError)]
    assert "sub-01_acq-b0_dwi.nii.gz needs .bval and .bvec files of zeros" in str(error)


def test_reconstructions_of_one_multipart_scan_are_kept_apart(maker) -> None:
    for rec in "ab":
        maker.dwi(f"sub-01_rec-{rec}_dwi", metadata={**maker.AP, "MultipartID": "scan"})
    assert len(maker.session().series) == 2


def test_multipart_scan_on_two_grids_is_kept_apart_and_said_so(maker) -> None:
    said = {**maker.AP, "MultipartID": "scan"}
    maker.dwi("sub-01_acq-a_dwi", metadata=said)
    maker.dwi("sub-01_acq-b_dwi", metadata=said, affine=maker.turned(2.0))
    first, second = maker.session().series
    for series in (first, second):
        assert "one MultipartID, 'scan', and are kept apart" in series.warnings[0]
        assert "turned by 2.0 degrees" in series.warnings[0]
