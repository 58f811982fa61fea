"""Standardisation of the published QCG-DTI: of images by the scan, of tensors by the weights."""

from dataclasses import replace

import pytest
import torch

from dmri_fm.tensor_networks.qcg_dti import DEFAULT, PAPER, QcgDti

NARROW = {"widths": (2, 4), "qcf_hidden": 4, "pool_voxels": 16}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return QcgDti(replace(PAPER, **NARROW)).double()


def test_images_are_read_over_the_scans_deviation(network, draw_inputs):
    inputs = draw_inputs(dtype=torch.float64)._replace(intensity=torch.tensor([[0.6, 0.3]]))
    out = network(inputs).tensor
    brighter = inputs._replace(s0=2 * inputs.s0, intensity=2 * inputs.intensity)
    torch.testing.assert_close(network(brighter).tensor, out)
    other = inputs._replace(intensity=torch.tensor([[0.6, 0.4]]))
    assert (network(other).tensor - out).abs().max() > 1e-4


def test_each_scan_of_a_batch_has_its_own_statistics(network, draw_inputs):
    inputs = draw_inputs(batch=2, dtype=torch.float64)
    inputs = inputs._replace(intensity=torch.tensor([[0.6, 0.3], [0.4, 0.2]]))
    both = network(inputs).tensor
    alone = network(inputs.map(lambda t: t[1:])).tensor
    torch.testing.assert_close(alone, both[1:])


def test_the_standardisation_of_the_target_is_undone(network, draw_inputs):
    inputs = draw_inputs(dtype=torch.float64)
    raw = network(inputs).tensor
    network.target.copy_(torch.tensor([0.4, 0.5]))
    torch.testing.assert_close(network(inputs).tensor, (0.4 + 0.5 * raw) * inputs.mask)
    assert "target" in network.state_dict()


def test_the_default_has_neither(draw_inputs):
    torch.manual_seed(0)
    network = QcgDti(replace(DEFAULT, **NARROW))
    inputs = draw_inputs()
    other = inputs._replace(intensity=torch.tensor([[0.6, 0.4]]))
    assert torch.equal(network(other).tensor, network(inputs).tensor)
    assert "target" not in network.state_dict()
