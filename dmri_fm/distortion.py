"""Distortion of EPI: phase encoding and readout, the distortion field, displacement it causes.

Sign law: where the distortion field is ``hz``, an image of phase encoding "j" and readout time
``t`` shows the signal of voxel ``x`` at ``x + hz * t`` along its second voxel axis; one of "j-" at
``x - hz * t``. The field lives on the undistorted grid, that of the b=0 reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from dmri_fm.errors import ConfigError, ImageError

AXES = {"i": 0, "j": 1, "k": 2}

#: Readout time of images whose sidecar states none, s: correction rests on readouts that are
#: equal, not on the number.
ASSUMED_READOUT_S = 0.05


class PhaseEncoding(NamedTuple):
    """Phase encoding of an EPI volume.

    Attributes
    ----------
    direction
        BIDS PhaseEncodingDirection: `i`, `i-`, `j`, `j-`, `k`, `k-`, a trailing "+" is accepted;
        None where it is not known. BIDS states it in voxel axes, so that it does not depend on
        the orientation of the image.
    readout_s
        TotalReadoutTime, s.
    """

    direction: str | None
    readout_s: float

    def axis_and_sign(self) -> tuple[int, int]:
        """Return the voxel axis, 0 to 2, and the sign, +1 or -1.

        Raises
        ------
        ConfigError
            If the direction is none that BIDS has.

        Examples
        --------
        >>> PhaseEncoding("j-", 0.05).axis_and_sign()
        (1, -1)
        >>> PhaseEncoding("AP", 0.05).axis_and_sign()
        Traceback (most recent call last):
        ...
        dmri_fm.errors.ConfigError: phase-encoding direction 'AP'
          expected: one of i, i-, j, j-, k, k- (BIDS PhaseEncodingDirection)
          what to do: convert the scan again with a recent dcm2niix, or add the key by hand
        """
        direction = self.direction or ""
        axis = AXES.get(direction[:1])
        if axis is None or direction[1:] not in ("", "-", "+"):
            raise ConfigError(
                f"phase-encoding direction {self.direction!r}",
                expected="one of i, i-, j, j-, k, k- (BIDS PhaseEncodingDirection)",
                advice="convert the scan again with a recent dcm2niix, or add the key by hand",
            )
        return axis, -1 if direction.endswith("-") else 1

    def mm_per_hz(self, affine: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the displacement per Hz of off-resonance, shape (3,), RAS+ mm.

        Parameters
        ----------
        affine
            Shape (4, 4), voxel to RAS+ mm, of the image.

        Raises
        ------
        ConfigError
            If the direction is none that BIDS has.
        """
        axis, sign = self.axis_and_sign()
        return np.asarray(sign * self.readout_s * affine[:3, axis])


class FieldShift(NamedTuple):
    """Displacement of a volume per Hz of the distortion field.

    Attributes
    ----------
    axis
        Voxel axis of phase encoding.
    voxels_per_hz
        The readout time, s, with the sign of the phase encoding; 0 where it is not known.
    """

    axis: int
    voxels_per_hz: float


def field_shifts(encodings: Sequence[PhaseEncoding]) -> list[FieldShift]:
    """Return how far 1 Hz of the distortion field moves each volume.

    Examples
    --------
    >>> [tuple(s) for s in field_shifts([PhaseEncoding("i-", 0.1), PhaseEncoding(None, 0.1)])]
    [(0, -0.1), (1, 0.0)]
    """
    shifts = []
    for encoding in encodings:
        if encoding.direction is None:
            shifts.append(FieldShift(1, 0.0))
        else:
            axis, sign = encoding.axis_and_sign()
            shifts.append(FieldShift(axis, sign * encoding.readout_s))
    return shifts


def fill_readouts(
    runs: Sequence[float | None], outside: Sequence[float | None], *, opposed: float | None
) -> tuple[float, ...]:
    """Fill in readout times that no sidecar states, s, taking them to be equal.

    Parameters
    ----------
    runs
        Readout time of every run of a series; None or 0 where it is not stated.
    outside
        Readout time of images outside the series that correct it, likewise.
    opposed
        Readout time of the run that these oppose; it stands in for theirs.

    Returns
    -------
    tuple
        Readout times of the runs, then of the images outside. The first stated time stands in for
        all others, :data:`ASSUMED_READOUT_S` if there is none.

    Examples
    --------
    >>> fill_readouts([0.03, None], [None], opposed=0.06), fill_readouts([0], [], opposed=None)
    ((0.03, 0.03, 0.06), (0.05,))
    """
    usual = next((r for r in (*runs, *outside) if r), ASSUMED_READOUT_S)
    return (*(r or usual for r in runs), *(r or opposed or usual for r in outside))


