from dataclasses import replace

import pytest
import torch
from scipy.ndimage import gaussian_filter

from dmri_fm.tensor_networks import refiner as tensor_refiner
from dmri_fm.tensor_networks.inputs import TensorInputs, fit_least_squares
from dmri_fm.tensor_networks.refiner import (
    NEAR,
    SIGMAS,
    TAPS,
    RefinerConfig,
    TensorRefiner,
    average_neighbours,
    coarse_codes,
    image_pyramid,
    mixed_weights,
)

TINY = RefinerConfig(widths=(4, 6, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1))


def make(config=TINY, *, seed=0):
    """Build a network whose output layer has left its quiet initial state."""
    torch.manual_seed(seed)
    model = TensorRefiner(config).double().eval()
    torch.nn.init.normal_(model.head.weight, std=0.2)
    return model


def test_shapes_gradients_and_mask(draw_inputs):
    torch.manual_seed(0)
    model = TensorRefiner(TINY)
    out = model(draw_inputs(batch=2))
    assert out.tensor.shape == (2, 6, 8, 8, 8)
    assert out.width.shape == (2, 2, 8, 8, 8)
    assert out.code.shape == (2, 8, 2, 2, 2)
    assert not out.tensor[:, :, :2].any(), "zero outside the mask"
    assert (out.width[:, :, 2:] > 0).all()
    (out.tensor.square().mean() + out.width.mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("n", [6, 9])
def test_order_and_sign_cannot_matter_and_any_number_works(n, draw_inputs):
    model, inputs = make(), draw_inputs(n=n, dtype=torch.float64)
    out = model(inputs)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    shuffled = model(inputs._replace(ratios=inputs.ratios[:, order], q=inputs.q[:, order]))
    torch.testing.assert_close(shuffled.tensor, out.tensor, atol=1e-10, rtol=0)
    signs = torch.where(torch.arange(n) % 2 == 0, -1.0, 1.0).double()[:, None]
    flipped = inputs._replace(q=torch.cat([signs * inputs.q[..., :3], inputs.q[..., 3:]], dim=-1))
    torch.testing.assert_close(model(flipped).tensor, out.tensor, atol=1e-10, rtol=0)
    torch.testing.assert_close(model(flipped).width, out.width, atol=1e-10, rtol=0)


def test_scans_of_a_batch_are_independent(draw_inputs):
    model, inputs = make(), draw_inputs(batch=3, dtype=torch.float64)
    both = model(inputs).tensor
    for i in range(3):
        alone = model(inputs.map(lambda t: t[i : i + 1])).tensor  # noqa: B023
        torch.testing.assert_close(alone, both[i : i + 1], atol=1e-10, rtol=0)


def test_does_not_see_beyond_the_mask(draw_inputs):
    model, inputs = make(), draw_inputs(dtype=torch.float64)
    noisy = inputs._replace(
        ratios=inputs.ratios + (1 - inputs.mask), s0=inputs.s0 + 1 - inputs.mask
    )
    torch.testing.assert_close(model(noisy).tensor, model(inputs).tensor)
    torch.testing.assert_close(model(noisy).width, model(inputs).width)


def test_commutes_with_shifts_by_its_stride(draw_inputs):
    """Nothing is pooled: away from borders, a shifted scan gives the shifted tensors."""
    model = make(replace(TINY, widths=(2, 2), encoder_blocks=(1, 1), decoder_blocks=(1,))).float()
    inputs = draw_inputs(side=56, seed=3)
    mask = torch.zeros_like(inputs.mask)
    # The network reaches some 20 voxels: from here no border is seen.
    mask[..., 24:30, 24:30, 24:30] = 1.0
    inputs = inputs._replace(mask=mask)
    step = model.config.stride

    def move(image):
        return image.roll((step, step, step), dims=(2, 3, 4))

    out, shifted = model(inputs).tensor, model(inputs.map_images(move)).tensor
    # Single precision; a shift by one voxel would differ by about one.
    torch.testing.assert_close(shifted, move(out), atol=1e-4, rtol=0)


def test_weights_on_the_voxel_itself_leave_least_squares(draw_inputs):
    inputs = draw_inputs(dtype=torch.float64)
    weights = torch.zeros(1, len(TAPS), 8, 8, 8, dtype=torch.float64)
    weights[:, NEAR.index((0, 0, 0))] = 1.0
    ratios = average_neighbours(image_pyramid(inputs), weights)
    found = fit_least_squares(ratios, inputs.q) * inputs.mask
    expected = fit_least_squares(inputs.ratios, inputs.q) * inputs.mask
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("step", [(1, 0, -1), (0, 2, -2), (0, 0, 4)])
def test_a_neighbours_weight_fetches_that_neighbour(step, draw_inputs):
    side = 18
    inputs = draw_inputs(side=side, dtype=torch.float64)
    inputs = inputs._replace(mask=torch.ones_like(inputs.mask), s0=torch.ones_like(inputs.s0))
    # Linear images, which blurring does not change away from the border.
    x, y, z = torch.meshgrid(*[torch.arange(side).double()] * 3, indexing="ij")
    image = 0.1 + 0.01 * x + 0.02 * y + 0.03 * z
    inputs = inputs._replace(ratios=image.expand(1, 6, side, side, side))
    weights = torch.zeros(1, len(TAPS), side, side, side, dtype=torch.float64)
    weights[:, TAPS.index(step)] = 1.0
    found = average_neighbours(image_pyramid(inputs), weights)[0, 0, 8:10, 8:10, 8:10]
    change = sum(s * slope for s, slope in zip(step, (0.01, 0.02, 0.03), strict=True))
    expected = image[8:10, 8:10, 8:10] + change
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_gradient_of_the_weights_is_that_of_finite_differences(draw_inputs):
    pyramid = image_pyramid(draw_inputs(side=4, dtype=torch.float64))
    weights = torch.rand(
        1, len(TAPS), 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    assert torch.autograd.gradcheck(
        lambda some: average_neighbours(pyramid, torch.cat([some, weights[:, 3:]], dim=1)),
        weights[:, :3].clone().requires_grad_(),
    )


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.5])
def test_each_gaussian_smooths_white_noise_as_its_width_says(sigma):
    """By the factor of a sampled Gaussian; blurred rings stand for the voxels around them."""
    side, count = 24, 6
    noise = 0.01 * torch.randn(
        1, count, side, side, side, generator=torch.Generator().manual_seed(0)
    )
    inputs = TensorInputs(
        s0=torch.ones(1, 1, side, side, side),
        ratios=0.5 + noise,
        q=torch.zeros(1, count, 4),
        mask=torch.ones(1, 1, side, side, side),
        noise=torch.zeros(1, 1, side, side, side),
        n_b0=torch.ones(1),
        voxel_mm=torch.full((1, 3), 2.0),
    )
    scales = torch.full((1, len(SIGMAS), side, side, side), -100.0)
    scales[:, SIGMAS.index(sigma)] = 0.0
    weights = mixed_weights(scales)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(1, side, side, side))
    found = average_neighbours(image_pyramid(inputs), weights)[0, :, 8:-8, 8:-8, 8:-8].std() / 0.01
    expected = gaussian_filter(noise[0, 0].numpy(), sigma)[8:-8, 8:-8, 8:-8].std() / 0.01
    assert found.item() == pytest.approx(expected, rel=0.35)


