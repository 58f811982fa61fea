"""Least squares, smoothing, errors and signs of failure on patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dmri_fm_lab.review.estimates import (
    Estimate,
    edges_of,
    errors_of,
    estimate_of,
    fit_voxels,
    impossible_shares,
    least_squares,
    spherical_variance,
    tune_smoothing,
    with_true_s0,
)
from dmri_fm_lab.review.patches import (
    Purpose,
    TruePatches,
    draw_patches,
    measure,
    seed_of,
    signal_of,
)
from dmri_fm_lab.review.tensor_experiments import six_directions


@pytest.fixture(scope="module")
def patches() -> TruePatches:
    return draw_patches(seed_of(5, Purpose.TEST), 4, edge=8)


def test_least_squares_recovers_the_truth_without_noise(patches: TruePatches) -> None:
    truth = estimate_of(patches.tensor, patches.mask)
    images = patches.s0[:, None] * signal_of(patches.tensor, six_directions())
    found = least_squares(images, patches.mask, six_directions())
    errors = errors_of(found, truth, patches.mask.numpy())
    assert errors["fa"] < 2e-3
    assert errors["md"] < 2e-3
    assert errors["angle_deg"] < 0.5
    assert abs(errors["fa_bias"]) < 2e-3


def test_smoothing_is_wider_where_noise_is_stronger(patches: TruePatches) -> None:
    truth = estimate_of(patches.tensor, patches.mask)
    widths = []
    for snr in (8.0, 1000.0):
        generator = torch.Generator().manual_seed(0)
        images = measure(patches, six_directions(), torch.full((4,), snr), generator)
        widths.append(tune_smoothing(images, patches, six_directions(), truth))
    assert widths[0] > widths[1]


def test_directions_that_agree_have_no_variance() -> None:
    rng = np.random.default_rng(0)
    one = np.tile([0.0, 0.6, 0.8], (8, 3, 1)) * rng.choice([-1.0, 1.0], (8, 3, 1))
    np.testing.assert_allclose(spherical_variance(one), 0.0, atol=1e-12)
    anywhere = rng.normal(size=(5000, 1, 3))
    anywhere /= np.linalg.norm(anywhere, axis=-1, keepdims=True)
    assert spherical_variance(anywhere)[0] == pytest.approx(2 / 3, abs=0.03)


def test_impossible_tensors_and_maps_are_counted() -> None:
    mask = torch.ones(1, 2, 2, 1, dtype=torch.bool)
    tensor = torch.zeros(1, 6, 2, 2, 1)
    tensor[:, [0, 3, 5]] = 0.7
    tensor[0, 3, 0, 0, 0] = -0.1
    assert impossible_shares(estimate_of(tensor, mask), mask)["negative"] == 0.25
    flat = np.array([0.2, 1.2, -0.1, 0.9]).reshape(1, 2, 2, 1)
    maps = Estimate(flat, np.where(flat > 1, -0.5, 0.8), np.zeros((1, 2, 2, 1, 3)))
    assert impossible_shares(maps, mask) == {"fa": 0.5, "negative": 0.25}


def test_edges_lie_between_tissues_and_inside_the_mask() -> None:
    fa = np.zeros((1, 8, 8, 8))
    fa[:, 4:] = 0.6
    truth = Estimate(fa, fa, np.zeros((*fa.shape, 3)))
    mask = np.ones(fa.shape, dtype=bool)
    edges = edges_of(truth, mask)
    planes = {side: set(np.nonzero(found)[1].tolist()) for side, found in edges.items()}
    assert planes == {"high-FA side": {4}, "low-FA side": {3}}
    for found in edges.values():
        assert not found[:, :, 0].any(), "at the border of the patch nobody knows"
    # Blur: what one side loses the other gains, and the mean of both sees nothing.
    blurred = Estimate(np.where(fa > 0, 0.5, 0.1), fa, truth.v1)
    bias = [errors_of(blurred, truth, found)["fa_bias"] for found in edges.values()]
    assert bias == pytest.approx([-0.1, 0.1])


def test_angles_are_compared_where_the_truth_has_an_axis() -> None:
    fa = np.array([0.6, 0.6, 0.1, 0.6])
    x, y = np.eye(3)[0], np.eye(3)[1]
    truth = Estimate(fa, fa, np.stack([x, x, x, x]))
    where = np.ones(4, dtype=bool)
    found = Estimate(fa, fa, np.stack([x, 0 * x, y, y]))
    # Right, without an axis (one radian, that of chance), not compared, wrong.
    expected = (0 + np.rad2deg(1.0) + 90) / 3
    assert errors_of(found, truth, where)["angle_deg"] == pytest.approx(expected)
    assert np.isnan(errors_of(found, truth, fa < 0.3)["angle_deg"])
    rng = np.random.default_rng(0)
    chance = rng.normal(size=(20_000, 3))
    many = Estimate(np.full(20_000, 0.6), np.ones(20_000), np.tile(x, (20_000, 1)))
    angle = errors_of(many._replace(v1=chance), many, many.fa > 0)["angle_deg"]
    assert angle == pytest.approx(np.rad2deg(1.0), abs=0.5)  # three standard errors


def test_a_known_s0_takes_the_noise_of_the_b0_away(patches: TruePatches) -> None:
    truth = estimate_of(patches.tensor, patches.mask)
    images = patches.s0[:, None] * signal_of(patches.tensor, six_directions())
    images[:, 0] *= 1.2
    where = patches.mask.numpy()
    measured = errors_of(least_squares(images, patches.mask, six_directions()), truth, where)
    known = least_squares(with_true_s0(images, patches), patches.mask, six_directions())
    assert measured["md_bias"] == pytest.approx(np.log(1.2), abs=0.01)
    assert errors_of(known, truth, where)["md"] < 2e-3
    voxels = fit_voxels(images.movedim(1, -1)[patches.mask].double().numpy(), six_directions())
    fitted = least_squares(images, patches.mask, six_directions())
    np.testing.assert_allclose(voxels.fa, fitted.fa[where], atol=1e-3)
