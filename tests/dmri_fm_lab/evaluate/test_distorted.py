"""Simulated scans whose field, movement and eddy currents are known."""

from __future__ import annotations

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
