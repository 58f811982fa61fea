"""Measures of quality of a tensor network's maps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dmri_fm.preprocess.quality import tensor_quality
from dmri_fm.series import Dwi
from dmri_fm.tensor_design import DIAGONAL
from dmri_fm.tensor_networks.gate import OOD_PERCENTILE

#: Smoothing of the difference of two maps, mm, that leaves its bias.
BIAS_SIGMA_MM = 8.0


def network_quality(
    network: NDArray[Any],
    fitted: NDArray[Any] | None,
    *,
    dwi: Dwi,
    ood: NDArray[Any] | None,
) -> dict[str, float | None]:
    """Look for the known ways in which networks fail to estimate tensors.

    FA above 1, negative diffusivities, a smooth bias against the fit, and input unlike the
    training data (Karimi and Warfield 2024, doi:10.48550/arXiv.2402.00019).

    Parameters
    ----------
    network, fitted
        Shape (X, Y, Z, 6), mm^2/s: tensors of the network and of the fit.
    dwi
        The series that they were estimated from, with its brain mask.
    ood
        Shape (X, Y, Z): out-of-distribution percentile among training data, or None.

    Returns
    -------
    dict
        `fa_out_of_range_fraction`, `negative_diffusivity_fraction`, `md_bias` and `ood_fraction`,
        none for an empty mask; None for what cannot be known.
    """
    mask = dwi.brain
    if not mask.any():
        return {}
    measures = tensor_quality(network, mask)
    bias = None
    if fitted is not None:
        md, reference = (
            np.where(mask, t[..., DIAGONAL].mean(axis=3), 0.0) for t in (network, fitted)
        )
        voxel_mm = dwi.voxel_size_mm
        weight = gaussian_filter(mask.astype(np.float64), BIAS_SIGMA_MM / voxel_mm)
        smooth = [
            gaussian_filter(m, BIAS_SIGMA_MM / voxel_mm) for m in (md - reference, reference)
        ]
        known = mask & (weight > 0.5) & (smooth[1] > 0)
        if known.any():
            bias = float(np.percentile(np.abs(smooth[0][known] / smooth[1][known]), 99))
    far = None if ood is None else float((ood[mask] >= OOD_PERCENTILE).mean())
    return {
        "fa_out_of_range_fraction": measures["fa_out_of_range_fraction"],
        "negative_diffusivity_fraction": measures["negative_diffusivity_fraction"],
        "md_bias": bias,
        "ood_fraction": far,
    }
