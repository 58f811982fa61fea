"""Position of a gradient-echo field map on the b=0 image that it corrects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from dmri_fm.distortion import DistortionField, PhaseEncoding, correct_image
from dmri_fm.errors import ConfigError, ImageError
from dmri_fm.preprocess.alignment import align, mutual_information, resample_affine
from dmri_fm.preprocess.mask import brain_mask
from dmri_fm.preprocess.phase_fieldmap import WITHOUT, MeasuredField
from dmri_fm.preprocess.pose import is_plausible, pose_from_matrix
from dmri_fm.preprocess.susceptibility import B0Image

#: Share of the bright part of the b=0 image inside the map's field of view, below which the map
#: is refused, and below which a warning is given.
LEAST_COVERAGE, GOOD_COVERAGE = 0.6, 0.9

#: Gain in mutual information, relative, from which a registered position replaces that of the
#: scanner. Where nothing speaks for a movement, registration turns a map by a degree for 3%.
LEAST_GAIN = 0.04

#: Number of times that the map is registered to the b=0 image as corrected by it.
N_ROUNDS = 2


@dataclass(frozen=True, eq=False)
class PlacedField:
    """Result of :func:`place_field`.

    Attributes
    ----------
    field
        The field, on the grid of the b=0 image.
    corrected
        Shape (X, Y, Z): the b=0 image, corrected; not negative.
    xfm
        Shape (4, 4), RAS+ mm: takes points of the corrected b=0 image to points of the map.
    is_registered
        Whether the map was moved; False: it lies where the scanner put it.
    coverage
        Share of the bright part of the b=0 image inside the map's field of view.
    similarity_before, similarity_after, similarity_opposite
        Normalised mutual information with the magnitude image inside the brain: of the b=0 image
        as acquired, as corrected, and as corrected with the opposite phase encoding.
    warnings
        Doubts that the user should check.
    """

    field: DistortionField
    corrected: NDArray[np.float32]
    xfm: NDArray[np.float64]
    is_registered: bool
    coverage: float
    similarity_before: float
    similarity_after: float
    similarity_opposite: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Position:
    """A field map at one position on a b=0 image.

    Attributes
    ----------
    xfm
        Shape (4, 4), RAS+ mm: takes points of the corrected b=0 image to points of the map.
    field
        The field, on the grid of the b=0 image.
    corrected
        Shape (X, Y, Z): the b=0 image, corrected with it; not negative.
    magnitude
        Shape (X, Y, Z): the magnitude image, on the grid of the b=0 image.
    """

    xfm: NDArray[np.float64]
    field: DistortionField
    corrected: NDArray[np.float32]
    magnitude: NDArray[np.float32]

    def compare(self, image: NDArray[np.float32], brain: NDArray[np.bool_]) -> float:
        """Return the mutual information of a b=0 image with the magnitude, inside the brain."""
        return mutual_information(image[brain], self.magnitude[brain])


def place_field(measured: MeasuredField, b0: B0Image) -> PlacedField:
    """Bring a field map to the grid of a b=0 image, and correct the image.

    The map starts where the scanner put it. Its magnitude image is registered rigidly to the b=0
    image as corrected by it (ANTs, mutual information); a position that is not clearly better, or
    that no head can have, is not used. The field is taken to turn with the head.

    Parameters
    ----------
    measured
        The field map.
    b0
        Distorted b=0 image with its phase encoding.

    Raises
    ------
    ConfigError
        If the phase encoding is malformed or the readout time is not positive.
    ImageError
        If the b=0 image is constant or lies mostly outside the map.
    """
    if not b0.encoding.readout_s > 0:
        raise ConfigError(
            f"readout time {b0.encoding.readout_s:g} s",
            expected="a number above zero: a field in Hz displaces by Hz times readout time",
            advice="correct TotalReadoutTime in the sidecar",
        )
    image = np.maximum(np.asarray(b0.data, dtype=np.float32), 0)
    if image.ndim != 3 or float(np.ptp(image)) == 0.0:
        raise ImageError(
            f"b=0 image of shape {image.shape} is constant or not 3-D", expected="a b=0 image"
        )
    coverage = _coverage(measured, image, b0.affine)
    if coverage < LEAST_COVERAGE:
        raise ImageError(
            f"the field map covers {coverage:.0%} of the b=0 image",
            expected=f"at least {LEAST_COVERAGE:.0%}: both in one space of the scanner",
            advice=f"check that the field map is of this session. {WITHOUT}",
        )
    start = position_at(measured, b0, np.eye(4))
    found = brain_mask(start.corrected, b0.affine, contrast="b0", is_draft=True)
    position, doubts = _registered(measured, b0, start, brain=found.mask)
    opposite = correct_image(image, b0.affine, field=position.field, encoding=_reversed(b0))
    before, after, reversed_ = (
        position.compare(shown, found.mask) for shown in (image, position.corrected, opposite)
    )
    warnings = [*measured.warnings, *doubts]
    if coverage < GOOD_COVERAGE:
        warnings.append(
            f"The field map covers {coverage:.0%} of the b=0 image; beyond it the field is "
            "continued smoothly, which is a guess."
        )
    if reversed_ > after:
        warnings.append(
            "The b=0 image agrees better with the field map's magnitude image if its "
            f"PhaseEncodingDirection, {b0.encoding.direction}, is reversed (mutual information "
            f"{reversed_:.3f}, as stated {after:.3f}, uncorrected {before:.3f}). Check it against "
            "the protocol, and the order of the echoes: swapped phase images turn the sign of the "
            "field too. With a wrong sign distortion doubles."
        )
    return PlacedField(
        position.field,
        position.corrected,
        position.xfm,
        position is not start,
        coverage,
        before,
        after,
        reversed_,
        tuple(warnings),
    )


def position_at(measured: MeasuredField, b0: B0Image, xfm: NDArray[np.float64]) -> Position:
    """Resample a field map through a pull matrix, and correct a b=0 image with it.

    `xfm` has shape (4, 4), RAS+ mm, and takes points of the b=0 image to points of the map.
    """

    def bring(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return resample_affine(
            image,
            xfm,
            fixed_affine=b0.affine,
            moving_affine=measured.field.affine,
            shape=b0.data.shape,
        )

    # Beyond the edge of the map its outermost field goes on: the edge is far from zero, and a
    # step there would tear the image.
    seen = bring(np.ones_like(measured.magnitude))
    field = DistortionField(_continued(bring(measured.field.hz), seen), b0.affine)
    image = np.maximum(np.asarray(b0.data, dtype=np.float32), 0)
    corrected = correct_image(image, b0.affine, field=field, encoding=b0.encoding)
    return Position(xfm, field, np.maximum(corrected, 0), bring(measured.magnitude))


def _continued(hz: NDArray[np.float32], seen: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give voxels that the map does not see, share 0 to 1, the value of the nearest seen one."""
    index = distance_transform_edt(seen < 0.999, return_distances=False, return_indices=True)
    return np.asarray(hz[tuple(index)], dtype=np.float32)


