from __future__ import annotations

import numpy as np
import pytest
from dipy.core.gradients import gradient_table
from dipy.stats.qc import neighboring_dwi_correlation
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from dmri_fm.errors import GradientError, ImageError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid, number_slices
from dmri_fm.normalise.series import resample_series
from dmri_fm.preprocess.quality import (
    find_bad_slices,
    map_cnr,
    mask_volume_ml,
    measure_snr_b0,
    median_cnr,
    neighbour_correlation,
    series_quality,
    tensor_quality,
)
from dmri_fm.series import Dwi

SHAPE = (14, 15, 12)
BRAIN = np.zeros(SHAPE, dtype=bool)
BRAIN[2:12, 2:13, 1:11] = True


def make_series(
    rng: np.random.Generator, *, snr: float, n: int = 20, n_b0: int = 2, bvals=(1000,)
) -> tuple[np.ndarray, GradientTable]:
    """Draw a brain of tensors with random axes on a Gaussian noise background."""
    g = rng.standard_normal((n * len(bvals), 3))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    gtab = GradientTable(
        np.concatenate([np.zeros(n_b0), np.repeat(bvals, n)]),
        np.concatenate([np.zeros((n_b0, 3)), g]),
    )
    axes = rng.standard_normal((*SHAPE, 3))
    axes /= np.linalg.norm(axes, axis=-1, keepdims=True)
    cosine = np.einsum("xyzi,ni->xyzn", axes, gtab.bvecs_ras)
    signal = 1000 * np.exp(-gtab.bvals * (0.3e-3 + 1.2e-3 * cosine**2)) * BRAIN[..., None]
    noise = rng.standard_normal((2, *signal.shape)) * 1000 / snr
    return np.hypot(signal + noise[0], noise[1]).astype(np.float32), gtab


def dwi_of(data: np.ndarray, gtab: GradientTable, mask: np.ndarray = BRAIN) -> Dwi:
    return Dwi.from_arrays(data, np.eye(4), gtab, mask=mask)


@pytest.mark.parametrize("bvals", [(1000,), (700, 2000)])
def test_neighbour_correlation_agrees_with_dipy(bvals) -> None:
    data, gtab = make_series(np.random.default_rng(0), snr=20, bvals=bvals)
    table = gradient_table(gtab.bvals, bvecs=gtab.bvecs_ras, b0_threshold=50)
    expected = neighboring_dwi_correlation(data, table, mask=BRAIN)
    assert neighbour_correlation(dwi_of(data, gtab)) == pytest.approx(expected, rel=1e-5)


def test_neighbour_correlation_falls_with_noise_and_ignores_scale_and_sign() -> None:
    rng = np.random.default_rng(1)
    clean, gtab = make_series(rng, snr=100)
    noisy = clean + rng.normal(0, 200, clean.shape).astype(np.float32)
    value = neighbour_correlation(dwi_of(clean, gtab))
    assert value > neighbour_correlation(dwi_of(noisy, gtab))
    flipped = GradientTable(gtab.bvals, gtab.bvecs_ras * rng.choice([-1, 1], (len(gtab), 1)))
    assert neighbour_correlation(dwi_of(7 * clean, flipped)) == pytest.approx(value, rel=1e-5)


def test_neighbour_correlation_needs_two_volumes_and_a_brain() -> None:
    data, gtab = make_series(np.random.default_rng(2), snr=20, n=1)
    assert neighbour_correlation(dwi_of(data, gtab)) is None
    data, gtab = make_series(np.random.default_rng(2), snr=20)
    assert neighbour_correlation(dwi_of(data, gtab, np.zeros(SHAPE))) is None


def test_lost_slices_are_found_and_no_others() -> None:
    data, gtab = make_series(np.random.default_rng(3), snr=20, n=15)
    assert not find_bad_slices(dwi_of(data, gtab)).any()
    data[:, :, 5, 4] *= 0.3
    data[:, :, 8, 11] = 0
    bad = find_bad_slices(dwi_of(data, gtab))
    assert sorted(zip(*map(list, np.nonzero(bad)), strict=True)) == [(4, 5), (11, 8)]


