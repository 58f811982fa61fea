"""MD of the ventricles as a check of b-values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes

from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.preprocess.free_water import (
    FREE_WATER_MD,
    FreeWater,
    describe_free_water,
    find_ventricles,
    measure_free_water,
)
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi

AFFINE = np.diag([-3.0, 3.0, 3.0, 1.0])
GTAB = GradientTable([0] + [1000] * 6, np.vstack([np.zeros((1, 3)), SKARE_DIRECTIONS]))
_RADIUS = np.sqrt(((np.indices((36, 36, 36)) - 17.5) ** 2).sum(axis=0))
BRAIN, WATER = _RADIUS < 17, _RADIUS < 4


def head(gtab: GradientTable, *, snr: float = 40.0) -> np.ndarray:
    """A ball of tissue with a ball of water in its middle, and water around it as in sulci."""
    rng = np.random.default_rng(0)
    tissue, water = np.exp(-gtab.bvals * 0.8e-3), 4 * np.exp(-gtab.bvals * FREE_WATER_MD)
    is_water = WATER | ((_RADIUS > 15.5) & BRAIN)
    clean = 1000 * np.where(is_water[..., None], water, tissue) * BRAIN[..., None]
    noise = rng.standard_normal((2, *clean.shape)) * 1000 / snr
    return np.hypot(clean + noise[0], noise[1]).astype(np.float32)


def measure(data: np.ndarray, gtab: GradientTable, mask: np.ndarray = BRAIN) -> FreeWater | None:
    return measure_free_water(Dwi.from_arrays(data, AFFINE, gtab, mask=mask))


@pytest.mark.parametrize("scale", [1.0, 0.93**2, 0.93**-2])
def test_water_tells_the_factor_of_the_b_values(scale: float) -> None:
    data = head(GTAB)
    water = find_ventricles(data[..., 0], mask=BRAIN, affine=AFFINE)
    assert (water & ~WATER).sum() == 0
    assert water.sum() > 0.9 * WATER.sum()
    claimed = GradientTable(GTAB.bvals * scale, GTAB.bvecs_ras)
    found = measure(data, claimed)
    assert found is not None
    # The noise floor takes 1% from the weakest signals.
    assert found.md == pytest.approx(FREE_WATER_MD / scale, rel=0.02)


def test_what_cannot_be_measured_is_none() -> None:
    data = head(GTAB)
    small = _RADIUS < 6  # nothing lies deep
    assert measure(data, GTAB, small) is None
    high = GradientTable(2.5 * GTAB.bvals, GTAB.bvecs_ras)
    assert measure(data, high) is None
    assert measure(0 * data, GTAB) is None
    no_b0 = GradientTable(np.full(6, 1000.0), SKARE_DIRECTIONS)
    assert measure(data[..., 1:], no_b0) is None
    found = describe_free_water(None, method="none", common_length=0.93)
    assert found["VentricleMD"] == "n/a"
    assert "n/a" in found["Summary"]
    with pytest.raises(GradientError):
        measure(data, no_b0)
    with pytest.raises(ImageError):
        find_ventricles(data[..., 0], mask=BRAIN[1:], affine=AFFINE)


@pytest.mark.realdata
def test_real_ventricles_hold_free_water(data_dir: Path) -> None:
    path = data_dir / "ds-vendors/sub-trio/dwi/sub-trio_dir-AP_dwi"
    dwi = Dwi.from_files(*(path.with_name(path.name + e) for e in (".nii.gz", ".bval", ".bvec")))
    b0 = dwi.mean_b0()
    head_mask = binary_fill_holes(b0 > 0.1 * np.percentile(b0, 99))
    found = measure_free_water(dwi.with_mask(head_mask))
    assert found is not None
    # Neighbouring tissue in the voxels and pulsation leave some 5% either way; a common
    # length of .93 that is misread makes 16%.
    assert found.md == pytest.approx(FREE_WATER_MD, rel=0.07)
