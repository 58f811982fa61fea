"""Measurements predicted from others by a Gaussian process."""

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.masked_directions import predict_by_process
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import to_qspace
from dmri_fm_lab.simulate import spread_directions


@pytest.fixture(scope="module")
def scan():
    """Return twenty measurements of random tensors; voxels outside the brain are zero."""
    rng = np.random.default_rng(0)
    gtab = GradientTable(np.full(20, 1000.0), spread_directions(rng, 20))
    roots = rng.normal(size=(6, 30, 3, 3)) * 0.015
    tensors = roots @ roots.swapaxes(-1, -2) + 4e-4 * np.eye(3)
    g = gtab.bvecs_ras
    signal = np.exp(-1000.0 * np.einsum("ni,spij,nj->nsp", g, tensors, g))
    signal += 0.01 * rng.normal(size=signal.shape)
    brain = torch.ones(6, 30)
    brain[:, :5] = 0
    patches = torch.from_numpy(signal.astype(np.float32)) * brain
    qspace = torch.from_numpy(to_qspace(gtab)).double()
    return ScanTokens(patches, qspace, torch.zeros(6, 3), brain, np.arange(6))


def test_directions_are_predicted_and_the_outside_stays_zero(scan):
    seen, target = scan.patches[:14], scan.patches[14:]
    predicted = predict_by_process(seen, scan.brain, scan.qspace[:14], scan.qspace[14:])
    assert predicted.shape == (6, 6, 30)
    assert not predicted[:, scan.brain == 0].any()
    inside = scan.brain > 0
    error = (predicted - target)[:, inside].square().mean().sqrt()
    mean = (seen.mean(dim=0) - target)[:, inside].square().mean().sqrt()
    assert error < 0.5 * mean


def test_predictions_do_not_depend_on_the_sign_of_b_vectors(scan):
    turned = scan.qspace.clone()
    turned[::2, 1], turned[::2, 2] = np.pi - turned[::2, 1], turned[::2, 2] + np.pi
    first, second = (
        predict_by_process(scan.patches[:14], scan.brain, q[:14], q[14:])
        for q in (scan.qspace, turned)
    )
    torch.testing.assert_close(first, second, atol=1e-4, rtol=0)