def test_an_untrained_network_smooths_a_little(draw_inputs):
    torch.manual_seed(0)
    model = TensorRefiner(TINY)
    torch.nn.init.zeros_(model.head.weight)
    inputs = draw_inputs()
    found = model(inputs).tensor[:, :, 3:]
    rough = fit_least_squares(inputs.ratios, inputs.q)[:, :, 3:]
    assert found.std() < 0.85 * rough.std()
    assert abs(found[:, 0].mean() - rough[:, 0].mean()) < 0.3


def test_mixed_precision_touches_the_convolutions_only(draw_inputs):
    """Logarithms in bfloat16 would be off by hundredths; a quiet network shows only them."""
    torch.manual_seed(0)
    model = TensorRefiner(TINY)
    torch.nn.init.zeros_(model.head.weight)
    inputs = draw_inputs()
    expected = model(inputs).tensor
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(inputs).tensor
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_what_the_processor_gives(draw_inputs):
    model, inputs = make().float(), draw_inputs()
    expected = model(inputs)
    found = model.cuda()(inputs.to("cuda"))
    torch.testing.assert_close(found.tensor.cpu(), expected.tensor, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.width.cpu(), expected.width, atol=1e-3, rtol=0)


def test_codes_are_those_of_the_brain(draw_inputs):
    code = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    mask = draw_inputs().mask.clone()
    mask[:, :, :4] = 0.0
    assert coarse_codes(code, mask).ravel().tolist() == [4.0, 5.0, 6.0, 7.0]


def test_size():
    n = sum(p.numel() for p in TensorRefiner(tensor_refiner.DEFAULT).parameters())
    assert n < 3e6
    assert tensor_refiner.DEFAULT.stride == 4


@pytest.mark.slow
def test_overfits_one_batch(overfit):
    torch.manual_seed(0)
    first, last = overfit(TensorRefiner(TINY))
    assert last < 0.1 * first
