from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from dmri_fm.models import qcg_dti
from dmri_fm.models.qcg_dti import QcgDti, QcgDtiConfig, estimate_noise, fit_least_squares
from dmri_fm.simulate import SKARE_DIRECTIONS

TINY = replace(qcg_dti.SMALL, widths=(4, 6, 8), qcf_hidden=8)
TINY_PAPER = QcgDtiConfig(widths=(4, 6, 8), qcf_hidden=8)


def draw_inputs(*, n=6, side=8, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (side, side, side)
    s0 = 0.5 + torch.rand(batch, 1, *shape, generator=generator)
    ratios = 0.1 + 0.8 * torch.rand(batch, n, *shape, generator=generator)
    g = functional.normalize(torch.randn(batch, n, 3, generator=generator), dim=-1)
    g[0, :6] = torch.tensor(SKARE_DIRECTIONS.tolist())
    q = torch.cat([g, 1.0 + torch.rand(batch, n, 1, generator=generator)], dim=-1)
    mask = torch.ones(batch, 1, *shape)
    mask[:, :, :2] = 0.0
    return s0, ratios, q, mask


def make(config, *, seed=0):
    """Build a network whose output layer and QCF have left their quiet initial state."""
    torch.manual_seed(seed)
    model = QcgDti(config).double().eval()
    with torch.no_grad():
        model.head.weight.normal_(std=0.1)
        for qcf in model.qcf:
            qcf.mlp[-1].weight.normal_(std=0.5)
    return model


@pytest.mark.parametrize("config", [TINY, TINY_PAPER], ids=["small", "paper"])
def test_shapes_gradients_and_mask(config):
    torch.manual_seed(0)
    model = QcgDti(config)
    s0, ratios, q, mask = draw_inputs(batch=2)
    out = model(s0, ratios, q, mask)
    assert out.shape == (2, 6, 8, 8, 8)
    assert not out[:, :, :2].any(), "zero outside the mask"
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("n", [6, 9])
def test_small_network_ignores_order_sign_and_takes_any_number(n):
    model = make(TINY)
    s0, ratios, q, mask = (t.double() for t in draw_inputs(n=n))
    out = model(s0, ratios, q, mask)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    shuffled = model(s0, ratios[:, order], q[:, order], mask)
    torch.testing.assert_close(shuffled, out, atol=1e-10, rtol=0)
    flipped = q.clone()
    flipped[:, ::2, :3] *= -1
    torch.testing.assert_close(model(s0, ratios, flipped, mask), out, atol=1e-10, rtol=0)


def test_paper_network_depends_on_order_and_sign():
    model = make(TINY_PAPER)
    s0, ratios, q, mask = (t.double() for t in draw_inputs())
    out = model(s0, ratios, q, mask)
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    assert (model(s0, ratios[:, order], q[:, order], mask) - out).abs().max() > 1e-4
    flipped = q.clone()
    flipped[..., :3] *= -1
    assert (model(s0, ratios, flipped, mask) - out).abs().max() > 1e-4
    with pytest.raises(ValueError, match="fuses 6"):
        model(s0, ratios[:, :5], q[:, :5], mask)


@pytest.mark.parametrize("config", [TINY, TINY_PAPER], ids=["small", "paper"])
def test_scans_of_a_batch_are_independent(config):
    model = make(config)
    inputs = [t.double() for t in draw_inputs(batch=3)]
    both = model(*inputs)
    for i in range(3):
        alone = model(*(t[i : i + 1] for t in inputs))
        torch.testing.assert_close(alone, both[i : i + 1], atol=1e-10, rtol=0)


def test_small_network_does_not_see_beyond_the_mask():
    model = make(TINY)
    s0, ratios, q, mask = (t.double() for t in draw_inputs())
    noisy = ratios + 0.3 * (1 - mask)
    torch.testing.assert_close(model(s0, noisy, q, mask), model(s0, ratios, q, mask))


def test_small_network_commutes_with_shifts_by_its_stride():
    """No global pooling: away from borders, a shifted scan gives the shifted tensors."""
    model = make(replace(TINY, widths=(2, 2))).float()
    s0, ratios, q, mask = draw_inputs(side=72, seed=3)
    mask = torch.zeros_like(mask)
    # The network reaches about 30 voxels: from here no border is seen.
    mask[..., 32:38, 32:38, 32:38] = 1.0
    noise = torch.tensor([0.05])
    out = model(s0, ratios, q, mask, noise)
    step = model.config.stride
    moved = [t.roll((step, step, step), dims=(2, 3, 4)) for t in (s0, ratios, mask)]
    shifted = model(moved[0], moved[1], q, moved[2], noise)
    expected = out.roll((step, step, step), dims=(2, 3, 4))
    # Single precision; a shift by one voxel would differ by about one.
    torch.testing.assert_close(shifted, expected, atol=1e-4, rtol=0)


def test_conditioning_matters():
    model = make(TINY)
    s0, ratios, q, mask = (t.double() for t in draw_inputs())
    out = model(s0, ratios, q, mask)
    # Directions and images that no longer belong together.
    assert (model(s0, ratios, q.roll(1, dims=1), mask) - out).abs().max() > 1e-3


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
    i, j = np.triu_indices(3)
    np.testing.assert_allclose(found, tensors[:, i, j], atol=1e-9)


def test_untrained_small_network_is_least_squares():
    torch.manual_seed(0)
    model = QcgDti(TINY)
    torch.nn.init.zeros_(model.head.weight)
    s0, ratios, q, mask = draw_inputs()
    expected = fit_least_squares(ratios, q) * mask
    torch.testing.assert_close(model(s0, ratios, q, mask), expected, atol=1e-6, rtol=0)


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


def test_configurations():
    n_small = sum(p.numel() for p in QcgDti(qcg_dti.SMALL).parameters())
    assert 3e5 < n_small < 6e5
    with torch.device("meta"):
        paper = QcgDti(qcg_dti.PAPER)
    assert 19e6 < sum(p.numel() for p in paper.parameters()) < 21e6
    assert qcg_dti.PAPER.stride == 8
    assert qcg_dti.SMALL.stride == 4


def test_paper_network_runs():
    torch.manual_seed(0)
    model = QcgDti(qcg_dti.PAPER)
    with torch.inference_mode():
        assert model(*draw_inputs(side=8)).shape == (1, 6, 8, 8, 8)


@pytest.mark.slow
def test_overfits_one_batch():
    torch.manual_seed(0)
    model = QcgDti(TINY)
    s0, ratios, q, mask = draw_inputs()
    truth = torch.rand(1, 6, 8, 8, 8, generator=torch.Generator().manual_seed(5)) * mask
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(600):
        loss = (model(s0, ratios, q, mask) - truth).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
