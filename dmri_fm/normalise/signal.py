"""Signal scales: division by the mean b=0 image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.gradients import GradientTable

#: S/S0 is clipped to this range. Attenuation cannot pass 1; noise, motion and CSF pulsation
#: carry single voxels above it, and an upper limit of 1 would bias them.
CLIP = (0.0, 1.5)

#: b=0 voxels below this share of the brain's median b=0 are set to zero: the ratio means nothing.
SMALLEST_B0 = 0.02


@dataclass(frozen=True, eq=False)
class NormalisedSignal:
    """A series divided by its b=0.

    Attributes
    ----------
    signal
        Shape (X, Y, Z, N), float32, S / S0, clipped; zero outside the mask.
    s0
        Shape (X, Y, Z), mean b=0, scanner units.
    scale
        Median of `s0` in the mask, scanner units.
    clipped_fraction
        Share of values in the mask that clipping changed, 0 to 1.
    """

    signal: NDArray[np.float32]
    s0: NDArray[np.float32]
    scale: float
    clipped_fraction: float


def normalise_b0(
    data: ArrayLike,
    gtab: GradientTable,
    *,
    mask: ArrayLike | None = None,
) -> NormalisedSignal:
    """Divide every volume by the mean b=0 and clip to :data:`CLIP`.

    Parameters
    ----------
    data
        Shape (X, Y, Z, N), scanner units.
    gtab
        Gradient table of the volumes.
    mask
        Shape (X, Y, Z), bool; every voxel if not given.

    Raises
    ------
    GradientError
        If there is no b=0 volume.

    Examples
    --------
    >>> gtab = GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]])
    >>> normalise_b0(np.array([[[[100.0, 40.0]]]]), gtab).signal.ravel().tolist()
    [1.0, 0.4000000059604645]
    """
    series = np.asarray(data, dtype=np.float32)
    gtab.require_b0()
    region = np.ones(series.shape[:3], dtype=bool) if mask is None else np.asarray(mask, bool)
    s0 = series[..., gtab.is_b0].mean(axis=3, dtype=np.float32)
    scale = float(np.median(s0[region])) if region.any() else 0.0
    usable = region & (s0 > max(SMALLEST_B0 * scale, 0.0)) & (s0 > 0)
    ratio = np.zeros_like(series)
    ratio[usable] = series[usable] / s0[usable, None]
    clipped = np.clip(ratio, *CLIP)
    changed = float(np.mean(clipped[usable] != ratio[usable])) if usable.any() else 0.0
    return NormalisedSignal(clipped, s0, scale, changed)
