"""One training scan at a time, as numpy arrays with the volumes last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate.batch import draw_batch
from dmri_fm_lab.simulate.protocol import draw_protocol

__all__ = ["Sample", "draw_sample"]


@dataclass(frozen=True, eq=False)
class Sample:
    """A simulated scan and its truth.

    Attributes
    ----------
    signal
        Shape (X, Y, Z, N), float32, scanner units: b=0 and weighted volumes, as measured.
    gtab
        Its gradient table, RAS+.
    truth_tensor
        Shape (X, Y, Z, 6), float32, mm^2/s, RAS+, order xx, xy, xz, yy, yz, zz; zero outside
        the mask. None if it was not asked for.
    truth_bval
        b-value the true tensor belongs to, s/mm^2.
    fractions
        Shape (X, Y, Z, 4), float32: white matter, grey matter, CSF, lesion.
    mask
        Shape (X, Y, Z), bool: the brain.
    sigma
        Standard deviation of the noise in one channel, scanner units.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    """

    signal: NDArray[np.float32]
    gtab: GradientTable
    truth_tensor: NDArray[np.float32] | None
    truth_bval: float
    fractions: NDArray[np.float32]
    mask: NDArray[np.bool_]
    sigma: float
    affine: NDArray[np.float64]


def draw_sample(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int, int] = (32, 32, 32),
    affine: ArrayLike | None = None,
    gtab: GradientTable | None = None,
    snr: float | None = None,
    atlas_weight: float | None = None,
    with_truth: bool = True,
) -> Sample:
    """Draw a scan of :func:`~dmri_fm_lab.simulate.draw_batch`, which explains the arguments.

    Parameters
    ----------
    rng
        Source of randomness: the same state gives the same sample.
    gtab
        The protocol; one b=0 and a Skare set at a random b-value if None.

    Raises
    ------
    ConfigError
        If an argument is out of range.

    Examples
    --------
    >>> sample = draw_sample(np.random.default_rng(0), shape=(8, 8, 8))
    >>> sample.signal.shape, sample.truth_tensor.shape
    ((8, 8, 8, 7), (8, 8, 8, 6))
    """
    gtab = gtab or draw_protocol(rng)
    grid = None if affine is None else torch.tensor(np.asarray(affine), dtype=torch.float32)
    batch = draw_batch(
        torch.Generator().manual_seed(int(rng.integers(2**62))),
        [gtab],
        shape=shape,
        affine=grid,
        snr=snr,
        atlas_weight=atlas_weight,
        with_truth=with_truth,
    )
    truth = batch.truth_tensor
    return Sample(
        signal=batch.signal[0].movedim(0, -1).contiguous().numpy(),
        gtab=gtab,
        truth_tensor=None if truth is None else truth[0].movedim(0, -1).contiguous().numpy(),
        truth_bval=float(batch.truth_bval[0]),
        fractions=batch.fractions[0].movedim(0, -1).contiguous().numpy(),
        mask=batch.mask[0].numpy(),
        sigma=float(batch.sigma[0]),
        affine=batch.affine[0].double().numpy(),
    )
