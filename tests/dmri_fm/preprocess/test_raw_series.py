"""Volumes without signal and volumes cut short: found, named, and harmless to every stage."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm import predict_tensor
from dmri_fm.distortion import PhaseEncoding
from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradient_files import RawGradients
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.preprocess.denoise import denoise
from dmri_fm.preprocess.dwiref import b0_reference, correct_bias
from dmri_fm.preprocess.gradient_check import check_gradients
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.preprocess.merge import merge_runs
from dmri_fm.preprocess.motion import estimate_motion
from dmri_fm.preprocess.quality import series_quality
from dmri_fm.preprocess.raw_series import (
    check_run,
    check_usable,
    find_cut_volumes,
    find_empty_volumes,
)
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor

N = 16
AFFINE = np.diag([10.0, 10.0, 10.0, 1.0])
GTAB = GradientTable(
    [0, 0] + [1000] * 12, np.vstack([np.zeros((2, 3)), SKARE_DIRECTIONS, SKARE_DIRECTIONS])
)
BALL = ((np.indices((N, N, N)) - (N - 1) / 2) ** 2).sum(axis=0) < 36


def ball(seed: int = 0) -> np.ndarray:
    """A noisy ball of MD 0.8e-3 mm^2/s, 160 mm field of view."""
    rng = np.random.default_rng(seed)
    clean = np.where(BALL[..., None], 1000 * np.exp(-GTAB.bvals * 8e-4), 0)
    noise = 20 * rng.standard_normal((2, *clean.shape))
    return np.hypot(clean + noise[0], noise[1]).astype(np.float32)


def gradients(gtab: GradientTable = GTAB, *, left_out=()) -> RawGradients:
    kept = tuple(n for n in range(len(gtab) + len(left_out)) if n not in left_out)
    return RawGradients(gtab, kept, dict.fromkeys(left_out, "no direction"), None, ())


def spoil(data: np.ndarray, how: str) -> np.ndarray:
    found = data.copy()
    if how == "zero":
        found[..., 5] = 0
    elif how == "constant":
        found[..., 5] = 7
    elif how == "zero b0":
        found[..., 0] = 0
    elif how == "half":
        found[:, :, N // 2 :, 5] = 0
    elif how == "no b0":
        found[..., :2] = 0
    elif how == "nothing":
        found[:] = 0
    return found


@pytest.mark.parametrize(
    ("how", "empty"),
    [("none", ()), ("zero", (5,)), ("constant", (5,)), ("zero b0", (0,)), ("half", ())],
)
def test_empty_volumes_are_named_and_left_out(how: str, empty: tuple[int, ...]) -> None:
    data = spoil(ball(), how)
    assert find_empty_volumes(data) == empty
    run = check_run(data, gradients(), name="sub-01_dwi.nii.gz")
    assert run.kept == tuple(n for n in range(14) if n not in empty)
    assert run.gtab.bvals.tolist() == np.delete(GTAB.bvals, empty).tolist()
    said = " ".join(run.record["Warnings"])
    assert all(f"volume {n} (counted from 0) left out" in said for n in empty)
    assert run.record.get("VolumesLeftOut", {"sub-01_dwi.nii.gz": {}}) == {
        "sub-01_dwi.nii.gz": {str(n): "no signal in any voxel" for n in empty}
    }


def test_numbers_are_those_of_the_file() -> None:
    # Volume 3 has no direction and is not in the table; volume 9 holds no signal.
    data = np.insert(ball(), 3, 100.0 + BALL, axis=3)
    data[..., 9] = 0
    run = check_run(data, gradients(left_out=(3,)), name="a.nii")
    assert set(run.left_out) == {3, 9}
    assert run.kept == tuple(n for n in range(15) if n not in (3, 9))
    assert len(run.gtab) == 13


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("share", "is_cut"), [(0.5, True), (0.3, True), (0.15, False)])
def test_a_volume_cut_short_is_flagged_and_kept(axis: int, share: float, is_cut: bool) -> None:
    data = ball()
    data[np.abs(np.arange(N) - 7.5) > 6] = 0  # slices that are empty in all volumes
    slices = [slice(None)] * 3
    start = int(N * (1 - share)) if axis else int(14 - 12 * share)
    slices[axis] = slice(start, None)
    data[(*slices, 5)] = 0
    found = find_cut_volumes(data)
    assert (list(found) == [5]) == is_cut
    run = check_run(data, gradients(), name="a.nii")
    assert run.kept == tuple(range(14))
    said = " ".join(run.record["Warnings"])
    assert ("volume 5 (counted from 0) cut short" in said) == is_cut
    assert ("VolumesCutShort" in run.record) == is_cut
    row = series_quality(dwi_of(ball()), dwi_of(data), fd_mm=[], is_outlier=[])
    assert row["raw_num_cut_volumes"] == int(is_cut)


def test_what_is_lost_with_the_volumes_is_an_error_of_the_scan() -> None:
    def left(how: str) -> GradientTable:
        return check_run(spoil(ball(), how), gradients(), name="a.nii").gtab

    check_usable(left("zero"), files=["a.nii"], needs_tensor=True)
    with pytest.raises(GradientError, match="no b=0 volume with signal among the 12 volumes"):
        check_usable(left("no b0"), files=["a.nii"], needs_tensor=True)
    five = GTAB.select(range(7))
    with pytest.raises(GradientError, match="5 directions with signal"):
        check_usable(five, files=["a.nii"], needs_tensor=True)
    check_usable(five, files=["a.nii"], needs_tensor=False)
    with pytest.raises(GradientError, match="14 without signal"):
        left("nothing")


#: Every stage that sees voxels. The suite turns warnings into errors.
STAGES = {
    "mppca": lambda d: denoise(Dwi.from_arrays(d, AFFINE, GTAB), method="mppca").data,
    "merge": lambda d: merge_runs([dwi_of(ball(1)), dwi_of(d)]).scales,
    "dwiref": lambda d: b0_reference(dwi_of(d)),
    "bias": lambda d: correct_bias(d[..., 0], AFFINE),
    "check": lambda d: list(check_gradients(Dwi.from_arrays(d, AFFINE, GTAB)).scores.values()),
    "tensor": lambda d: fit_tensor(dwi_of(d)).diffusivity,
    "network": lambda d: predict_tensor(dwi_of(d)).diffusivity,
    "normalise": lambda d: normalise_b0(d, GTAB, mask=BALL).signal,
    "quality": lambda d: [
        np.nan_to_num(v or 0)
        for v in series_quality(dwi_of(d), dwi_of(d), fd_mm=[], is_outlier=[]).values()
    ],
    "motion": lambda d: motion_of(d).parameters,
}


def dwi_of(data: np.ndarray) -> Dwi:
    return Dwi.from_arrays(data, AFFINE, GTAB, mask=BALL)


def motion_of(data: np.ndarray):
    return estimate_motion(
        dwi_of(data),
        reference=ball()[..., 0],
        encodings=[PhaseEncoding("j", 0.05)] * 14,
        sloppy=True,
    )


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_divides_by_zero(stage: str) -> None:
    for how in ("zero", "zero b0", "constant", "half", "no b0", "nothing"):
        data = spoil(ball(), how)
        if stage in ("dwiref", "network") and how in ("no b0", "nothing"):
            with pytest.raises((GradientError, ImageError), match="b=0"):
                STAGES[stage](data)
            continue
        found = np.asarray(STAGES[stage](data), dtype=float)
        assert np.isfinite(found).all(), (stage, how)


def test_an_empty_b0_neither_scales_a_run_nor_darkens_the_reference() -> None:
    data = spoil(ball(), "zero b0")
    assert merge_runs([dwi_of(ball()), dwi_of(data)]).scales[1] == pytest.approx(1, rel=0.02)
    reference = b0_reference(dwi_of(data))
    np.testing.assert_array_equal(reference, data[..., 1])


def test_lost_slices_of_a_cut_volume_are_outliers() -> None:
    volumes, slices = np.nonzero(motion_of(spoil(ball(), "half")).is_outlier)
    assert set(volumes) == {5}
    assert slices.min() >= N // 2


def test_no_brain_is_looked_for_in_an_empty_image() -> None:
    with pytest.raises(ImageError, match="all voxels are 0"):
        brain_mask(np.zeros((8, 8, 8)), AFFINE, contrast="b0")
