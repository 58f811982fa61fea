"""Test-retest scans: tissues of one brain, each scanned by several protocols.

What tells them apart is microstructure alone: shape, fibres and b=0 contrast are shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate.brains import Brains
from dmri_fm_lab.simulate.fields import log_uniform, normal
from dmri_fm_lab.simulate.mixture import draw_tissues, signals_at

#: SNR of white matter at b=0.
LEAST_SNR, LARGEST_SNR = 10.0, 80.0


def draw_test_retest(
    generator: torch.Generator,
    brains: Brains,
    gtabs: Sequence[GradientTable],
    voxels: Tensor,
    *,
    n: int,
) -> Tensor:
    """Draw tissues for a brain and scan some of its voxels.

    Parameters
    ----------
    generator
        Source of randomness, on the device of the results.
    brains
        A batch of one.
    gtabs
        Q protocols of equal length N.
    voxels
        Shape (V,): flat indices; those outside the brain hold noise.
    n
        Number of tissues, K.

    Returns
    -------
    Tensor
        Shape (K, Q, N, V), scanner units, with Rician noise of its own in each scan.
    """
    device = generator.device
    tissues = draw_tissues(generator, n)
    tissues = replace(tissues, intensity=tissues.intensity[:1].expand(n, -1))
    rows = []
    for k in range(n):
        views = []
        for gtab in gtabs:
            bvals = torch.tensor(gtab.bvals / 1000.0, dtype=torch.float32, device=device)
            bvecs = torch.tensor(gtab.bvecs_ras, dtype=torch.float32, device=device)
            signal = signals_at(brains, tissues.one(k), voxels, bvals, bvecs)
            snr = log_uniform(generator, LEAST_SNR, LARGEST_SNR, 1)
            sigma = tissues.intensity[0, 0] / snr
            noise = sigma * normal(generator, 2, *signal.shape)
            views.append(torch.hypot(signal + noise[0], noise[1]))
        rows.append(torch.stack(views))
    return torch.stack(rows)
