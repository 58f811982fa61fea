"""Joining the runs of a series."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from dmri_fm.errors import ImageError
from dmri_fm.gradients import GradientTable, ras_to_fsl
from dmri_fm.preprocess.merge import merge_runs
from dmri_fm.series import Dwi

AFFINE = np.diag([-2.0, 2.0, 2.0, 1.0])


def make_run(scale: float = 1.0, affine: np.ndarray = AFFINE, *, shape=(6, 5, 4)) -> Dwi:
    rng = np.random.default_rng(3)
    data = np.stack([rng.uniform(50, 150, shape), rng.uniform(20, 40, shape)], axis=3)
    gtab = GradientTable([0, 1000], [[0, 0, 0], [0.6, 0.8, 0]])
    return Dwi.from_arrays(scale * data, affine, gtab)


def test_runs_come_to_the_level_of_the_first() -> None:
    merged = merge_runs([make_run(), make_run(0.25)])
    assert merged.scales == pytest.approx((1.0, 4.0), rel=1e-6)
    np.testing.assert_allclose(merged.dwi.data[..., 2:], merged.dwi.data[..., :2], rtol=1e-6)
    assert merged.run_index.tolist() == [0, 0, 1, 1]


def test_one_run_is_left_alone() -> None:
    run = make_run()
    merged = merge_runs([run])
    np.testing.assert_array_equal(merged.dwi.data, run.data)
    np.testing.assert_allclose(merged.dwi.gtab.bvecs_ras, run.gtab.bvecs_ras, atol=1e-15)


def test_moved_field_of_view_keeps_directions_in_the_image() -> None:
    turned = AFFINE.copy()
    turned[:3, :3] = Rotation.from_euler("z", 1, degrees=True).as_matrix() @ AFFINE[:3, :3]
    second = make_run(affine=turned)
    merged = merge_runs([make_run(), second])
    np.testing.assert_array_equal(merged.dwi.affine, AFFINE)
    np.testing.assert_allclose(
        ras_to_fsl(merged.dwi.gtab.bvecs_ras[2:], AFFINE),
        ras_to_fsl(second.gtab.bvecs_ras, turned),
        atol=1e-12,
    )


def test_other_number_of_voxels_is_refused() -> None:
    with pytest.raises(ImageError, match="different grids"):
        merge_runs([make_run(), make_run(shape=(6, 5, 5))])
