"""Random changes of training scans: mirrored, moved by a few voxels, made noisier."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.signal import CLIP

#: Share of draws to which noise is added, and the range of the SNR at b=0 that it leaves.
NOISY_SHARE, SNR_RANGE = 0.25, (15.0, 60.0)

#: Largest random shift of a scan from left to right and from back to front, voxels.
MOST_SHIFT_VOXELS = 3


class Variation(NamedTuple):
    """Random changes of a scan.

    Attributes
    ----------
    is_mirrored
        Whether left and right are exchanged.
    shift
        Shape (2,), to the right and to the front, voxels, after that.
    sigma
        Deviation of the noise that is added, S/S0; zero: none.
    """

    is_mirrored: bool
    shift: NDArray[np.int_]
    sigma: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Variation:
        """Draw changes; see :data:`MOST_SHIFT_VOXELS` and :data:`NOISY_SHARE`."""
        is_mirrored = bool(rng.uniform() < 0.5)
        shift = rng.integers(-MOST_SHIFT_VOXELS, MOST_SHIFT_VOXELS + 1, 2)
        is_noisy = rng.uniform() < NOISY_SHARE
        sigma = 1.0 / float(np.exp(rng.uniform(*np.log(SNR_RANGE)))) if is_noisy else 0.0
        return cls(is_mirrored, shift, sigma)

    def add_noise(
        self, signal: NDArray[np.float32], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Add noise to a magnitude in S/S0, and clip it again."""
        if not self.sigma:
            return signal
        noise = np.float32(self.sigma) * rng.standard_normal((2, *signal.shape), dtype=np.float32)
        return np.asarray(np.hypot(signal + noise[0], noise[1]).clip(*CLIP))


def mirrored(gtab: GradientTable) -> GradientTable:
    """Return the table of the mirror image, left for right."""
    across = np.array([-1.0, 1.0, 1.0])
    return GradientTable(gtab.bvals, gtab.bvecs_ras * across, gtab.b0_threshold)
