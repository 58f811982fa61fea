from __future__ import annotations

import numpy as np
import pytest

from dmri_fm.errors import GradientError
from dmri_fm.gaussian_process import GaussianProcess, fit_gaussian_process
from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi
from dmri_fm_lab.evaluate.direction_models import predict_harmonics, shell_means
from dmri_fm_lab.evaluate.inpainting import (
    fill_by_directions,
    fill_by_means,
    fill_harmonically,
    fill_smoothly,
)
from dmri_fm_lab.evaluate.reconstruction_baselines import (
    DIRECTION_BASELINES,
    PATCH_BASELINES,
)
from dmri_fm_lab.simulate import spread_directions

SHAPE = (8, 9, 10)


def shell(seed, n, bval=1000.0):
    axes = spread_directions(np.random.default_rng(seed), n)
    return GradientTable(np.full(n, bval), axes)


def tensor_signal(gtab, tensors):
    """S/S0 (V, N) of tensors (V, 3, 3), mm^2/s."""
    adc = np.einsum("ni,vij,nj->vn", gtab.bvecs_ras, tensors, gtab.bvecs_ras)
    return np.exp(-gtab.bvals * adc)


def random_tensors(n):
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    return np.einsum("vij,j,vkj->vik", turn, [1.5e-3, 0.5e-3, 0.4e-3], turn)


def brain(signal, gtab):
    images = signal.reshape(*SHAPE, -1).astype(np.float32)
    return Dwi.from_arrays(images, np.diag([2.0, 2, 2, 1]), gtab, mask=np.ones(SHAPE))


def test_the_mean_is_that_of_the_nearest_shell() -> None:
    axes = np.eye(3)[[0, 1, 2, 0]]
    kept = GradientTable([1000, 1000, 2000, 2000], axes)
    signal = np.array([[0.4, 0.6, 0.1, 0.3]])
    wanted = GradientTable([1100, 2600], axes[:2])
    np.testing.assert_allclose(shell_means(signal, kept, wanted), [[0.5, 0.2]])


def test_tensors_are_predicted_by_the_tensor() -> None:
    tensors = random_tensors(np.prod(SHAPE))
    kept, wanted = shell(0, 10), shell(1, 5, 2000.0)
    expected = tensor_signal(wanted, tensors)
    for name in ("tensor", "tensor-smooth"):
        found = DIRECTION_BASELINES[name].apply(brain(tensor_signal(kept, tensors), kept), wanted)
        # Without noise nothing is smoothed.
        np.testing.assert_allclose(
            found.reshape(expected.shape), expected, atol=1e-3 if name == "tensor" else 0.3
        )
    few = kept.select(range(5))
    part = brain(tensor_signal(few, tensors), few)
    with pytest.raises(GradientError):
        DIRECTION_BASELINES["tensor"].apply(part, wanted)


