import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import SKARE_DIRECTIONS
from dmri_fm.series import Dwi
from dmri_fm.tensor_networks.inputs import (
    TensorInputs,
    batch_inputs,
    estimate_noise,
    fit_least_squares,
    least_squares_deviation,
    tensor_fa,
    tensor_inputs,
    turn_tensors,
)
from dmri_fm_lab.smoothing import noise_sigma

ROW, COLUMN = np.triu_indices(3)


def test_inputs_by_hand():
    gtab = GradientTable([0, 0, 1000], [[0, 0, 0], [0, 0, 0], [0, 0.6, 0.8]])
    data = np.array([[80.0, 120.0, 50.0], [200.0, 400.0, 60.0]], dtype=np.float32)
    mask = np.array([True, True]).reshape(2, 1, 1)
    inputs = tensor_inputs(data.reshape(2, 1, 1, 3), gtab, mask, np.diag([2.0, 3.0, 4.0, 1.0]))
    np.testing.assert_allclose(inputs.s0.ravel(), [0.5, 1.5])
    np.testing.assert_allclose(inputs.ratios.ravel(), [0.5, 0.2])
    np.testing.assert_allclose(inputs.q[0, 0], [0, 0.6, 0.8, 1.0], atol=1e-7)
    assert inputs.n_b0.tolist() == [2.0]
    assert inputs.voxel_mm.tolist() == [[2.0, 3.0, 4.0]]


def test_voxels_without_b0_leave_the_mask():
    gtab = GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]])
    data = np.array([[100.0, 50.0], [0.0, 50.0]], dtype=np.float32).reshape(2, 1, 1, 2)
    inputs = tensor_inputs(data, gtab, np.ones((2, 1, 1), dtype=bool), np.eye(4))
    assert inputs.mask.ravel().tolist() == [1.0, 0.0]
    assert inputs.ratios.ravel().tolist() == [0.5, 0.0]
    assert inputs.s0.ravel().tolist() == [1.0, 0.0]


def test_views_of_other_arrays_are_read():
    """Masks come flipped and transposed where images were turned."""
    gtab = GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]])
    data = np.full((2, 3, 4, 2), 100.0, dtype=np.float32)
    mask = np.ones((4, 3, 2), dtype=bool).T[::-1]
    inputs = tensor_inputs(data[::-1], gtab, mask, np.eye(4))
    assert inputs.mask.sum() == 24
    series = Dwi.from_arrays(data, np.eye(4), gtab, mask=mask)
    assert noise_sigma(series) == 0.0


@pytest.mark.parametrize(
    "axes",
    [
        np.diag([-1.0, 1.0, 1.0]),
        np.eye(3)[[1, 2, 0]],
        Rotation.from_euler("xyz", [20, -10, 35], degrees=True).as_matrix(),
    ],
    ids=["LAS", "sagittal", "oblique"],
)
def test_b_vectors_turn_into_the_frame_of_the_voxels(axes):
    """A fibre along the first voxel axis is xx in the network's frame, whatever the affine."""
    fibre = axes[:, 0]
    adc = 0.3 + 1.4 * (SKARE_DIRECTIONS @ fibre) ** 2
    gtab = GradientTable(np.r_[0, np.full(6, 1000)], np.r_[np.zeros((1, 3)), SKARE_DIRECTIONS])
    signal = np.r_[1.0, np.exp(-adc)].astype(np.float32).reshape(1, 1, 1, 7)
    affine = np.eye(4)
    affine[:3, :3] = axes * 2.0
    inputs = tensor_inputs(signal, gtab, np.ones((1, 1, 1), dtype=bool), affine)
    found = fit_least_squares(inputs.ratios, inputs.q)[0]
    np.testing.assert_allclose(found.ravel(), [1.7, 0, 0, 0.3, 0, 0.3], atol=1e-5)
    back = turn_tensors(found, axes).ravel()
    expected = 0.3 * np.eye(3) + 1.4 * np.outer(fibre, fibre)
    np.testing.assert_allclose(back, expected[ROW, COLUMN], atol=1e-5)


