"""Simulated scans whose field, movement and eddy currents are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from dmri_fm.normalise.grid import Grid, affine_map
from dmri_fm.normalise.series import normalise_series
from dmri_fm.tensor import fit_tensor
from dmri_fm_lab.evaluate.distorted import Conditions, DistortedScan, simulate_distorted


def fa_error(scan: DistortedScan, *, is_corrected: bool) -> float:
    """Return the mean absolute error of FA in white matter."""
    dwi = scan.dwi
    corrected = normalise_series(
        dwi,
        Grid(dwi.shape[:3], dwi.affine),
        target2dwiref=affine_map(np.eye(4)),
        motion=scan.motion if is_corrected else None,
        encodings=scan.encodings,
        field_hz=scan.field.hz if is_corrected else None,
    )
    maps = fit_tensor(corrected.with_mask(dwi.brain))
    return float(np.abs(maps.fa - scan.fa)[scan.is_white].mean())


@pytest.mark.slow
@pytest.mark.parametrize("is_left_right", [False, True])
def test_truth_corrects_a_scan(is_left_right: bool) -> None:
    conditions = Conditions(
        voxel_mm=6.0, snr=60.0, n_directions=12, is_left_right=is_left_right, step_mm=0.8,
        step_deg=1.5,
    )  # fmt: skip
    scan = simulate_distorted(conditions, seed=5)
    # Phase encoding runs along the second voxel axis: to the back, or to a side.
    assert aff2axcodes(scan.dwi.affine)[1] == ("L" if is_left_right else "A")
    assert fa_error(scan, is_corrected=True) < 0.7 * fa_error(scan, is_corrected=False)


@pytest.mark.slow
def test_slices_are_lost_in_some_weighted_volumes_alone() -> None:
    conditions = Conditions(voxel_mm=6.0, snr=40.0, n_directions=8, bvals=(1000.0, 2500.0))
    whole = simulate_distorted(conditions, seed=6)
    broken = simulate_distorted(replace(conditions, lost_share=0.5), seed=6)
    gtab = whole.dwi.gtab
    assert [len(shell.index) for shell in gtab.shells] == [8, 8]
    np.testing.assert_allclose([shell.bval for shell in gtab.shells], [1000, 2500], rtol=0.05)
    differs = (whole.dwi.data != broken.dwi.data).any(axis=(0, 1))  # slice by volume
    assert not differs[:, gtab.is_b0].any()
    assert set(differs.sum(axis=0)) == {0, 3}
    assert 4 <= differs.any(axis=0).sum() <= 12
    inside = whole.dwi.brain
    for slice_, volume in np.argwhere(differs):
        brain = inside[:, :, slice_]
        if gtab.bvals[volume] < 1500 and brain.sum() > 50:
            before, after = (
                scan.dwi.data[:, :, slice_, volume][brain].mean() for scan in (whole, broken)
            )
            assert 0.15 < after / before < 0.8
