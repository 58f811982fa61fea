"""Susceptibility distortion: the field, what it does to an image, and its estimate from a pair.

Sign law: where the field is ``hz``, an image with PhaseEncodingDirection "j" and the readout
``t`` shows the signal of voxel ``x`` at ``x + hz * t`` along its second voxel axis; with "j-" at
``x - hz * t``. The field lives on the undistorted grid, that of the b=0 reference.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import map_coordinates

from dmri_fm.errors import ConfigError, ImageError

__all__ = [
    "PAIR_METHOD",
    "DistortionField",
    "PairField",
    "correct_image",
    "estimate_pair_field",
    "phase_encoding_vector",
]

logger = logging.getLogger(__name__)

#: What the sidecar says of :func:`estimate_pair_field`.
PAIR_METHOD = "Variational estimate from the reverse-phase pair"

AXES = {"i": 0, "j": 1, "k": 2}

#: Readout, s, that stands for an unknown one: the field is then in voxels.
UNIT_READOUT_S = 1.0


def phase_encoding_vector(phase_encoding: str, affine: ArrayLike) -> tuple[int, int]:
    """Return the voxel axis and the sign of a BIDS phase-encoding direction.

    Parameters
    ----------
    phase_encoding
        One of "i", "i-", "j", "j-", "k", "k-"; a trailing "+" is accepted.
    affine
        Shape (4, 4), voxel to RAS+ mm, of the image; checked only. BIDS states the direction
        in voxel axes, so that it does not depend on the orientation.

    Returns
    -------
    tuple of int
        Axis 0, 1 or 2; sign +1 or -1.

    Raises
    ------
    ConfigError
        If the direction is none of these, or the affine is singular.

    Examples
    --------
    >>> phase_encoding_vector("j-", np.eye(4))
    (1, -1)
    >>> phase_encoding_vector("AP", np.eye(4))
    Traceback (most recent call last):
    ...
    dmri_fm.errors.ConfigError: phase-encoding direction 'AP'
      expected: one of i, i-, j, j-, k, k- (BIDS PhaseEncodingDirection)
      what to do: convert the scan again with a recent dcm2niix, or add the key by hand
    """
    axis = AXES.get(phase_encoding[:1])
    if axis is None or phase_encoding[1:] not in ("", "-", "+"):
        raise ConfigError(
            f"phase-encoding direction {phase_encoding!r}",
            expected="one of i, i-, j, j-, k, k- (BIDS PhaseEncodingDirection)",
            advice="convert the scan again with a recent dcm2niix, or add the key by hand",
        )
    if abs(np.linalg.det(np.asarray(affine, dtype=np.float64)[:3, :3])) < 1e-6:
        raise ConfigError("singular affine", expected="an invertible voxel-to-mm matrix")
    return axis, -1 if phase_encoding.endswith("-") else 1


@dataclass(frozen=True, eq=False)
class DistortionField:
    """Off-resonance on the undistorted grid.

    Attributes
    ----------
    hz
        Shape (X, Y, Z), float32. Hz; or, if :attr:`is_relative`, the displacement in voxels
        of an image whose phase encoding is positive.
    affine
        Shape (4, 4), voxel to RAS+ mm, of that grid.
    method
        What made the field, as a sentence for reports.
    is_relative
        The readout time was unknown: `hz` is in voxels, and readouts given to the methods are
        not used.
    """

    hz: NDArray[np.float32]
    affine: NDArray[np.float64]
    method: str
    is_relative: bool = False

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
        self,
        phase_encoding: str,
        readout_time_s: float | None,
        affine: ArrayLike | None = None,
    ) -> NDArray[np.float32]:
        """Return where, in a distorted image, the signal of each undistorted voxel lies.

        Parameters
        ----------
        phase_encoding
            BIDS PhaseEncodingDirection of the distorted image.
        readout_time_s
            Its TotalReadoutTime; not used if the field is relative.
        affine
            Shape (4, 4), voxel to RAS+ mm, of the distorted image; the field's own if left out.

        Returns
        -------
        ndarray
            Shape (X, Y, Z, 3), RAS+ mm, to be added to the undistorted position.

        Raises
        ------
        ConfigError
            If the direction is malformed, or the readout is missing and the field in Hz.

        Examples
        --------
        10 Hz over 0.05 s are half a voxel, 1 mm, towards the back for "j-" in a RAS image:

        >>> field = DistortionField(np.full((2, 2, 2), 10.0), np.diag([2, 2, 2, 1]), "example")
        >>> field.displacement_mm("j-", 0.05)[0, 0, 0].tolist()
        [0.0, -1.0, 0.0]
        """
        step = self._step_mm(phase_encoding, readout_time_s, affine)
        return self.hz[..., None] * step.astype(np.float32) + np.float32(0.0)

    def jacobian(
        self,
        phase_encoding: str,
        readout_time_s: float | None,
        affine: ArrayLike | None = None,
    ) -> NDArray[np.float32]:
        """Return the stretching along phase encoding of the map to a distorted image.

        Parameters and errors are those of :meth:`displacement_mm`.

        Returns
        -------
        ndarray
            Shape (X, Y, Z): multiply the resampled intensities by it. Never below 0.
        """
        step = self._step_mm(phase_encoding, readout_time_s, affine)
        along = step / np.linalg.norm(step) if step.any() else step
        inverse = np.linalg.inv(self.affine)[:3, :3]
        slope = np.zeros(self.hz.shape, dtype=np.float32)
        for axis, part in enumerate(inverse @ along):
            if abs(part) > 1e-9 and self.hz.shape[axis] > 1:
                slope += np.float32(part) * np.gradient(self.hz, axis=axis)
        stretch = 1 + np.float32(np.linalg.norm(step)) * slope
        return np.asarray(np.maximum(stretch, 0), dtype=np.float32)

    def _step_mm(
        self, phase_encoding: str, readout_time_s: float | None, affine: ArrayLike | None
    ) -> NDArray[np.float64]:
        """Return the displacement per unit of the field, RAS+ mm."""
        affine = self.affine if affine is None else np.asarray(affine, dtype=np.float64)
        axis, sign = phase_encoding_vector(phase_encoding, affine)
        if self.is_relative:
            readout_time_s = UNIT_READOUT_S
        elif readout_time_s is None:
            raise ConfigError(
                "no readout time for a field in Hz",
                expected="TotalReadoutTime of the image",
                advice="add TotalReadoutTime to its sidecar",
            )
        step: NDArray[np.float64] = sign * readout_time_s * affine[:3, axis]
        return step


@dataclass(frozen=True, eq=False)
class PairField:
    """Result of :func:`estimate_pair_field`.

    Attributes
    ----------
    field
        The field, on the grid of the "up" image.
    corrected
        Shape (X, Y, Z): both images corrected and averaged, each weighted by its Jacobian,
        so that the one in which the signal is spread out counts more. Units of the up image.
    corrected_up, corrected_down
        The two corrected images, same units.
    similarity_before, similarity_after
        Pearson correlation of the two images inside the head, before and after.
    down2up_xfm
        Shape (4, 4), RAS+ mm: head movement between the images. It takes a point of the
        corrected image to the point of the down image, before that one's distortion.
    """

    field: DistortionField
    corrected: NDArray[np.float32]
    corrected_up: NDArray[np.float32]
    corrected_down: NDArray[np.float32]
    similarity_before: float
    similarity_after: float
    down2up_xfm: NDArray[np.float64]


def estimate_pair_field(
    up: ArrayLike,
    down: ArrayLike,
    affine: ArrayLike,
    *,
    pe_up: str,
    pe_down: str,
    readout_up_s: float | None,
    readout_down_s: float | None,
    down_affine: ArrayLike | None = None,
    has_motion: bool = True,
) -> PairField:
    """Estimate the susceptibility field from two b=0 images of opposite phase encoding.

    Parameters
    ----------
    up, down
        Shape (X, Y, Z), the two images, not negative, any intensity scale.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    pe_up, pe_down
        Their PhaseEncodingDirection: one axis, opposite signs.
    readout_up_s, readout_down_s
        Their TotalReadoutTime, s. If either is missing both are taken to be equal, and the
        field is in voxels (:attr:`DistortionField.is_relative`).
    down_affine
        Shape (4, 4) of the down image, if it differs.
    has_motion
        Whether a rigid movement of the head between the two is estimated.

    Returns
    -------
    PairField
        The field and the corrected images.

    Raises
    ------
    ConfigError
        If the directions are not opposite or a readout is not positive.
    ImageError
        If an image is not 3-D or has no contrast.

    Notes
    -----
    After Ruthotto et al. 2012, doi:10.1088/0031-9155/57/18/5715; see
    :mod:`dmri_fm.preprocess.pair_solver`. A movement of the head along phase encoding cannot
    be told from a constant field: it is taken for field, half for each image.
    """
    from dmri_fm.preprocess.pair_solver import PairImage, solve_pair

    affine = np.asarray(affine, dtype=np.float64)
    down_affine = affine if down_affine is None else np.asarray(down_affine, dtype=np.float64)
    axis, sign_up = phase_encoding_vector(pe_up, affine)
    axis_down, sign_down = phase_encoding_vector(pe_down, down_affine)
    if axis != axis_down or sign_up == sign_down:
        raise ConfigError(
            f"phase-encoding directions {pe_up!r} and {pe_down!r}",
            expected="opposite directions along one axis",
            advice="choose two b=0 images with reversed phase encoding",
        )
    is_relative = readout_up_s is None or readout_down_s is None
    if is_relative:
        logger.warning("no readout time: both images are taken to have the same")
    t_up, t_down = (
        (UNIT_READOUT_S, UNIT_READOUT_S)
        if readout_up_s is None or readout_down_s is None
        else (float(readout_up_s), float(readout_down_s))
    )
    if not (t_up > 0 and t_down > 0):
        raise ConfigError(
            f"readout times {t_up:g} s and {t_down:g} s",
            expected="two numbers above zero",
            advice="correct TotalReadoutTime in the sidecars",
        )
    up_scaled, scale = _scaled(up, "up")
    down_scaled, _ = _scaled(down, "down")
    mean_readout = (t_up + t_down) / 2
    solution = solve_pair(
        PairImage(up_scaled, affine, axis, sign_up * t_up / mean_readout),
        PairImage(down_scaled, down_affine, axis, sign_down * t_down / mean_readout),
    )
    voxel_mm = float(np.linalg.norm(affine[:3, axis]))
    hz = solution.displacement_mm / np.float32(voxel_mm * mean_readout)
    weight = [j * solution.is_seen + 1e-6 for j in solution.jacobians]
    first, second = solution.corrected
    corrected = (weight[0] * first + weight[1] * second) / (weight[0] + weight[1])
    method = PAIR_METHOD + (", readout times unknown and taken to be equal" if is_relative else "")
    down_on_up = correct_image(
        down_scaled,
        down_affine,
        field=DistortionField(np.zeros_like(hz), affine, method, True),
        phase_encoding=pe_down,
        readout_time_s=None,
        order=1,
    )
    return PairField(
        DistortionField(hz, affine, method, is_relative),
        (corrected * scale).astype(np.float32),
        (first * scale).astype(np.float32),
        (second * scale).astype(np.float32),
        _correlation(up_scaled, down_on_up, corrected),
        _correlation(first, second, corrected),
        solution.second_xfm,
    )


def correct_image(
    image: ArrayLike,
    affine: ArrayLike,
    *,
    field: DistortionField,
    phase_encoding: str,
    readout_time_s: float | None,
    xfm: ArrayLike | None = None,
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
    phase_encoding, readout_time_s
        Of the image, as in :meth:`DistortionField.displacement_mm`.
    xfm
        Shape (4, 4), RAS+ mm: takes a point of the field's grid to the head's position in the
        image, before distortion; identity if left out.
    order
        Spline order; 1 is trilinear.

    Returns
    -------
    ndarray
        Shape (X, Y, Z), float32, on the field's grid; 0 where the image was not measured.

    Raises
    ------
    ConfigError
        As in :meth:`DistortionField.displacement_mm`.
    """
    affine = np.asarray(affine, dtype=np.float64)
    matrix = field.affine if xfm is None else np.asarray(xfm, dtype=np.float64) @ field.affine
    ijk = np.indices(field.hz.shape, dtype=np.float64).reshape(3, -1)
    shift = field.displacement_mm(phase_encoding, readout_time_s, affine).reshape(-1, 3)
    points = matrix[:3, :3] @ ijk + matrix[:3, 3:] + shift.T
    inverse = np.linalg.inv(affine)
    voxels = inverse[:3, :3] @ points + inverse[:3, 3:]
    values = map_coordinates(
        np.asarray(image, dtype=np.float32), voxels, order=order, mode="grid-constant"
    ).reshape(field.hz.shape)
    stretch = field.jacobian(phase_encoding, readout_time_s, affine)
    return np.asarray(values * stretch, dtype=np.float32)


def _scaled(image: ArrayLike, name: str) -> tuple[NDArray[np.float32], float]:
    """Divide an image by the median of its bright part."""
    data = np.maximum(np.asarray(image, dtype=np.float32), 0)
    if data.ndim != 3 or not np.isfinite(data).all() or float(np.ptp(data)) == 0.0:
        raise ImageError(
            f"{name} image of shape {data.shape} is constant, not finite or not 3-D",
            expected="a 3-D b=0 image",
        )
    scale = float(np.median(data[data > data.mean()]))
    return np.asarray(data / scale, dtype=np.float32), scale


def _correlation(first: ArrayLike, second: ArrayLike, head: ArrayLike) -> float:
    """Return the Pearson correlation inside the head."""
    inside = np.asarray(head) > 0.3
    a, b = np.asarray(first)[inside], np.asarray(second)[inside]
    return float(np.corrcoef(a, b)[0, 1]) if a.size > 1 else 0.0