@pytest.mark.parametrize("turn_deg", [0, 25])
def test_slices_are_those_of_the_acquisition(turn_deg: float) -> None:
    """Sagittal slices that are lost are counted as such on a RAS grid, straight or turned."""
    data, gtab = make_series(np.random.default_rng(3), snr=40, n=15)
    lost = [(4, 5), (11, 8), (12, 6)]
    for volume, z in lost:
        data[:, :, z, volume] *= 0.3
    turn = Rotation.from_euler("xyz", [turn_deg, -turn_deg, 10], degrees=True).as_matrix()
    affine = np.eye(4)
    # The third voxel axis runs from left to right of a turned head.
    affine[:3, :3] = turn @ np.array([[0.0, 0, 2], [2, 0, 0], [0, 2, 0]])
    raw = Dwi.from_arrays(data, affine, gtab, mask=BRAIN)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(SHAPE) - 1)
    box = apply_affine(affine, corners)
    grid = Grid.isotropic(2.0, low=box.min(axis=0), high=box.max(axis=0))
    placed = resample_series(raw, grid)
    numbers = number_slices(grid, Grid(SHAPE, affine), lambda points: points)
    found = np.argwhere(find_bad_slices(placed, numbers)).tolist()
    assert all([v, z] in found for v, z in lost)
    # Between slices interpolation mixes two: a neighbour may lose a tenth as well.
    assert all(any(v == n and abs(k - z) <= 1 for n, z in lost) for v, k in found)
    assert len(found) <= len(lost) + 1
    assert find_bad_slices(placed).sum() != len(lost)


def test_small_shells_are_not_judged() -> None:
    data, gtab = make_series(np.random.default_rng(4), snr=20, n=4)
    data[:, :, 5, 4] = 0
    assert not find_bad_slices(dwi_of(data, gtab)).any()


@pytest.mark.parametrize("n_b0", [2, 3, 8])
@pytest.mark.parametrize("snr", [10.0, 40.0])
def test_temporal_snr_is_that_of_the_simulation(n_b0, snr) -> None:
    data, gtab = make_series(np.random.default_rng(5), snr=snr, n_b0=n_b0)
    measured, is_temporal = measure_snr_b0(dwi_of(data, gtab))
    assert is_temporal
    # About 1100 voxels: the median of a chi-squared variable of one degree has 5 % of error.
    assert measured == pytest.approx(snr, rel=0.12)


def test_snr_of_a_single_b0_comes_from_the_background() -> None:
    rng = np.random.default_rng(6)
    shape = (40, 40, 24)
    brain = np.zeros(shape, dtype=bool)
    brain[14:26, 14:26, 8:16] = True
    signal = 1000.0 * brain[..., None] * np.array([1.0, 0.4])
    noise = rng.standard_normal((2, *signal.shape)) * 50
    data = np.hypot(signal + noise[0], noise[1])
    gtab = GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]])
    snr, is_temporal = measure_snr_b0(dwi_of(data, gtab, brain))
    assert snr == pytest.approx(20, rel=0.05)
    assert not is_temporal
    assert measure_snr_b0(dwi_of(data * brain[..., None], gtab, brain)) == (None, False)
    weighted = GradientTable([1000, 1000], [[1, 0, 0], [0, 1, 0]])
    assert measure_snr_b0(dwi_of(data, weighted, brain)) == (None, False)


def test_cnr_is_the_ratio_it_says() -> None:
    rng = np.random.default_rng(7)
    g = rng.standard_normal((60, 3))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    gtab = GradientTable(np.full(60, 1000.0), g)
    contrast = 100.0 * g[:, 2] ** 2
    data = 500 + contrast + rng.normal(0, 10, (*SHAPE, 60))
    cnr = map_cnr(dwi_of(data, gtab), gtab.shells[0])
    assert median_cnr(cnr) == pytest.approx(contrast.std(ddof=1) / 10, rel=0.03)
    assert np.array_equal(np.isfinite(cnr), BRAIN)
    assert median_cnr(map_cnr(dwi_of(0 * data, gtab), gtab.shells[0])) is None
    # Half of the brain with twice the noise has half the ratio.
    loud = (
        data
        + np.sqrt(3)
        * rng.normal(0, 10, data.shape)
        * (np.arange(SHAPE[0]) < 8)[:, None, None, None]
    )
    cnr = map_cnr(dwi_of(loud, gtab), gtab.shells[0])
    assert np.nanmedian(cnr[:8]) == pytest.approx(0.5 * np.nanmedian(cnr[8:]), rel=0.1)
    # Noise alone has no contrast: half of the voxels are clipped at zero.
    noise = 500 + rng.normal(0, 10, (*SHAPE, 60))
    assert median_cnr(map_cnr(dwi_of(noise, gtab), gtab.shells[0])) < 0.2


