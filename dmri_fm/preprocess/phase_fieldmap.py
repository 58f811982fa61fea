"""Distortion field from a gradient-echo field map: phase difference, two phases, or Hz.

Method: Jezzard and Balaban 1995, doi:10.1002/mrm.1910340111. The phase that builds up between two
echoes is the off-resonance: ``hz = phase / (2 pi (TE2 - TE1))``, TE in s, phase of the second
echo less that of the first. The field keeps its sign law (:mod:`dmri_fm.distortion`) in every
storage order, because it is a scalar.

The mean of the field is kept. Fields are relative to the scanner's frequency, which follows the
magnet's drift, so fields of one shim agree although the stated frequencies do not
(`benchmarks/fieldmaps.py` prints both).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.distortion import DistortionField
from dmri_fm.errors import ConfigError, ImageError
from dmri_fm.preprocess.dwiref import correct_bias
from dmri_fm.preprocess.field_smoothing import find_outliers, share_of_jumps, smooth_field
from dmri_fm.preprocess.mask import MASK_ADVICE, brain_mask
from dmri_fm.preprocess.mask_shape import largest_part

#: Scales of phase images in scanner units: least and largest value, and units per turn. The middle
#: of a scale is a phase of zero. Siemens images are 0 to 4095, or -4096 to 4094 after dcm2niix.
PHASE_SCALES: tuple[tuple[float, float, float], ...] = (
    (0, 4095, 4096),
    (-2048, 2047, 4096),
    (-4096, 4095, 8192),
)

#: A value that fills more than this share of a phase image is its background.
BACKGROUND_SHARE = 0.05

#: Smallest measured share of the brain of the magnitude image.
LEAST_MEASURED = 0.6

#: What a user can do about a field map that cannot be mended.
WITHOUT = "To go on without the field map: --sdc none, or --ignore fieldmaps"

#: Part of a scale that the values have to span: noise outside the head takes every phase.
LEAST_SPAN = 0.9

#: Factors from the units of a measured field to Hz; T by the gyromagnetic ratio of hydrogen.
HZ_PER_UNIT = {"Hz": 1.0, "rad/s": 1 / (2 * np.pi), "T": 42.577478518e6}

#: Range of plausible differences of echo times, s.
ECHO_DIFFERENCE_S = (0.0002, 0.02)

#: Largest share of neighbouring voxels of the brain that differ by more than half a turn after
#: unwrapping.
LARGEST_JUMP_SHARE = 0.02

#: A measured field counts as wrapped if this share of neighbours differs by most of its range.
WRAPPED_SHARE = 0.0005

#: Median phase of the brain, rad, from which the scale of the phase image is doubted.
DOUBTFUL_MEDIAN_RAD = np.pi / 2

#: Seed of the unwrapping, which draws the order of equal edges.
UNWRAP_SEED = 0


@dataclass(frozen=True, eq=False)
class MeasuredField:
    """Distortion field of a gradient-echo field map, on the map's own grid.

    Attributes
    ----------
    field
        Hz, smoothed inside the brain and continued outside.
    magnitude
        Shape (X, Y, Z), corrected for intensity bias.
    mask
        Shape (X, Y, Z), bool: the brain, in which the field was measured.
    n_outliers
        Number of voxels of the brain whose value was replaced.
    warnings
        Doubts that the user should check.
    """

    field: DistortionField
    magnitude: NDArray[np.float32]
    mask: NDArray[np.bool_]
    n_outliers: int
    warnings: tuple[str, ...] = ()


def name_unwrapping() -> str:
    """Return the name of the unwrapping, with its version, for plan and sidecar."""
    return f"skimage {version('scikit-image')} unwrap_phase"


def phase_radians(
    values: ArrayLike, *, units: str = "", name: str = "phase"
) -> NDArray[np.float64]:
    """Return a phase image in radians, -pi to pi.

    Parameters
    ----------
    values
        Radians, or scanner units of one of :data:`PHASE_SCALES`.
    units
        `Units` of the sidecar. "rad" is taken as stated; otherwise values within two turns are
        radians, and others have to fill a scale.
    name
        Name of the image, for errors.

    Raises
    ------
    ImageError
        If the values are constant, not finite or of no known scale.

    Examples
    --------
    >>> phase_radians([0, 1024, 2048, 4095]).round(2).tolist()
    [-3.14, -1.57, 0.0, 3.14]
    >>> phase_radians([-4096, 0, 4094]).round(2).tolist()
    [-3.14, 0.0, 3.14]
    >>> phase_radians([0.0, 1.0, 4.0]).round(2).tolist()
    [0.0, 1.0, -2.28]
    >>> phase_radians([0, 900])
    Traceback (most recent call last):
    ...
    dmri_fm.errors.ImageError: values of phase, 0 to 900, fit no scale of phase images
      expected: radians, or scanner units that fill 0 to 4095, -2048 to 2047 or -4096 to 4095
      what to do: convert the scan again with dcm2niix, or to radians with "Units": "rad"
    """
    phase = np.asarray(values, dtype=np.float64)
    if not np.isfinite(phase).all() or np.ptp(phase) == 0:
        raise ImageError(
            f"values of {name} are not finite, or all equal: there is no phase in it",
            expected="a phase image",
            advice=f"convert the scan again with dcm2niix. {WITHOUT}",
        )
    low, high = float(phase.min()), float(phase.max())
    turn = 2 * np.pi
    if units.strip().lower() in ("rad", "rads", "radian", "radians") or (
        max(-low, high) <= turn + 0.01
    ):
        return wrap(phase)
    for least, largest, period in PHASE_SCALES:
        if least <= low and high <= largest and high - low >= LEAST_SPAN * (largest - least):
            return wrap((phase - (least + period / 2)) * (turn / period))
    scales = [f"{least:g} to {largest:g}" for least, largest, _ in PHASE_SCALES]
    raise ImageError(
        f"values of {name}, {low:g} to {high:g}, fit no scale of phase images",
        expected=f"radians, or scanner units that fill {', '.join(scales[:-1])} or {scales[-1]}",
        advice='convert the scan again with dcm2niix, or to radians with "Units": "rad"',
    )


def wrap(phase: ArrayLike) -> NDArray[np.float64]:
    """Take angles, rad, to -pi to pi (pi itself becomes -pi)."""
    return np.asarray((np.asarray(phase) + np.pi) % (2 * np.pi) - np.pi, dtype=np.float64)


def phase_to_hz(
    phase: ArrayLike, mask: ArrayLike, *, echo_times_s: tuple[float, float]
) -> NDArray[np.float64]:
    """Unwrap a phase difference, and divide it by the time between the echoes.

    Parameters
    ----------
    phase
        Shape (X, Y, Z), rad: second echo less first.
    mask
        Shape (X, Y, Z): one connected region.
    echo_times_s
        Of the first and the second echo.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), Hz; 0 outside the mask. Of fields that differ by whole turns the one
        whose median is nearest to zero: the brain was shimmed.

    Raises
    ------
    ConfigError
        If the difference of the echo times is not plausible.
    ImageError
        If the phase is noise, which cannot be unwrapped.

    Notes
    -----
    Unwrapping after Abdul-Rahman et al. 2007, doi:10.1364/AO.46.006623, by skimage.
    """
    from skimage.restoration import unwrap_phase

    difference_s = echo_times_s[1] - echo_times_s[0]
    check_echo_times(echo_times_s)
    inside = np.asarray(mask, dtype=bool)
    masked = np.ma.array(np.asarray(phase, dtype=np.float64), mask=~inside)
    unwrapped = np.asarray(unwrap_phase(masked, rng=UNWRAP_SEED).filled(0.0))
    turn = 2 * np.pi
    unwrapped -= turn * np.round(np.median(unwrapped[inside]) / turn)
    share = share_of_jumps(unwrapped, inside, larger_than=np.pi)
    if share > LARGEST_JUMP_SHARE:
        raise ImageError(
            f"the phase of {share:.0%} of neighbouring voxels of the brain jumps by more than "
            "half a turn after unwrapping",
            expected=f"at most {LARGEST_JUMP_SHARE:.0%}: a phase that changes slowly",
            advice="look at the phase image: it may be noise, or two images may be swapped. "
            f"{WITHOUT}",
        )
    return np.where(inside, unwrapped, 0.0) / (turn * difference_s)


def check_echo_times(echo_times_s: tuple[float, float]) -> None:
    """Refuse echo times, s, whose difference no field map has.

    Raises
    ------
    ConfigError
        If it is not within :data:`ECHO_DIFFERENCE_S`.

    Examples
    --------
    >>> check_echo_times((4.92, 7.38))
    Traceback (most recent call last):
    ...
    dmri_fm.errors.ConfigError: echo times of 4.92 and 7.38 s
      expected: a second echo that is 0.0002 to 0.02 s later
      what to do: correct EchoTime1 and EchoTime2 (or EchoTime) in the sidecar: seconds
    """
    least, most = ECHO_DIFFERENCE_S
    if not least <= echo_times_s[1] - echo_times_s[0] <= most:
        raise ConfigError(
            f"echo times of {echo_times_s[0]:g} and {echo_times_s[1]:g} s",
            expected=f"a second echo that is {least:g} to {most:g} s later",
            advice="correct EchoTime1 and EchoTime2 (or EchoTime) in the sidecar: seconds",
        )


def check_measured_hz(hz: ArrayLike, mask: ArrayLike) -> None:
    """Refuse a field that was measured in Hz and is constant or wrapped inside the brain.

    Raises
    ------
    ImageError
        If it is.
    """
    field, inside = np.asarray(hz, dtype=np.float64), np.asarray(mask, dtype=bool)
    values = field[inside]
    if not np.isfinite(field).all() or np.ptp(values) == 0:
        raise ImageError(
            "the field map is constant or not finite inside the brain",
            expected="a field that changes from place to place",
            advice=f"convert the scan again. {WITHOUT}",
        )
    low, high = np.percentile(values, [0.1, 99.9])
    share = share_of_jumps(field, inside, larger_than=0.75 * float(high - low))
    if share > WRAPPED_SHARE:
        raise ImageError(
            f"{share:.2%} of neighbouring voxels of the brain differ by most of the field's range,"
            f" {low:.0f} to {high:.0f} Hz: the field map is wrapped",
            expected="an unwrapped field",
            advice="unwrap it, or offer its phase images as phasediff or phase1 and phase2. "
            f"{WITHOUT}",
        )


def measure_field(
    source: ArrayLike,
    magnitude: ArrayLike,
    affine: ArrayLike,
    *,
    echo_times_s: tuple[float, float] | None = None,
    is_measured: ArrayLike | None = None,
) -> MeasuredField:
    """Turn a gradient-echo field map into the distortion field on its own grid.

    Parameters
    ----------
    source
        Shape (X, Y, Z): the phase difference, rad, or the field, Hz.
    magnitude
        Shape (X, Y, Z), not negative: shows the brain.
    affine
        Shape (4, 4), voxel to RAS+ mm, of both.
    echo_times_s
        Echo times of the phase difference; None for a field in Hz, which is not unwrapped.
    is_measured
        Shape (X, Y, Z), bool: voxels that hold a measurement, by :func:`find_measured`; None: all.

    Raises
    ------
    ImageError
        If shapes differ, no brain is found, or the phase or field cannot be used.
    ConfigError
        If the echo times are not plausible.
    """
    values, image = np.asarray(source), np.asarray(magnitude, dtype=np.float32)
    if values.shape != image.shape or values.ndim != 3 or min(values.shape) < 3:
        raise ImageError(
            f"field map of shape {values.shape} beside a magnitude image of shape {image.shape}",
            expected="two 3-D images on one grid, of three slices or more",
            advice=f"convert both again. {WITHOUT}",
        )
    matrix = np.asarray(affine, dtype=np.float64)
    # deepbet alone, as in a T1w image: median_otsu keeps the scalp, which is bright here.
    found = brain_mask(image, matrix, contrast="t1w", is_draft=True)
    if not found.mask.any():
        raise ImageError(
            "no brain is found in the magnitude image: its mask is empty",
            expected="the magnitude image of the field map",
            advice=f"look at the image. {WITHOUT}",
        )
    # Phases of several parts have no common turn.
    mask = largest_part(found.mask)
    if is_measured is not None:
        mask = keep_measured(mask, is_measured, is_phase=echo_times_s is not None)
    image = correct_bias(image, matrix)
    # The report does not show this mask.
    warnings = [
        f"Brain of the magnitude image: {text.replace(MASK_ADVICE, 'look at that image.')}"
        for text in found.warnings
    ]
    if echo_times_s is None:
        check_measured_hz(values, mask)
        hz = np.asarray(values, dtype=np.float64)
    else:
        hz = phase_to_hz(values, mask, echo_times_s=echo_times_s)
        median_rad = 2 * np.pi * float(np.median(hz[mask])) * (echo_times_s[1] - echo_times_s[0])
        if abs(median_rad) > DOUBTFUL_MEDIAN_RAD:
            warnings.append(
                f"The field map has a median of {np.median(hz[mask]):.0f} Hz in the brain, which "
                "a shimmed head has not: check the units of the phase image, and the position of "
                "the b=0 image against the T1w image."
            )
    is_noise = find_outliers(hz, mask)
    smooth = smooth_field(hz, mask & ~is_noise, matrix)
    return MeasuredField(
        DistortionField(smooth, matrix), image, mask, int(is_noise.sum()), tuple(warnings)
    )


def find_measured(values: ArrayLike, *, is_phase: bool) -> NDArray[np.bool_]:
    """Find the voxels of a field map that hold a measurement: many have a constant background.

    Parameters
    ----------
    values
        Shape (X, Y, Z), as stored.
    is_phase
        The background of a phase image is any value that fills more than :data:`BACKGROUND_SHARE`
        of it; that of a field is zero.

    Examples
    --------
    >>> find_measured([0.0, 12.5, -3.0], is_phase=False).tolist()
    [False, True, True]
    """
    stored = np.asarray(values)
    if not is_phase:
        return np.asarray(stored != 0)
    levels, counts = np.unique(stored, return_counts=True)
    background = levels[counts > BACKGROUND_SHARE * stored.size]
    return np.asarray(np.isin(stored, background, invert=True), dtype=np.bool_)


def keep_measured(
    mask: NDArray[np.bool_], is_measured: ArrayLike, *, is_phase: bool
) -> NDArray[np.bool_]:
    """Return the measured part of a brain mask, of a phase its largest connected part.

    Raises
    ------
    ImageError
        If it is less than :data:`LEAST_MEASURED` of the mask.
    """
    kept = mask & np.asarray(is_measured, dtype=bool)
    # Zeros between positive and negative whole numbers part a field in Hz; it needs no one part.
    if is_phase:
        kept = largest_part(kept)
    share = kept.sum() / mask.sum()
    if share < LEAST_MEASURED:
        raise ImageError(
            f"the field map holds values in {share:.0%} of the brain of its magnitude image",
            expected=f"at least {LEAST_MEASURED:.0%}; the rest is a constant background",
            advice=f"convert it again with a wider mask. {WITHOUT}",
        )
    return np.asarray(kept, dtype=np.bool_)
