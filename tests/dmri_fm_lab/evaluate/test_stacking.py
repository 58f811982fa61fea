"""Stacked predictions of masked directions, and the tensor among them."""

import numpy as np
import pytest

from dmri_fm.errors import GradientError
from dmri_fm.gaussian_process import fit_gaussian_process
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.evaluate.stacking import (
    predict_by_penalised_tensor,
    predict_by_stacking,
    predict_directions,
)
from dmri_fm_lab.simulate import spread_directions


def tensor_signals(*, n=20, bval=1000.0, noise=0.0, seed=0):
    """Return S/S0 (V, N) of random tensors, and their table."""
    rng = np.random.default_rng(seed)
    gtab = GradientTable(np.full(n, bval), spread_directions(rng, n))
    roots = rng.normal(size=(180, 3, 3)) * 0.015
    tensors = roots @ roots.swapaxes(-1, -2) + 4e-4 * np.eye(3)
    g = gtab.bvecs_ras
    signal = np.exp(-bval * np.einsum("ni,vij,nj->vn", g, tensors, g))
    return signal + noise * rng.normal(size=signal.shape), gtab


def split(gtab, n):
    return gtab.select(range(n)), gtab.select(range(n, len(gtab)))


def predict_by_process(signal, kept, wanted):
    return fit_gaussian_process(signal.T @ signal / len(signal), kept).predict(
        signal, kept, wanted
    )


METHODS = (predict_by_process, predict_by_penalised_tensor)


def rms(error):
    return float(np.sqrt(np.square(error).mean()))


@pytest.mark.parametrize("predict", METHODS)
def test_directions_are_predicted_better_than_by_their_mean(predict):
    signal, gtab = tensor_signals(noise=0.01)
    predicted = predict(signal[:, :14], *split(gtab, 14))
    assert predicted.shape == (180, 6)
    mean = signal[:, :14].mean(axis=1, keepdims=True)
    assert rms(predicted - signal[:, 14:]) < 0.5 * rms(mean - signal[:, 14:])


def test_a_tensor_is_found_from_six_directions_and_from_fewer():
    signal, gtab = tensor_signals(n=12)
    few = predict_by_penalised_tensor(signal[:, :3], *split(gtab, 3))
    many = predict_by_penalised_tensor(signal[:, :9], *split(gtab, 9))
    assert np.isfinite(few).all()
    assert few.max() <= 1.0
    assert np.abs(many - signal[:, 9:]).mean() < 0.05


@pytest.mark.parametrize("noise", [0.005, 0.1])
def test_stacked_predictions_are_as_good_as_the_best_of_them(noise):
    signal, gtab = tensor_signals(n=24, noise=noise)
    tables = split(gtab, 14)
    # Smoothing would mix voxels that have nothing to do with one another: it must get no weight.
    seen = signal[:, :14]
    mixed = np.broadcast_to(seen.mean(axis=0), seen.shape)
    truth = tensor_signals(n=24)[0][:, 14:]
    stacked = predict_by_stacking([seen, mixed], *tables)
    alone = [rms(predict(seen, *tables) - truth) for predict in METHODS]
    assert rms(stacked - truth) < 1.05 * min(alone)


def test_a_shell_of_which_little_is_visible_is_left_to_the_tensor():
    rng = np.random.default_rng(0)
    gtab = GradientTable(np.repeat([1000.0, 2500.0], [12, 6]), spread_directions(rng, 18))
    signal = rng.uniform(size=(180, 18))
    kept, masked = [*range(8), 12], [*range(8, 12), *range(13, 18)]
    tables = gtab.select(kept), gtab.select(masked)
    predicted = predict_directions([signal[:, kept]], *tables)
    tensor = predict_by_penalised_tensor(signal[:, kept], *tables)
    np.testing.assert_array_equal(predicted[:, 4:], tensor[:, 4:])
    assert not np.isclose(predicted[:, :4], tensor[:, :4]).all(axis=0).any()
    # Few in all: the Gaussian process, but for a shell without any.
    tables = gtab.select(kept[:3]), gtab.select(masked)
    few = predict_directions([signal[:, :3]], *tables)
    process = predict_by_process(signal[:, :3], *tables)
    np.testing.assert_allclose(few[:, :4], process[:, :4])
    with pytest.raises(GradientError, match="two or more"):
        predict_by_stacking([signal[:, :1]], gtab.select([0]), gtab.select([1]))


def test_predictions_do_not_depend_on_the_sign_of_b_vectors():
    signal, gtab = tensor_signals(noise=0.01)
    turned = GradientTable(
        gtab.bvals, gtab.bvecs_ras * np.where(np.arange(20) % 2, 1, -1)[:, None]
    )
    seen = signal[:, :14]
    for predict in (*METHODS, lambda s, *tables: predict_by_stacking([s], *tables)):
        first, second = (predict(seen, *split(table, 14)) for table in (gtab, turned))
        np.testing.assert_allclose(first, second, atol=1e-4)
