from __future__ import annotations

import numpy as np
import pytest

from dmri_fm_lab.evaluate.reconstruction_scores import (
    authors_psnr_db,
    authors_scores,
    masked_scores,
    psnr_db,
    ssim_map,
)

SHAPE = (16, 18, 14)


def noise(seed, *shape):
    return np.random.default_rng(seed).uniform(0.1, 0.9, shape).astype(np.float32)


def test_the_papers_figure_is_half_of_the_usual_one() -> None:
    """14.94 dB by the authors' code is 29.88 dB."""
    mean_square = 10 ** (-29.88 / 10)
    assert psnr_db(mean_square) == pytest.approx(29.88)
    assert authors_psnr_db(mean_square) == pytest.approx(14.94)
    assert authors_psnr_db(mean_square) == pytest.approx(10 * np.log10(1 / np.sqrt(mean_square)))


def test_only_masked_voxels_count() -> None:
    target = noise(0, *SHAPE, 2)
    masked = np.zeros(SHAPE, dtype=bool)
    masked[4:8, 5:9, 3:7] = True
    estimate = noise(1, *SHAPE, 2)
    estimate[masked] = target[masked] + np.float32(0.1)
    row = masked_scores(estimate, target, masked, clean=target + np.float32(0.3))
    # Off by 0.1 everywhere: MSE 0.01, 20 dB; and 0.2 below the truth.
    assert row["rmse"] == pytest.approx(0.1, abs=1e-6)
    assert row["psnr"] == pytest.approx(20.0, abs=1e-4)
    assert row["rmse_truth"] == pytest.approx(0.2, abs=1e-6)
    changed = estimate.copy()
    changed[~masked] = 7.0
    assert masked_scores(changed, target, masked)["ssim"] == pytest.approx(row["ssim"])


def test_similarity_of_constants_is_that_of_their_means() -> None:
    a, b = (np.full(SHAPE, v, dtype=np.float32) for v in (0.2, 0.6))
    # No variance: (2ab + c) / (a^2 + b^2 + c), with c = 0.01^2 at range 1.
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    np.testing.assert_allclose(ssim_map(a, b), expected, rtol=1e-4)
    np.testing.assert_allclose(ssim_map(a, a), 1.0, rtol=1e-6)


def test_a_box_around_masked_voxels_changes_no_similarity() -> None:
    target, estimate = noise(0, 30, 30, 30, 1), noise(1, 30, 30, 30, 1)
    masked = np.zeros((30, 30, 30), dtype=bool)
    masked[12:16, 12:16, 12:16] = True
    whole = ssim_map(np.where(masked, estimate[..., 0], target[..., 0]), target[..., 0])
    found = masked_scores(estimate, target, masked)["ssim"]
    assert found == pytest.approx(whole[masked].mean(), abs=1e-5)


def test_the_authors_divide_by_voxels_with_a_positive_reconstruction() -> None:
    target = np.zeros((24, 24, 2, 1), dtype=np.float32)
    target[:12] = 0.5
    estimate = np.zeros_like(target)
    estimate[:6] = 0.4
    # Errors 0.1 in 288 voxels and 0.5 in 288; 288 voxels are positive.
    mean_square = (288 * 0.01 + 288 * 0.25) / 288
    row = authors_scores(estimate, target)
    assert row["authors_psnr"] == pytest.approx(-5 * np.log10(mean_square), abs=1e-5)
    assert authors_scores(0 * target, target)["authors_psnr"] is None


def test_the_authors_similarity_is_blind_to_the_scale_of_a_slice() -> None:
    target = noise(0, 24, 24, 2, 2)
    row = authors_scores(3 * target, target)
    assert row["authors_ms_ssim"] == pytest.approx(1.0, abs=1e-6)
    assert authors_scores(noise(1, 24, 24, 2, 2), target)["authors_ms_ssim"] < 0.9


@pytest.mark.parametrize(("side", "scales"), [(10, 0), (14, 2), (96, 3), (192, 5)])
def test_small_slices_have_fewer_scales(side, scales) -> None:
    image = noise(0, side, side, 1, 1)
    assert authors_scores(image, image)["authors_scales"] == scales
