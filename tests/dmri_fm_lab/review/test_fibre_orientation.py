"""Voxels with known fibres, peaks, and spherical deconvolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dmri_fm.errors import ConfigError
from dmri_fm_lab.evaluate.direction_models import harmonics
from dmri_fm_lab.evaluate.tensor_errors import axis_angle_deg
from dmri_fm_lab.review.fibre_orientation import (
    LEAST_CROSSING_DEG,
    ORDER,
    TURN_DEG,
    FibreVoxels,
    csd_peaks,
    direction_table,
    draw_fibre_voxels,
    find_peaks,
    half_sphere,
    network_peaks,
    train_fod_network,
)
from dmri_fm_lab.review.outcomes import Setting


@pytest.fixture(scope="module")
def voxels() -> FibreVoxels:
    return draw_fibre_voxels(np.random.default_rng(0), 150)


def test_voxels_hold_one_to_three_fibres_that_can_be_told_apart(voxels: FibreVoxels) -> None:
    np.testing.assert_allclose(voxels.shares.sum(axis=1), 1, atol=1e-6)
    n = (voxels.shares > 0).sum(axis=1)
    assert set(n.tolist()) == {1, 2, 3}
    assert (np.diff(voxels.shares[n > 1], axis=1) <= 0).all(), "the largest first"
    assert (voxels.shares[n > 1, 0] - voxels.shares[n > 1, 1]).min() > 0.05
    angles = [axis_angle_deg(voxels.axes[:, i], voxels.axes[:, j]) for i, j in ((0, 1), (1, 2))]
    assert np.min(angles) >= LEAST_CROSSING_DEG - 1e-3
    signal = voxels.signal(direction_table(6))
    np.testing.assert_allclose(signal[:, 0], 1, atol=1e-6)
    assert signal[:, 1:].max() < 0.9


def test_peaks_of_the_true_fod_are_the_fibres(voxels: FibreVoxels) -> None:
    fods = voxels.fod() @ harmonics(half_sphere().vertices, ORDER)[0].T
    peaks = find_peaks(fods)
    angles = axis_angle_deg(peaks.main, voxels.axes[:, 0])
    # Axes of the half sphere are about 3 degrees apart; kernels of crossing fibres overlap.
    assert angles.mean() < 3
    n = (voxels.shares > 0).sum(axis=1)
    assert (peaks.n_above(0.2) == n).mean() > 0.9
    nothing = find_peaks(np.zeros((1, len(half_sphere().vertices))))
    assert nothing.n_above(0.1).tolist() == [0]
    assert not nothing.main.any()


def test_csd_finds_fibres_without_noise(voxels: FibreVoxels) -> None:
    gtab = direction_table(30)
    signals = voxels.signal(gtab).astype(np.float64)
    n = (voxels.shares > 0).sum(axis=1)
    peaks = csd_peaks(signals, gtab, n == 1, 6, signals)
    angles = axis_angle_deg(peaks.main, voxels.axes[:, 0])
    assert angles[n == 1].mean() < 4
    assert angles[n == 2].mean() < 12
    # Axes belong to the table: another one turns them.
    turned = csd_peaks(signals, direction_table(30, 20.0), n == 1, 6, signals)
    assert axis_angle_deg(turned.main, voxels.axes[:, 0])[n == 1].mean() > 8


def test_a_network_learns_where_fibres_lie(tmp_path: Path) -> None:
    gtab = direction_table(30)
    setting = Setting(n_voxels=100, n_steps=60)
    network = train_fod_network(gtab, 0, setting, tmp_path / "run")
    tests = draw_fibre_voxels(np.random.default_rng(1), 300)
    single = (tests.shares > 0).sum(axis=1) == 1
    peaks = network_peaks(network, tests.signal(gtab).astype(np.float64))
    angles = axis_angle_deg(peaks.main[single], tests.axes[single, 0])
    # An axis drawn by chance is 57 degrees away in the mean.
    assert angles.mean() < 25
    again = train_fod_network(gtab, 0, setting, tmp_path / "run")
    fresh = torch.rand(1, 30, 2, 1, 1)
    assert torch.equal(network(fresh), again(fresh)), "a finished run is read back"
    with pytest.raises(ConfigError):
        train_fod_network(direction_table(30, TURN_DEG), 0, setting, tmp_path / "run")
