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
    impossible_shares,
    least_squares,
    spherical_variance,
    tune_smoothing,
)
from dmri_fm_lab.review.experiments import six_directions
from dmri_fm_lab.review.patches import TruePatches, draw_patches, measure, signal_of


@pytest.fixture(scope="module")
def patches() -> TruePatches:
    return draw_patches(5, 4, edge=8)


def test_least_squares_recovers_the_truth_without_noise(patches: TruePatches) -> None:
    truth = estimate_of(patches.tensor, patches.mask)
    images = signal_of(patches.tensor, six_directions()) * patches.mask[:, None]
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
    assert sorted(set(np.nonzero(edges)[1].tolist())) == [3, 4]
    assert not edges[:, :, 0].any(), "at the border of the patch nobody knows"
