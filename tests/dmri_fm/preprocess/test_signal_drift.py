"""The drift of the signal, from b=0 volumes."""

from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.signal_drift import measure_signal_drift
from dmri_fm.series import Dwi

SHAPE = (8, 8, 6)


def make_raw(
    b0: list[int], n: int, drift: float, *, noise: float = 0.0, level: float = 500
) -> Dwi:
    """Return a run of `n` volumes whose signal changes linearly by `drift` percent."""
    rng = np.random.default_rng(0)
    bvecs = rng.normal(size=(n, 3))
    bvecs /= np.linalg.norm(bvecs, axis=1, keepdims=True)
    bvals = np.full(n, 1000.0)
    bvals[b0], bvecs[b0] = 0, 0
    signal = np.where(bvals == 0, level, 0.4 * level)
    scale = 1 + drift / 100 * np.arange(n) / (n - 1)
    data = np.ones((*SHAPE, 1)) * (signal * scale)
    data = data + noise * rng.normal(size=data.shape)
    mask = np.zeros(SHAPE, bool)
    mask[2:6, 2:6, 1:5] = True
    data[~mask] = 5 * rng.random((int((~mask).sum()), n))
    gtab = GradientTable(bvals, bvecs)
    return Dwi.from_arrays(data, np.diag([-2.0, 2, 2, 1]), gtab, mask=mask)


@pytest.mark.parametrize("drift", [0.0, -5.0, 3.0])
@pytest.mark.parametrize("b0", [[0, 10, 20, 30, 40], [0, 1, 39]])
def test_drift_is_that_of_the_signal(drift: float, b0: list[int]) -> None:
    assert measure_signal_drift(make_raw(b0, 41, drift)) == pytest.approx(drift, abs=1e-3)
    noisy = make_raw(b0, 41, drift, noise=10)
    # 64 voxels of SNR 50 in each of three volumes: a mean is known to .25 %.
    assert measure_signal_drift(noisy) == pytest.approx(drift, abs=1)


@pytest.mark.parametrize("b0", [[], [0], [0, 40], [0, 1, 2], [0, 5, 10, 15]])
def test_b0_volumes_that_do_not_tell(b0: list[int]) -> None:
    assert measure_signal_drift(make_raw(b0, 41, -5.0)) is None


def test_runs_of_other_scale_are_measured_one_by_one() -> None:
    """A jump between two runs is no drift."""
    one, two = make_raw([0, 10, 20], 21, -2.0), make_raw([0, 10, 20], 21, 4.0, level=900)
    both = Dwi.from_arrays(
        np.concatenate([one.data, two.data], axis=-1),
        one.affine,
        GradientTable.concatenate([one.gtab, two.gtab]),
        mask=one.brain,
    )
    assert measure_signal_drift(both, [21, 21]) == pytest.approx(4.0, abs=1e-3)
    assert measure_signal_drift(both, [21, 20]) is None
    assert abs(measure_signal_drift(both) or 0) > 20
