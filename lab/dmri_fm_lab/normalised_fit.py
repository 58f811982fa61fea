"""Tensors of scans that were divided by their b=0 image."""

from __future__ import annotations

import numpy as np

from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_maps import TensorMaps

#: Smallest S/S0 of a fit, to which lower ones are raised: reconstructions may be negative.
#: The floor of series, :func:`dmri_fm.tensor.smallest_signal`, would be .002 here, five times
#: lower: a reconstruction's noise would decide the fit. The published tables were made with this.
LEAST_SIGNAL = 0.01


def fit_normalised(visible: Dwi) -> TensorMaps:
    """Fit tensors to S/S0: the shells below 1550 s/mm^2 if they suffice, or else all.

    Raises
    ------
    GradientError
        If the directions do not determine a tensor.
    """
    return fit_tensor(with_b0(visible), shell="auto", min_signal=LEAST_SIGNAL)


def with_b0(visible: Dwi) -> Dwi:
    """Return the series behind a b=0 volume of ones, which is that of S/S0."""
    gtab = visible.gtab
    table = GradientTable(
        np.concatenate([[0.0], gtab.bvals]),
        np.concatenate([np.zeros((1, 3)), gtab.bvecs_ras]),
        gtab.b0_threshold,
    )
    data = np.concatenate([visible.brain[..., None].astype(np.float32), visible.data], axis=3)
    return Dwi.from_arrays(data, visible.affine, table, mask=visible.brain)
