"""Reverse-phase images of b=0 volumes in `dwi`, with and without gradient files."""

from __future__ import annotations

import os

import numpy as np
import pytest

from dmri_fm.errors import GradientError
from dmri_fm.gradient_options import GradientOptions
from dmri_fm_workflows.bids import read_dataset

LINK = {"IntendedFor": "dwi/sub-01_dir-AP_dwi.nii.gz"}


def reverse_b0(
    maker, shape, *, bval: str | None, has_bvec: bool, stem="sub-01_dir-PA_dwi", **said
):
    """Write an image of the opposite direction and the gradient files it is to have."""
    maker.epi(stem, {**maker.PA, **said}, shape=shape)
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
    series = maker.only_series()
    assert series.outside_image.path == path
    assert series.outside_image.bval is None
    assert series.n_volumes == 7


def test_b0_image_of_one_volume_with_gradients_serves(maker) -> None:
    maker.dwi("sub-01_dir-AP_dwi", metadata=maker.AP)
    reverse_b0(maker, (6, 6, 4, 1), bval="0", has_bvec=True)
    assert maker.only_series().blip_pair is not None


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
    assert f"{stem}" in maker.reasons(series)


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
    assert maker.only_series().outside_image.path == path
