"""Gradient-echo field maps: scales, unwrapping, Hz, noise, frames, position."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from dmri_fm.distortion import DistortionField, PhaseEncoding
from dmri_fm.errors import ConfigError, ImageError
from dmri_fm.preprocess.field_smoothing import find_outliers, smooth_field
from dmri_fm.preprocess.fieldmap_placement import place_field, position_at
from dmri_fm.preprocess.phase_fieldmap import (
    MeasuredField,
    check_measured_hz,
    find_measured,
    keep_measured,
    measure_field,
    phase_radians,
    phase_to_hz,
    wrap,
)
from dmri_fm.preprocess.susceptibility import B0Image, estimate_pair_field

SHAPE = (24, 26, 20)
ECHOES_S = (0.00492, 0.00738)
READOUT_S = 0.05


def make_affine(*, is_las: bool, size_mm: float = 3.0) -> np.ndarray:
    affine = np.diag([-size_mm if is_las else size_mm, size_mm, size_mm, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return affine


def ball(radius: float = 8.0) -> np.ndarray:
    grid = np.indices(SHAPE) - (np.array(SHAPE)[:, None, None, None] - 1) / 2
    return (grid**2).sum(0) < radius**2


def make_hz() -> np.ndarray:
    """A smooth field of several turns between the echoes, with a median near zero."""
    i, j, k = np.indices(SHAPE) - (np.array(SHAPE)[:, None, None, None] - 1) / 2
    return 60.0 * j + 20.0 * i + 4.0 * k**2 - 90.0


def as_phase(hz: np.ndarray) -> np.ndarray:
    """The wrapped phase that the field leaves between the echoes, by complex numbers."""
    return np.angle(np.exp(2j * np.pi * hz * (ECHOES_S[1] - ECHOES_S[0])))


@pytest.mark.parametrize(("least", "turn"), [(0, 4096), (-2048, 4096), (-4096, 8192)])
def test_scanner_units_become_radians(least: int, turn: int) -> None:
    phase = np.random.default_rng(0).uniform(-np.pi, np.pi, 5000)
    units = np.floor((phase + np.pi) / (2 * np.pi) * turn) + least
    np.testing.assert_allclose(phase_radians(units), phase, atol=2 * np.pi / turn)


@pytest.mark.parametrize(
    "values", [[3.0, 3.0], [0.0, np.nan], [-900, 1200], [0, 8000], [-4096, 5000]]
)
def test_values_of_no_scale_are_refused(values: list[float]) -> None:
    with pytest.raises(ImageError):
        phase_radians(values)


def test_stated_radians_of_any_size_are_wrapped() -> None:
    values = np.array([-20.0, 0.5, 20.0])
    np.testing.assert_allclose(phase_radians(values, units="rad"), wrap(values))


def test_wrapped_phase_gives_the_field_in_hz() -> None:
    hz, mask = make_hz(), ball()
    found = phase_to_hz(as_phase(hz), mask, echo_times_s=ECHOES_S)
    # The same field up to whole turns, 406.5 Hz, none of which is off here.
    np.testing.assert_allclose(found[mask], hz[mask], atol=1e-6)
    assert not found[~mask].any()


def test_swapped_echoes_and_milliseconds_are_refused() -> None:
    for echoes in (ECHOES_S[::-1], (4.92, 7.38), (0.005, 0.005)):
        with pytest.raises(ConfigError, match="echo times"):
            phase_to_hz(as_phase(make_hz()), ball(), echo_times_s=echoes)


def test_noise_cannot_be_unwrapped() -> None:
    noise = np.random.default_rng(0).uniform(-np.pi, np.pi, SHAPE)
    with pytest.raises(ImageError, match="half a turn after unwrapping"):
        phase_to_hz(noise, ball(), echo_times_s=ECHOES_S)


def test_a_field_in_hz_that_is_wrapped_or_constant_is_refused() -> None:
    hz, mask = make_hz(), ball()
    check_measured_hz(hz, mask)
    with pytest.raises(ImageError, match="is wrapped"):
        check_measured_hz(wrap(hz * np.pi / 100) * 100 / np.pi, mask)
    with pytest.raises(ImageError, match="constant"):
        check_measured_hz(np.full(SHAPE, 7.0), mask)


def test_noise_voxels_are_found_and_leave_no_trace() -> None:
    hz, mask = make_hz(), ball()
    spoiled = hz + np.random.default_rng(0).normal(0, 1, SHAPE)
    spots = [(12, 13, 10), (9, 15, 8), (14, 10, 12)]
    for spot in spots:
        spoiled[spot] += 200
    found = find_outliers(spoiled, mask)
    assert all(found[spot] for spot in spots)
    assert found.sum() < 0.03 * mask.sum()
    smooth = smooth_field(spoiled, mask & ~found, make_affine(is_las=True))
    # Noise of 1 Hz, and what a Gaussian of 2 mm does to the curvature of this field.
    assert all(abs(smooth[spot] - hz[spot]) < 8 for spot in spots)


def test_the_field_is_continued_outside_the_brain() -> None:
    mask = ball()
    smooth = smooth_field(
        np.where(mask, 25.0, np.nan_to_num(np.inf)), mask, make_affine(is_las=True)
    )
    np.testing.assert_allclose(smooth, 25.0, rtol=1e-5)


@pytest.mark.parametrize("is_las", [True, False])
@pytest.mark.parametrize("direction", ["i", "i-", "j", "j-", "k"])
def test_a_phase_moves_the_image_by_the_right_voxels(direction: str, is_las: bool) -> None:
    """A constant phase of 40 Hz over .05 s: two voxels along the phase encoding.

    The map lies on another grid, of 2.5 mm and stored the other way round than the b=0 image.
    """
    axis, sign = PhaseEncoding(direction, READOUT_S).axis_and_sign()
    affine = make_affine(is_las=is_las)
    image = np.zeros(SHAPE, np.float32)
    image[10:13, 11:14, 8:11] = 100.0
    distorted = np.roll(image, 2 * sign, axis)
    phase = np.full(SHAPE, 2 * np.pi * 40.0 * (ECHOES_S[1] - ECHOES_S[0]))
    other = make_affine(is_las=not is_las, size_mm=4.0)
    hz = smooth_field(phase_to_hz(phase, ball(), echo_times_s=ECHOES_S), ball(), other)
    measured = MeasuredField(DistortionField(hz, other), np.ones(SHAPE, np.float32), ball(), 0)
    b0 = B0Image(distorted, affine, PhaseEncoding(direction, READOUT_S))
    corrected = position_at(measured, b0, np.eye(4)).corrected
    # Cubic splines of an integer shift leave rounding only.
    np.testing.assert_allclose(corrected, image, atol=0.5)


@pytest.mark.parametrize("is_las", [True, False])
def test_the_sign_is_that_of_the_reverse_phase_pair(is_las: bool) -> None:
    """Both estimates get what one field did: wrapped phases, and two displaced images."""
    affine = make_affine(is_las=is_las)
    i, j, k = np.indices(SHAPE) - (np.array(SHAPE)[:, None, None, None] - 1) / 2
    hz = 30.0 * np.exp(-(i**2 + (j - 2) ** 2 + k**2) / 50.0)
    head = 100.0 / (1 + np.exp((np.sqrt(i**2 + j**2 + k**2) - 8) * 3))
    head *= 1 + 0.4 * np.cos(0.9 * j) * np.cos(0.7 * i)
    images = []
    for sign in (1, -1):
        # Signal of x lies at x + sign * hz * readout: read it back along each line.
        rows = np.arange(SHAPE[1], dtype=float)
        moved = np.zeros(SHAPE)
        for a in range(SHAPE[0]):
            for c in range(SHAPE[2]):
                place = rows + sign * hz[a, :, c] * READOUT_S
                density = head[a, :, c] / np.gradient(place)
                moved[a, :, c] = np.interp(rows, place, density)
        images.append(moved.astype(np.float32))
    encodings = (PhaseEncoding("j", READOUT_S), PhaseEncoding("j-", READOUT_S))
    pair = estimate_pair_field(
        *(B0Image(b0, affine, e) for b0, e in zip(images, encodings, strict=True))
    )
    measured = phase_to_hz(as_phase(hz), ball(), echo_times_s=ECHOES_S)
    inside = ball(6.0)
    assert np.corrcoef(measured[inside], pair.field.hz[inside])[0, 1] > 0.9
    # A third of the peak is the error of the pair's estimate on so small a head.
    assert np.abs(np.median((measured - pair.field.hz)[inside])) < 10


def test_two_images_of_unlike_size_and_an_empty_magnitude_are_refused() -> None:
    affine = make_affine(is_las=True)
    with pytest.raises(ImageError, match="two 3-D images on one grid"):
        measure_field(np.zeros(SHAPE), np.ones((4, 4, 4)), affine, echo_times_s=ECHOES_S)
    with pytest.raises(ImageError, match="no brain"):
        measure_field(as_phase(make_hz()), np.zeros(SHAPE), affine, echo_times_s=ECHOES_S)


def test_a_readout_of_zero_and_a_map_of_another_space_are_refused() -> None:
    affine = make_affine(is_las=True)
    image = ball().astype(np.float32)
    away = affine.copy()
    away[2, 3] += 200
    field = DistortionField(np.zeros(SHAPE, np.float32), away)
    measured = MeasuredField(field, image, ball(), 0)
    with pytest.raises(ConfigError, match="readout time 0 s"):
        place_field(measured, B0Image(image, affine, PhaseEncoding("j", 0.0)))
    with pytest.raises(ImageError, match="covers 0% of the b=0 image"):
        place_field(measured, B0Image(image, affine, PhaseEncoding("j", READOUT_S)))


def test_the_scalp_of_the_magnitude_image_is_left_out() -> None:
    shape, affine = (64, 72, 56), np.diag([-3.0, 3.0, 3.0, 1.0])
    grid = np.indices(shape) * 3.0 - np.array([96, 102, 90])[:, None, None, None]

    def inside(*radii_mm: float) -> np.ndarray:
        return (np.square(grid / np.array(radii_mm)[:, None, None, None])).sum(0) <= 1

    brain, scalp = inside(66, 82, 60), inside(84, 100, 78) & ~inside(70, 86, 64)
    magnitude = gaussian_filter(np.select([brain, scalp], [300.0, 500.0], 10.0), 0.5)
    mask = measure_field(0.5 * grid[1], magnitude, affine).mask
    assert mask[brain].mean() > 0.95
    # deepbet's edge lies in the scalp in places; median_otsu takes all of it.
    assert mask[scalp].mean() < 0.2


@pytest.mark.parametrize("is_phase", [True, False])
def test_a_constant_background_inside_the_mask_is_not_measured(is_phase: bool) -> None:
    measured, mask = ball(8.0), ball(9.0)
    values = np.where(measured, as_phase(make_hz()) + 10 if is_phase else make_hz() + 0.5, 0.0)
    found = keep_measured(mask, find_measured(values, is_phase=is_phase), is_phase=is_phase)
    np.testing.assert_array_equal(found, measured & mask)
    values[~ball(6.0)] = 0
    with pytest.raises(ImageError, match="of the brain of its magnitude image"):
        keep_measured(mask, find_measured(values, is_phase=is_phase), is_phase=is_phase)


def test_zeros_between_whole_numbers_do_not_part_a_field() -> None:
    values = np.round(make_hz() / 60)
    kept = keep_measured(ball(), find_measured(values, is_phase=False), is_phase=False)
    assert (values[kept] > 0).any()
    assert (values[kept] < 0).any()
