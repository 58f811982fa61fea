"""Plain estimates of hidden measurements."""

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.estimates import (
    fill_places,
    predict_by_process,
    predict_by_stacking,
    predict_by_tensor,
    predict_directions,
)
from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import to_qspace
from dmri_fm_lab.simulate import spread_directions


def tensor_signals(*, n=20, bval=1000.0, noise=0.0, seed=0):
    """Return S/S0 (N, S, P) of random tensors, brain (S, P) and qspace (N, 3)."""
    rng = np.random.default_rng(seed)
    gtab = GradientTable(np.full(n, bval), spread_directions(rng, n))
    roots = rng.normal(size=(6, 30, 3, 3)) * 0.015
    tensors = roots @ roots.swapaxes(-1, -2) + 4e-4 * np.eye(3)
    g = gtab.bvecs_ras
    signal = np.exp(-bval * np.einsum("ni,spij,nj->nsp", g, tensors, g))
    signal += noise * rng.normal(size=signal.shape)
    brain = torch.ones(6, 30)
    brain[:, :5] = 0
    patches = torch.from_numpy(signal.astype(np.float32)) * brain
    return patches, brain, torch.from_numpy(to_qspace(gtab)).double()


@pytest.mark.parametrize("predict", [predict_by_process, predict_by_tensor])
def test_directions_are_predicted_and_the_outside_stays_zero(predict):
    patches, brain, qspace = tensor_signals(noise=0.01)
    found = predict(patches[:14], brain, qspace[:14], qspace[14:])
    assert found.shape == (6, 6, 30)
    assert not found[:, brain == 0].any()
    inside = brain > 0
    error = (found - patches[14:])[:, inside].square().mean().sqrt()
    mean = (patches[:14].mean(dim=0) - patches[14:])[:, inside].square().mean().sqrt()
    assert error < 0.5 * mean


def test_a_tensor_is_found_from_six_directions_and_from_fewer():
    patches, brain, qspace = tensor_signals(n=12)
    few = predict_by_tensor(patches[:3], brain, qspace[:3], qspace[3:])
    many = predict_by_tensor(patches[:9], brain, qspace[:9], qspace[9:])
    inside = brain > 0
    assert torch.isfinite(few).all()
    assert few.max() <= 1.0
    assert (many - patches[9:])[:, inside].abs().mean() < 0.05


@pytest.mark.parametrize("noise", [0.005, 0.1])
def test_stacked_predictions_are_as_good_as_the_best_of_them(noise):
    patches, brain, qspace = tensor_signals(n=24, noise=noise)
    inside = brain > 0
    # Smoothing would mix voxels that have nothing to do with one another: it must get no weight.
    seen, mixed = patches[:14], patches[:14].mean(dim=2, keepdim=True) * brain
    args = (brain, qspace[:14], qspace[14:])
    truth = tensor_signals(n=24)[0][14:]

    def error(found):
        return float((found - truth)[:, inside].square().mean().sqrt())

    stacked = predict_by_stacking([seen, mixed], *args)
    assert not stacked[:, ~inside].any()
    alone = [error(predict(seen, *args)) for predict in (predict_by_process, predict_by_tensor)]
    assert error(stacked) < 1.05 * min(alone)


def test_a_shell_of_which_little_is_visible_is_left_to_the_tensor():
    rng = np.random.default_rng(0)
    gtab = GradientTable(np.repeat([1000.0, 2500.0], [12, 6]), spread_directions(rng, 18))
    qspace = torch.from_numpy(to_qspace(gtab)).double()
    patches, brain = torch.rand(18, 6, 30), torch.ones(6, 30)
    kept, hidden = [*range(8), 12], [*range(8, 12), *range(13, 18)]
    args = (brain, qspace[kept], qspace[hidden])
    found = predict_directions([patches[kept]], *args)
    tensor = predict_by_tensor(patches[kept], *args)
    torch.testing.assert_close(found[4:], tensor[4:], atol=0, rtol=0)
    assert not torch.isclose(found[:4], tensor[:4]).all(dim=2).any()
    # Few in all: the Gaussian process, but for a shell without any.
    few = predict_directions([patches[:3]], brain, qspace[:3], qspace[hidden])
    process = predict_by_process(patches[:3], brain, qspace[:3], qspace[hidden])
    torch.testing.assert_close(few[:4], process[:4], atol=0, rtol=0)
    with pytest.raises(GradientError, match="two or more"):
        predict_by_stacking([patches[:1]], brain, qspace[:1], qspace[1:])


def test_estimates_do_not_depend_on_the_sign_of_b_vectors():
    patches, brain, qspace = tensor_signals(noise=0.01)
    turned = qspace.clone()
    turned[::2, 1], turned[::2, 2] = np.pi - turned[::2, 1], turned[::2, 2] + np.pi
    for predict in (predict_by_process, predict_by_tensor):
        a = predict(patches[:14], brain, qspace[:14], qspace[14:])
        b = predict(patches[:14], brain, turned[:14], turned[14:])
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)
    a = predict_by_stacking([patches[:14]], brain, qspace[:14], qspace[14:])
    b = predict_by_stacking([patches[:14]], brain, turned[:14], turned[14:])
    torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_places_follow_tissue_and_their_neighbours():
    rng = np.random.default_rng(0)
    cells = torch.from_numpy(np.indices((8, 4, 4)).reshape(3, -1).T.copy()).float()
    wm = torch.from_numpy(rng.uniform(size=(len(cells), 300))).float()
    brain = torch.ones_like(wm)
    brain[:, 0] = 0
    # White matter darkens from left to right, which only neighbours tell.
    gain = 0.3 + 0.05 * cells[:, :1]
    truth = torch.stack([(0.2 + gain * wm) * brain, (0.7 - gain * wm) * brain])
    regressors = torch.stack([torch.ones_like(wm), wm], dim=2) * brain[..., None]
    order = torch.from_numpy(rng.permutation(len(cells)))
    kept, hidden = order[:64].sort().values, order[64:].sort().values
    found = fill_places(truth[:, kept], regressors, 16 * cells, kept)
    assert found.shape == (2, len(cells), 300)
    # What a visible place shows is not used for it.
    other = truth[:, kept].clone()
    other[:, 0] = 0.9
    again = fill_places(other, regressors, 16 * cells, kept)
    assert (again - found)[:, kept[0]].abs().max() < 0.1
    found = found[:, hidden]
    assert not found[..., 0].any()
    error = (found - truth[:, hidden])[..., 1:].square().mean().sqrt()
    global_fit = torch.linalg.lstsq(
        regressors[kept].flatten(0, 1), truth[:, kept].flatten(1).T
    ).solution
    plain = torch.einsum("spc,ct->tsp", regressors[hidden], global_fit)
    assert error < 0.6 * (plain - truth[:, hidden])[..., 1:].square().mean().sqrt()
    assert error < 0.04