def test_least_squares_recovers_tensors():
    rng = np.random.default_rng(0)
    tensors = np.tile(np.diag([1.7, 0.4, 0.3]), (8, 1, 1))
    q, _ = np.linalg.qr(rng.normal(size=(8, 3, 3)))
    tensors = q @ tensors @ q.transpose(0, 2, 1)
    b = rng.uniform(0.8, 1.2, 6)
    adc = np.einsum("ni,vij,nj->nv", SKARE_DIRECTIONS, tensors, SKARE_DIRECTIONS)
    ratios = torch.from_numpy(np.exp(-b[:, None] * adc)).reshape(1, 6, 2, 2, 2)
    table = torch.from_numpy(np.column_stack([SKARE_DIRECTIONS, b]))[None]
    found = fit_least_squares(ratios, table).reshape(6, 8).numpy().T
    np.testing.assert_allclose(found, tensors[:, ROW, COLUMN], atol=1e-9)


@pytest.mark.parametrize(("n_directions", "n_b0"), [(6, 1), (12, 4)])
def test_deviation_of_least_squares_is_that_of_repeated_noise(n_directions, n_b0):
    rng = np.random.default_rng(0)
    g = rng.normal(size=(n_directions, 3))
    g /= np.linalg.norm(g, axis=1, keepdims=True)
    g[:6] = SKARE_DIRECTIONS
    tensor = np.diag([1.5, 0.5, 0.4])
    clean = np.exp(-np.einsum("ni,ij,nj->n", g, tensor, g))
    sigma, n = 0.01, 40_000
    s0 = 1 + sigma * rng.standard_normal((n_b0, n)).mean(axis=0)
    s = clean[:, None] + sigma * rng.standard_normal((n_directions, n))
    q = torch.from_numpy(np.column_stack([g, np.ones(n_directions)]))[None]
    ratios = torch.from_numpy(s / s0).reshape(1, n_directions, n, 1, 1)
    spread = fit_least_squares(ratios, q).reshape(6, n).std(dim=1)
    inputs = TensorInputs(
        s0=torch.ones(1, 1, 1, 1, 1, dtype=torch.float64),
        ratios=torch.from_numpy(clean).reshape(1, n_directions, 1, 1, 1),
        q=q,
        mask=torch.ones(1, 1, 1, 1, 1),
        noise=torch.full((1, 1, 1, 1, 1), sigma),
        n_b0=torch.tensor([float(n_b0)]),
        voxel_mm=torch.ones(1, 3),
    )
    torch.testing.assert_close(
        least_squares_deviation(inputs).ravel(), spread.double(), rtol=0.03, atol=0
    )


def test_fa_by_hand():
    diagonal = torch.zeros(1, 6, 1, 1, 1)
    diagonal[0, [0, 3, 5], 0, 0, 0] = torch.tensor([1.7, 0.2, 0.2])
    assert tensor_fa(diagonal).item() == pytest.approx(0.8704, abs=1e-3)
    diagonal[0, [0, 3, 5]] = 0.7
    assert tensor_fa(diagonal).item() < 2e-3


def test_noise_estimate():
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, 24)[:, None, None] + torch.linspace(0, 2, 24)[None, :, None]
    images = ramp.expand(2, 3, 24, 24, 24) + torch.tensor([0.1, 0.02])[
        :, None, None, None, None
    ] * torch.randn(2, 3, 24, 24, 24, generator=generator)
    mask = torch.ones(2, 1, 24, 24, 24)
    # 3 x 23^3 details: the estimate's own deviation is below one percent.
    torch.testing.assert_close(
        estimate_noise(images, mask), torch.tensor([0.1, 0.02]), rtol=0.03, atol=0
    )
    assert estimate_noise(images, torch.zeros_like(mask)).tolist() == [0.0, 0.0]


def test_intensity_is_that_of_all_images_of_the_scan():
    """It follows gain and mask, and does not depend on the block that is looked at."""
    generator = torch.Generator().manual_seed(0)
    signal = 100 * (1 + torch.rand(1, 7, 6, 6, 6, generator=generator))
    mask = torch.ones(1, 1, 6, 6, 6)
    mask[..., :2] = 0
    q = torch.cat([torch.zeros(1, 1, 4), torch.ones(1, 6, 4)], dim=1)
    where = np.arange(7) == 0
    inputs = batch_inputs(signal, q, mask, torch.ones(1, 3), is_b0=where)
    images = signal[:, :, mask[0, 0] > 0] / signal[0, 0][mask[0, 0] > 0].mean()
    expected = torch.stack([images.mean(), images.std(correction=0)])[None]
    torch.testing.assert_close(inputs.intensity, expected)
    brighter = batch_inputs(3 * signal, q, mask, torch.ones(1, 3), is_b0=where)
    torch.testing.assert_close(brighter.intensity, inputs.intensity)
    block = inputs.map_images(lambda t: t[..., :3])
    assert torch.equal(block.intensity, inputs.intensity)
