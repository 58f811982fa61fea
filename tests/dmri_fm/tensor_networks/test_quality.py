"""Known failures of tensor networks, and the measures that show them."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi
from dmri_fm.tensor_networks.quality import network_quality


def test_failures_of_a_network_are_found() -> None:
    shape = (24, 24, 24)
    mask = np.zeros(shape, dtype=bool)
    mask[2:-2, 2:-2, 2:-2] = True
    fitted = np.zeros((*shape, 6))
    fitted[...] = [1.2e-3, 0, 0, 0.6e-3, 0, 0.6e-3]
    b0 = GradientTable([0], [[0, 0, 0]])
    dwi = Dwi.from_arrays(np.ones((*shape, 1)), np.diag([2.0, 2, 2, 1]), b0, mask=mask)
    ood = np.where(np.arange(24)[:, None, None] < 12, 99.5, 40.0) * np.ones(shape)

    def measure(network):
        return network_quality(network, fitted, dwi=dwi, ood=ood)

    same = measure(fitted)
    assert same["md_bias"] == 0
    assert same["ood_fraction"] == pytest.approx(0.5)
    noisy = fitted + 3e-4 * np.random.default_rng(0).standard_normal(fitted.shape)
    assert measure(noisy)["md_bias"] < 0.05, "noise is no bias"
    shaded = fitted * np.linspace(0.8, 1.2, 24)[:, None, None, None]
    assert 0.1 < measure(shaded)["md_bias"] < 0.2
    inside = np.argwhere(mask)
    broken = fitted.copy()
    broken[tuple(inside[0])] = [1e-3, 0, 0, 1e-3, 0, -1e-3]
    broken[tuple(inside[1])] = [2e-3, 0, 0, 0.5e-3, 0, -1e-5]
    found = measure(broken)
    assert found["fa_out_of_range_fraction"] == pytest.approx(1 / mask.sum())
    assert found["negative_diffusivity_fraction"] == pytest.approx(2 / mask.sum())
    alone = network_quality(fitted, None, dwi=dwi, ood=None)
    assert alone["md_bias"] is None
    assert alone["ood_fraction"] is None
