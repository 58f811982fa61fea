"""One training scan at a time, as numpy arrays with the volumes last."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate.batch import draw_batch
from dmri_fm_lab.simulate.protocol import draw_protocol


@dataclass(frozen=True, eq=False)
class Sample:
    """A simulated scan and its truth: the fields of :class:`~.batch.Batch`.

    Images have the shape (X, Y, Z, ...): volumes, tensor elements and tissues come last.
    """

    signal: NDArray[np.float32]
    truth_tensor: NDArray[np.float32] | None
    truth_bval: float
    fractions: NDArray[np.float32]
    mask: NDArray[np.bool_]
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

    Examples
    --------
    >>> sample = draw_sample(np.random.default_rng(0), shape=(8, 8, 8))
    >>> sample.signal.shape, sample.truth_tensor.shape
    ((8, 8, 8, 7), (8, 8, 8, 6))
    """
    gtab = gtab or draw_protocol(rng)
    batch = draw_batch(
        torch.Generator().manual_seed(int(rng.integers(2**62))),
        [gtab],
        shape=shape,
        affine=None if affine is None else torch.tensor(np.asarray(affine), dtype=torch.float32),
        snr=snr,
        atlas_weight=atlas_weight,
        with_truth=with_truth,
    )

    def channels_last(images: Tensor) -> NDArray[np.float32]:
        array: NDArray[np.float32] = images[0].movedim(0, -1).contiguous().numpy()
        return array

    return Sample(
        channels_last(batch.signal),
        None if batch.truth_tensor is None else channels_last(batch.truth_tensor),
        float(batch.truth_bval[0]),
        channels_last(batch.fractions),
        batch.mask[0].numpy(),
        batch.affine[0].double().numpy(),
    )