def _registered(
    measured: MeasuredField, b0: B0Image, start: Position, *, brain: NDArray[np.bool_]
) -> tuple[Position, list[str]]:
    """Return the best position of the map, and doubts about it."""
    shown = measured.magnitude * measured.mask
    position = start
    for _ in range(N_ROUNDS):
        xfm = align(
            position.corrected * brain,
            shown,
            fixed_affine=b0.affine,
            moving_affine=measured.field.affine,
            initial=position.xfm,
        )
        if not is_plausible(pose_from_matrix(xfm, centre_mm=_centre_mm(b0))):
            return start, [
                "The field map could not be registered to the b=0 image, and lies where the "
                "scanner put it. Look at the figure of the correction."
            ]
        moved = position_at(measured, b0, xfm)
        least = (1 + LEAST_GAIN) * start.compare(start.corrected, brain)
        # Both are 0 where the images share nothing.
        if moved.compare(moved.corrected, brain) <= least:
            break
        position = moved
    return position, []


def _centre_mm(b0: B0Image) -> NDArray[np.float64]:
    centre = np.array([*((n - 1) / 2 for n in b0.data.shape), 1.0])
    return np.asarray((np.asarray(b0.affine) @ centre)[:3])


def _reversed(b0: B0Image) -> PhaseEncoding:
    """Return the opposite phase encoding."""
    axis, sign = b0.encoding.axis_and_sign()
    return PhaseEncoding("ijk"[axis] + ("-" if sign > 0 else ""), b0.encoding.readout_s)


def _coverage(
    measured: MeasuredField, image: NDArray[np.float32], affine: NDArray[np.float64]
) -> float:
    """Return the share of the bright part of a b=0 image inside the map's field of view."""
    seen = resample_affine(
        np.ones_like(measured.magnitude),
        np.eye(4),
        fixed_affine=affine,
        moving_affine=measured.field.affine,
        shape=image.shape,
    )
    bright = image > image.mean()
    return float((seen[bright] > 0.5).mean())
