"""DeepDTI and FlexDTI, small: shapes, laws, a short training, and use on a series."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.registry import load_weights
from dmri_fm.series import Dwi
from dmri_fm.tensor import fit_tensor
from dmri_fm.tensor_networks.inputs import batch_inputs, fit_least_squares
from dmri_fm.tensor_networks.predict import predict_tensor
from dmri_fm_lab.baseline_networks import BASELINE_NETWORKS, find_tensor_network
from dmri_fm_lab.baseline_networks.deepdti import DeepDti, DeepDtiConfig
from dmri_fm_lab.baseline_networks.flexdti import FlexDti, FlexDtiConfig
from dmri_fm_lab.evaluate.network_runs import estimate_tensors, load_tensor_run
from dmri_fm_lab.train.config import TensorTraining, read_training
from dmri_fm_lab.train.tensor_training import train_tensor_network

#: A DeepDTI that finds no noise: its tensor is the least-squares tensor.
NO_NOISE = DeepDtiConfig(channels=4, n_layers=3, last_scale=0.0)


@pytest.fixture
def draw_inputs():
    """Return a function that draws a batch; the first two planes lie outside the mask."""

    def draw(*, n=6, batch=1, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)
        signal = 1.0 - 0.8 * torch.rand(batch, 1 + n, 8, 8, 8, generator=generator)
        signal[:, 0] += 0.5
        mask = torch.ones(batch, 1, 8, 8, 8)
        mask[:, :, :2] = 0.0
        axes = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=1)
        axes[:6] = torch.tensor(SKARE_DIRECTIONS.tolist())
        q = torch.cat([torch.zeros(1, 4), torch.cat([axes, torch.ones(n, 1)], dim=1)])
        edges, is_b0 = torch.full((batch, 3), 2.0), np.arange(1 + n) == 0
        inputs = batch_inputs(signal, q.expand(batch, -1, -1), mask, edges, is_b0=is_b0)
        return inputs.map(lambda t: t.to(dtype))

    return draw


@pytest.mark.parametrize("name", BASELINE_NETWORKS)
def test_shapes_gradients_and_mask(name, draw_inputs):
    torch.manual_seed(0)
    found = find_tensor_network(name)
    model = found.network(found.config)
    assert sum(p.numel() for p in model.parameters()) < 1e6
    out = model(draw_inputs(batch=2)).tensor
    assert out.shape == (2, 6, 8, 8, 8)
    assert not out[:, :, :2].any(), "zero outside the mask"
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with pytest.raises(ValueError, match="7 images"):
        model(draw_inputs(n=7))


def test_scans_of_a_batch_are_independent(draw_inputs):
    torch.manual_seed(0)
    model = FlexDti(FlexDtiConfig()).double()
    inputs = draw_inputs(batch=2, dtype=torch.float64)
    both = model(inputs).tensor
    alone = model(inputs.map(lambda t: t[1:])).tensor
    torch.testing.assert_close(alone, both[1:])


def test_deepdti_fits_what_it_denoised(draw_inputs):
    inputs = draw_inputs()
    found = DeepDti(NO_NOISE)(inputs).tensor
    expected = fit_least_squares(inputs.ratios, inputs.q) * inputs.mask
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_flexdti_reads_directions_but_not_b(draw_inputs):
    torch.manual_seed(0)
    model, inputs = FlexDti(FlexDtiConfig()), draw_inputs()
    out = model(inputs).tensor
    other_b = inputs._replace(q=inputs.q * torch.tensor([1.0, 1, 1, 2]))
    assert torch.equal(model(other_b).tensor, out)
    turned = inputs._replace(q=inputs.q.roll(1, dims=1))
    assert (model(turned).tensor - out).abs().max() > 1e-3
    five = inputs._replace(ratios=inputs.ratios[:, :5], q=inputs.q[:, :5])
    assert model(five).tensor.shape == out.shape


@pytest.mark.parametrize("name", BASELINE_NETWORKS)
def test_trained_by_the_common_loop(name, tmp_path):
    few = {"n_steps": 2, "warmup_steps": 1}
    settings = read_training(TensorTraining, name, optimisation=few)
    settings = replace(settings, patch_voxels=8, batch=1)
    with pytest.raises(ConfigError, match="weights file"):
        train_tensor_network(settings, tmp_path, weights=tmp_path / "x.safetensors")
    run = train_tensor_network(settings, tmp_path)
    read = load_tensor_run(tmp_path)
    for key, tensor in run.model.state_dict().items():
        assert torch.equal(read.state_dict()[key], tensor)
    with pytest.raises(WeightsError, match=r"last\.ckpt"):
        load_tensor_run(tmp_path / "elsewhere")


def test_estimates_of_a_series_are_in_its_frame():
    """A network that only fits gives the app's own fit, in a flipped, uneven grid, too."""
    rng = np.random.default_rng(0)
    gtab = GradientTable(
        np.repeat([0.0, 1000.0], [1, 6]), np.vstack([[0, 0, 0], SKARE_DIRECTIONS])
    )
    tensor = np.diag([1.6e-3, 0.4e-3, 0.3e-3])
    decay = np.exp(-gtab.bvals * np.einsum("ni,ij,nj->n", gtab.bvecs_ras, tensor, gtab.bvecs_ras))
    data = (1000 * decay * (1 + 0.02 * rng.standard_normal((5, 6, 4, 7)))).astype(np.float32)
    mask = np.zeros((5, 6, 4), dtype=bool)
    mask[1:, 2:5] = True
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-2.0, 2.0, 3.0])
    dwi = Dwi.from_arrays(data, affine, gtab, mask=mask)
    found, expected = estimate_tensors(DeepDti(NO_NOISE).eval(), dwi), fit_tensor(dwi)
    np.testing.assert_allclose(found.diffusivity, expected.diffusivity, atol=2e-6)
    assert found.fa[mask].mean() > 0.6


def test_a_run_gives_what_the_app_gives_with_the_same_weights():
    """The brain begins off the network's stride."""
    rng = np.random.default_rng(0)
    gtab = GradientTable(
        np.repeat([0.0, 1000.0], [1, 6]), np.vstack([[0, 0, 0], SKARE_DIRECTIONS])
    )
    data = np.where(gtab.is_b0, 1000.0, 500.0) * (1 + 0.1 * rng.standard_normal((13, 14, 12, 7)))
    mask = np.zeros((13, 14, 12), dtype=bool)
    mask[3:, 5:12, 1:11] = True
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    dwi = Dwi.from_arrays(data.astype(np.float32), affine, gtab, mask=mask)
    network = load_weights("tensor-refiner").model
    found = estimate_tensors(network, dwi)
    expected = predict_tensor(dwi, model="tensor-refiner")
    np.testing.assert_allclose(found.diffusivity, expected.diffusivity, atol=1e-7)