def test_a_shell_of_few_directions_borrows_the_others_for_its_tensor() -> None:
    tensors = random_tensors(np.prod(SHAPE))
    kept = GradientTable.concatenate([shell(0, 8), shell(1, 3, 2000.0)])
    wanted = shell(2, 4, 2000.0)
    found = DIRECTION_BASELINES["tensor"].apply(brain(tensor_signal(kept, tensors), kept), wanted)
    expected = tensor_signal(wanted, tensors).reshape(found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_harmonics_predict_what_harmonics_describe() -> None:
    def signal(gtab):
        x, y, z = gtab.bvecs_ras.T
        return np.stack([0.5 + 0.3 * x * y, 0.4 - 0.2 * z**2 + 0.1 * x**2, 0.3 + 0 * x])

    kept, wanted = shell(0, 20), shell(1, 7)
    found = predict_harmonics(signal(kept), kept, wanted)
    # The least penalty that is tried is not zero.
    np.testing.assert_allclose(found, signal(wanted), atol=2e-3)


def test_harmonics_of_five_directions_are_their_mean() -> None:
    kept, wanted = shell(0, 5), shell(1, 2)
    signal = np.random.default_rng(0).uniform(size=(4, 5))
    np.testing.assert_allclose(
        predict_harmonics(signal, kept, wanted), signal.mean(axis=1)[:, None] * np.ones(2)
    )


def test_weights_of_the_gaussian_process_by_hand() -> None:
    """Two axes 60 degrees apart; one wanted along the first, at the same b."""
    angle = np.pi / 3
    kept = GradientTable([1000, 1000], [[1, 0, 0], [np.cos(angle), np.sin(angle), 0]])
    wanted = kept.select([0])
    process = GaussianProcess(variance=0.02, reach_rad=2.0, reach_log_b=1.0, noise=0.005)
    share = angle / 2.0
    off = 0.02 * (1 - 1.5 * share + 0.5 * share**3)
    matrix = np.array([[1.025, 1 + off], [1 + off, 1.025]])
    expected = np.linalg.inv(matrix) @ [1.02, 1 + off]
    np.testing.assert_allclose(process.weights(kept, wanted)[:, 0], expected)
    # An axis has no sign; b-values apart by a factor e share exp(-1/2).
    far = GradientTable([1000 * np.e], [[-1, 0, 0]])
    np.testing.assert_allclose(process.covariance(wanted, far), 0.02 * np.exp(-0.5))


def test_without_noise_the_gaussian_process_gives_back_what_it_was_given() -> None:
    kept = GradientTable.concatenate([shell(0, 8), shell(1, 8, 2500.0)])
    signal = np.random.default_rng(0).uniform(size=(5, 16))
    process = GaussianProcess(0.05, 1.5, 1.0, 1e-9)
    np.testing.assert_allclose(process.predict(signal, kept, kept), signal, atol=1e-4)


def test_hyperparameters_are_recovered() -> None:
    kept = shell(0, 24)
    true = GaussianProcess(0.02, 1.2, 1.0, 0.004)
    draws = np.random.default_rng(0).multivariate_normal(
        np.full(24, 0.4), true.covariance(kept, kept) + 0.004 * np.eye(24), 4000
    )
    found = fit_gaussian_process(draws.T @ draws / len(draws), kept)
    assert found.variance == pytest.approx(true.variance, rel=0.15)
    assert found.reach_rad == pytest.approx(true.reach_rad, rel=0.15)
    assert found.noise == pytest.approx(true.noise, rel=0.15)


def block():
    inside = np.zeros((14, 14, 14), dtype=bool)
    inside[1:-1, 1:-1, 1:-1] = True
    masked = np.zeros_like(inside)
    masked[4:9, 4:9, 4:9] = True
    return inside & ~masked, masked


def test_a_ramp_is_harmonic() -> None:
    visible, masked = block()
    x, y, z = np.indices(visible.shape) / 14.0
    images = np.stack([0.2 + 0.5 * x, 0.9 - 0.3 * y + 0.1 * z], axis=3).astype(np.float32)
    expected = images.copy()
    images[masked] = np.nan
    filled = fill_harmonically(images, visible, masked)
    np.testing.assert_allclose(filled, expected, atol=2e-3)


@pytest.mark.parametrize("baseline", PATCH_BASELINES.values(), ids=PATCH_BASELINES)
def test_constants_stay_and_masked_voxels_are_not_read(baseline) -> None:
    visible, masked = block()
    # A second island that nothing visible touches.
    masked[11:13, 11:13, 11:13] = True
    visible[10:, 10:, 10:] = False
    images = np.full((*visible.shape, 2), np.nan, dtype=np.float32)
    images[visible] = [0.25, 0.75]
    filled = baseline.apply(images, visible, masked)
    np.testing.assert_allclose(
        filled[visible | masked], [[0.25, 0.75]] * int((visible | masked).sum()), atol=1e-5
    )


def test_smooth_filling_follows_what_is_near() -> None:
    visible, masked = block()
    images = np.zeros((*visible.shape, 1), dtype=np.float32)
    images[7:] = 1.0
    for fill in (fill_smoothly, fill_harmonically):
        filled = fill(images, visible, masked)
        assert filled[4, 6, 6, 0] < 0.3
        assert filled[8, 6, 6, 0] > 0.6
    flat = fill_by_means(images, visible, masked)[masked]
    np.testing.assert_allclose(flat, images[visible].mean(), rtol=1e-5)


def test_other_directions_lend_their_mean() -> None:
    images = np.zeros((1, 1, 2, 3), dtype=np.float32)
    images[0, 0, 0] = [0.2, 0.4, 9.0]
    images[0, 0, 1] = [0.1, 0.3, 0.5]
    visible = np.ones(images.shape, dtype=bool)
    visible[0, 0, 0, 2] = False
    np.testing.assert_allclose(
        fill_by_directions(images, visible)[0, 0, 0], [0.2, 0.4, 0.3], rtol=1e-6
    )
    visible[0, 0, 0] = False
    np.testing.assert_allclose(
        fill_by_directions(images, visible)[0, 0, 0], [0.1, 0.3, 0.5], rtol=1e-6
    )
