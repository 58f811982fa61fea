"""Estimate of the distortion field from a pair of b=0 images of opposite phase encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.distortion import DistortionField, PhaseEncoding, correct_image
from dmri_fm.errors import ConfigError, ImageError
from dmri_fm.preprocess.dwiref import b0_reference
from dmri_fm.series import Dwi

#: Name of :func:`estimate_pair_field` in the sidecar.
PAIR_METHOD = "Variational estimate from the reverse-phase pair"


@dataclass(frozen=True, eq=False)
class B0Image:
    """A distorted b=0 image.

    Attributes
    ----------
    data
        Shape (X, Y, Z), not negative, any intensity scale.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    encoding
        Phase encoding of the image.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    encoding: PhaseEncoding


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
    similarity_before, similarity_after
        Pearson correlation of the two images inside the head, before and after.
    """

    field: DistortionField
    corrected: NDArray[np.float32]
    similarity_before: float
    similarity_after: float


def mean_b0_image(dwi: Dwi, encodings: Sequence[PhaseEncoding], direction: str) -> B0Image:
    """Return the mean b=0 of one phase encoding of a merged series.

    Another readout time is another distortion: only volumes with that of the first one are used.

    The encodings are those of every volume; one b=0 volume at least has the given direction.
    """
    index = [n for n in np.flatnonzero(dwi.gtab.is_b0) if encodings[n].direction == direction]
    encoding = encodings[index[0]]
    part = dwi.select([n for n in index if encodings[n] == encoding])
    return B0Image(b0_reference(part), part.affine, encoding)


def estimate_pair_field(up: B0Image, down: B0Image) -> PairField:
    """Estimate the distortion field from two b=0 images of opposite phase encoding.

    Parameters
    ----------
    up, down
        The images, phase-encoded along one axis with opposite signs.

    Raises
    ------
    ConfigError
        If the directions are not opposite or a readout time is not positive.
    ImageError
        If an image is not 3-D or has no contrast.

    Notes
    -----
    After Ruthotto et al. 2012, doi:10.1088/0031-9155/57/18/5715; see
    :mod:`dmri_fm.preprocess.pair_solver`. A movement of the head along phase encoding cannot
    be told from a constant field: it is taken for field, half for each image.
    """
    # torch, which the solver works in, takes seconds to import.
    from dmri_fm.preprocess.pair_level import PairImage
    from dmri_fm.preprocess.pair_solver import solve_pair

    affine = np.asarray(up.affine, dtype=np.float64)
    down_affine = np.asarray(down.affine, dtype=np.float64)
    axis, sign_up = up.encoding.axis_and_sign()
    axis_down, sign_down = down.encoding.axis_and_sign()
    if axis != axis_down or sign_up == sign_down:
        raise ConfigError(
            f"phase-encoding directions {up.encoding.direction!r} and {down.encoding.direction!r}",
            expected="opposite directions along one axis",
            advice="choose two b=0 images with reversed phase encoding",
        )
    t_up, t_down = float(up.encoding.readout_s), float(down.encoding.readout_s)
    if not (t_up > 0 and t_down > 0):
        raise ConfigError(
            f"readout times {t_up:g} s and {t_down:g} s",
            expected="two numbers above zero",
            advice="correct TotalReadoutTime in the sidecars",
        )
    up_scaled, scale = _scaled(up.data, "up")
    down_scaled, _ = _scaled(down.data, "down")
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
    no_field = DistortionField(np.zeros_like(hz), affine)
    down_on_up = correct_image(
        down_scaled, down_affine, field=no_field, encoding=down.encoding, order=1
    )
    return PairField(
        field=DistortionField(hz, affine),
        corrected=(corrected * scale).astype(np.float32),
        similarity_before=_correlation(up_scaled, down_on_up, corrected),
        similarity_after=_correlation(first, second, corrected),
    )


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