def test_cnr_needs_more_directions_than_terms() -> None:
    data, gtab = make_series(np.random.default_rng(8), snr=20, n=7)
    assert map_cnr(dwi_of(data, gtab), gtab.shells[0]) is None


def test_row_has_every_column_and_none_where_nothing_is_known() -> None:
    data, gtab = make_series(np.random.default_rng(9), snr=20, bvals=(1000, 2000))
    dwi = Dwi.from_arrays(data, np.diag([-2.0, 2, 3, 1]), gtab, mask=BRAIN)
    row = series_quality(dwi, dwi, fd_mm=[np.nan], is_outlier=[]) | tensor_quality(None, BRAIN)
    assert mask_volume_ml(dwi) == pytest.approx(BRAIN.sum() * 12 / 1000)
    assert {"cnr_b1000", "cnr_b2000"} <= set(row)
    assert row["mean_fd"] is None
    assert row["fa_nan_fraction"] is None
    assert all(isinstance(v, int | float | None) for v in row.values())


def test_row_of_a_full_call() -> None:
    rng = np.random.default_rng(10)
    data, gtab = make_series(rng, snr=20)
    diffusivity = np.zeros((*SHAPE, 6), dtype=np.float32)
    diffusivity[..., [0, 3, 5]] = [1.5e-3, 0.4e-3, 0.3e-3]
    inside = np.argwhere(BRAIN)
    diffusivity[tuple(inside[0])] = np.nan
    # (1, 1, -1) has a squared FA of 1.5 (1 - (1/3)^2 / 1) > 1: out of range and negative.
    diffusivity[tuple(inside[1])] = [1e-3, 0, 0, 1e-3, 0, -1e-3]
    # (2, 0.5, -0.01) is negative, but its FA stays below 1.
    diffusivity[tuple(inside[2])] = [2e-3, 0, 0, 0.5e-3, 0, -1e-5]
    n = BRAIN.sum()
    row = series_quality(
        dwi_of(data, gtab),
        dwi_of(data, gtab),
        fd_mm=[np.nan, *np.linspace(0.1, 0.3, len(gtab) - 1)],
        is_outlier=np.eye(len(gtab), 12) > 0,
    ) | tensor_quality(diffusivity, BRAIN)
    assert row["raw_neighbor_corr"] == row["preproc_neighbor_corr"]
    assert row["mean_fd"] == pytest.approx(0.2)
    assert row["max_fd"] == pytest.approx(0.3)
    assert row["num_outlier_slices"] == 12
    assert row["fa_nan_fraction"] == pytest.approx(1 / n)
    assert row["fa_out_of_range_fraction"] == pytest.approx(1 / n)
    assert row["negative_diffusivity_fraction"] == pytest.approx(2 / n)


def test_unlike_shapes_are_refused() -> None:
    data, gtab = make_series(np.random.default_rng(11), snr=20)
    with pytest.raises(ImageError, match="mask of shape"):
        neighbour_correlation(dwi_of(data, gtab, BRAIN[1:]))
    with pytest.raises(ImageError, match="without a brain mask"):
        neighbour_correlation(Dwi.from_arrays(data, np.eye(4), gtab))
    with pytest.raises(GradientError, match="gradients for"):
        dwi_of(data[..., 1:], gtab)
    with pytest.raises(ImageError, match="tensors of shape"):
        tensor_quality(np.zeros((2, 2, 2, 6)), BRAIN)