@dataclass(frozen=True, eq=False)
class DistortionField:
    """Distortion field (off-resonance) on the undistorted grid.

    Attributes
    ----------
    hz
        Shape (X, Y, Z), float32, Hz.
    affine
        Shape (4, 4), voxel to RAS+ mm, of that grid.
    """

    hz: NDArray[np.float32]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        hz = np.asarray(self.hz, dtype=np.float32)
        if hz.ndim != 3 or not np.isfinite(hz).all():
            raise ImageError(
                f"field of shape {hz.shape}, {int((~np.isfinite(hz)).sum())} voxels not finite",
                expected="a finite 3-D field",
            )
        object.__setattr__(self, "hz", hz)
        object.__setattr__(self, "affine", np.asarray(self.affine, dtype=np.float64))

    def displacement_mm(
        self, encoding: PhaseEncoding, affine: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Return where, in a distorted image, the signal of each undistorted voxel lies.

        Parameters
        ----------
        encoding
            Phase encoding of the distorted image.
        affine
            Shape (4, 4), voxel to RAS+ mm, of the distorted image; the field's own by default.

        Returns
        -------
        ndarray
            Shape (X, Y, Z, 3), RAS+ mm, to be added to the undistorted position.

        Raises
        ------
        ConfigError
            If the direction is malformed.

        Examples
        --------
        10 Hz over 0.05 s are half a voxel, 1 mm, towards the back for "j-" in a RAS image:

        >>> field = DistortionField(np.full((2, 2, 2), 10.0), np.diag([2, 2, 2, 1]))
        >>> field.displacement_mm(PhaseEncoding("j-", 0.05))[0, 0, 0].tolist()
        [0.0, -1.0, 0.0]
        """
        step = self._step_mm(encoding, affine)
        return self.hz[..., None] * step.astype(np.float32) + np.float32(0.0)

    def jacobian(
        self, encoding: PhaseEncoding, affine: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Return the stretching along phase encoding of the map to a distorted image.

        Parameters and errors are those of :meth:`displacement_mm`.

        Returns
        -------
        ndarray
            Shape (X, Y, Z): multiply the resampled intensities by it. Never below 0.
        """
        step = self._step_mm(encoding, affine)
        along = step / np.linalg.norm(step) if step.any() else step
        inverse = np.linalg.inv(self.affine)[:3, :3]
        slope = np.zeros(self.hz.shape, dtype=np.float32)
        for axis, part in enumerate(inverse @ along):
            if abs(part) > 1e-9 and self.hz.shape[axis] > 1:
                slope += np.float32(part) * np.gradient(self.hz, axis=axis)
        stretch = 1 + np.float32(np.linalg.norm(step)) * slope
        return np.asarray(np.maximum(stretch, 0), dtype=np.float32)

    def _step_mm(self, encoding: PhaseEncoding, affine: ArrayLike | None) -> NDArray[np.float64]:
        """Return the displacement per Hz, RAS+ mm."""
        own = self.affine if affine is None else np.asarray(affine, dtype=np.float64)
        return encoding.mm_per_hz(own)


def correct_image(
    image: ArrayLike,
    affine: ArrayLike,
    *,
    field: DistortionField,
    encoding: PhaseEncoding,
    order: int = 3,
) -> NDArray[np.float32]:
    """Correct an image with a known field, its intensities by the Jacobian.

    Parameters
    ----------
    image
        Shape (U, V, W), distorted.
    affine
        Shape (4, 4), voxel to RAS+ mm, of the image.
    field
        The field, on the grid of the result.
    encoding
        Phase encoding of the image.
    order
        Spline order; 1 is trilinear.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), float32, on the field's grid; 0 where the image was not measured.

    Raises
    ------
    ConfigError
        If the direction is malformed.
    """
    values = sample_distorted(image, affine, field=field, encoding=encoding, order=order)
    return np.asarray(values * field.jacobian(encoding, affine), dtype=np.float32)


def sample_distorted(
    image: ArrayLike,
    affine: ArrayLike,
    *,
    field: DistortionField,
    encoding: PhaseEncoding,
    order: int,
) -> NDArray[np.float32]:
    """Read a distorted image at the places of undistorted voxels, intensities as they are.

    Parameters, errors and the result's shape are those of :func:`correct_image`.
    """
    affine = np.asarray(affine, dtype=np.float64)
    ijk = np.indices(field.hz.shape, dtype=np.float64).reshape(3, -1)
    shift = field.displacement_mm(encoding, affine).reshape(-1, 3)
    points = field.affine[:3, :3] @ ijk + field.affine[:3, 3:] + shift.T
    inverse = np.linalg.inv(affine)
    voxels = inverse[:3, :3] @ points + inverse[:3, 3:]
    values = map_coordinates(
        np.asarray(image, dtype=np.float32), voxels, order=order, mode="grid-constant"
    )
    return np.asarray(values.reshape(field.hz.shape), dtype=np.float32)
