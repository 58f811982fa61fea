from dataclasses import replace

import pytest
import torch

from dmri_fm.registry import MODELS, load_tensor_network
from dmri_fm.tensor_networks import blocks, qcg_dti
from dmri_fm.tensor_networks.inputs import fit_least_squares
from dmri_fm.tensor_networks.qcg_dti import ABLATIONS, DEFAULT, PAPER, QcgDti, window_means
from dmri_fm.weights import save_weights

SMALL = {"widths": (4, 6, 8), "qcf_hidden": 8, "pool_voxels": 16}
PUBLISHED = replace(PAPER, **SMALL)
FROM_FIT = replace(DEFAULT, **SMALL)
VARIANTS = {name: replace(c, **SMALL) for name, c in ABLATIONS.items()} | {"paper": PUBLISHED}


def make(config, *, seed=0):
    """Build a network whose QCF and head have left their quiet initial state, in float64."""
    torch.manual_seed(seed)
    model = QcgDti(config).double().eval()
    with torch.no_grad():
        model.head.weight.normal_(std=0.1)
        for qcf in model.qcf:
            qcf.mlp[-1].weight.normal_(std=0.5)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_gradients_and_mask(name, draw_inputs):
    torch.manual_seed(0)
    model = QcgDti(VARIANTS[name])
    estimate = model(draw_inputs(batch=2))
    assert estimate.tensor.shape == (2, 6, 8, 8, 8)
    assert not estimate.tensor[:, :, :2].any(), "zero outside the mask"
    assert (estimate.width is None) == (name == "paper")
    loss = estimate.tensor.square().mean()
    if estimate.width is not None:
        assert estimate.code is not None
        assert estimate.width.shape == (2, 2, 8, 8, 8)
        loss = loss + estimate.width.mean()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_an_untrained_network_gives_nearly_the_least_squares_tensor(draw_inputs):
    torch.manual_seed(0)
    inputs = draw_inputs()
    fitted = fit_least_squares(inputs.ratios, inputs.q) * inputs.mask
    found = QcgDti(FROM_FIT)(inputs).tensor
    assert 0 < (found - fitted).abs().mean() < 0.1 * fitted.abs().mean()


def shuffled_and_flipped(inputs):
    order = torch.tensor([1, 3, 2, 0, 5, 4])
    signs = torch.tensor([1.0, -1, 1, -1, -1, 1])[None, :, None]
    q = torch.cat([inputs.q[..., :3] * signs, inputs.q[..., 3:]], dim=-1)
    return inputs._replace(ratios=inputs.ratios[:, order], q=q[:, order])


def test_neither_order_nor_sign_matters_where_images_are_summed(draw_inputs):
    model, inputs = make(FROM_FIT), draw_inputs(dtype=torch.float64)
    torch.testing.assert_close(
        model(shuffled_and_flipped(inputs)), model(inputs), atol=1e-8, rtol=0
    )


def test_the_published_form_depends_on_order_and_sign(draw_inputs):
    model, inputs = make(PUBLISHED), draw_inputs(dtype=torch.float64)
    out = model(inputs).tensor
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    shuffled = inputs._replace(ratios=inputs.ratios[:, order], q=inputs.q[:, order])
    assert (model(shuffled).tensor - out).abs().max() > 1e-4
    flipped = inputs._replace(q=inputs.q * torch.tensor([-1.0, -1, -1, 1]))
    assert (model(flipped).tensor - out).abs().max() > 1e-4
    with pytest.raises(ValueError, match="fuses 6"):
        model(draw_inputs(n=7, dtype=torch.float64))


def test_qcf_tells_the_network_which_image_has_which_direction(draw_inputs):
    """Without it directions count through the least-squares tensor alone."""
    inputs = draw_inputs(dtype=torch.float64)
    other = inputs._replace(
        q=torch.cat([inputs.q[..., :3].roll(1, dims=1), inputs.q[..., 3:]], dim=-1)
    )

    def correction(model, some):
        return model(some).tensor - fit_least_squares(some.ratios, some.q) * some.mask

    for name, matters in (("whole", True), ("no-qcf", False)):
        config = VARIANTS[name]
        model = make(config)
        with torch.no_grad():
            # The finest level sees the least-squares tensor, too: not here.
            model.fusion[0].weight[:, config.widths[0] :] = 0.0
        change = (correction(model, other) - correction(model, inputs)).abs().max()
        assert (change > 1e-4) == matters, name


@pytest.mark.parametrize("name", ["paper", "whole", "no-strategy"])
def test_scans_of_a_batch_are_independent(name, draw_inputs):
    model, inputs = make(VARIANTS[name]), draw_inputs(batch=3, dtype=torch.float64)
    both = model(inputs).tensor
    for i in range(3):
        alone = model(inputs.map(lambda t: t[i : i + 1])).tensor  # noqa: B023
        torch.testing.assert_close(alone, both[i : i + 1], atol=1e-10, rtol=0)


def test_windows_by_hand():
    torch.manual_seed(0)
    features, mask = torch.rand(2, 3, 16, 8, 8), (torch.rand(2, 1, 16, 8, 8) > 0.3).float()
    found = window_means(features, mask, 8)
    assert found.shape == (2, 3, 9, 5, 5)
    # The window around the edge before voxel (6, 4, 2) ends at the border of the images.
    box = (..., slice(2, 10), slice(0, 8), slice(0, 6))
    inside = mask[box]
    expected = (features[box] * inside).sum(dim=(2, 3, 4)) / inside.sum(dim=(2, 3, 4))
    torch.testing.assert_close(found[..., 3, 2, 1], expected)
    assert not window_means(features, 0 * mask, 8).any()


@pytest.mark.parametrize("config", [FROM_FIT, PUBLISHED], ids=["from fit", "published"])
def test_a_voxel_s_tensor_does_not_depend_on_the_block(config, draw_inputs):
    """Beyond the reach of window and convolutions, whatever else the block holds."""
    config = replace(config, widths=(4, 6), pool_voxels=8)
    model = make(config).float()
    inputs = draw_inputs(side=96).map_images(lambda t: t[..., :8, :8])
    whole = model(inputs).tensor
    part = model(inputs.map_images(lambda t: t[..., 8:, :, :])).tensor
    apart = (part - whole[..., 8:, :, :]).abs().amax(dim=(0, 1, 3, 4))
    assert apart[:4].max() > 1e-4, "near the cut it must"
    assert apart[40:].max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("name", ["qcg-dti", "qcg-dti-paper"])
def test_blocks_of_a_scan_give_what_the_whole_gives(name, draw_inputs, monkeypatch, tmp_path):
    """Three levels reach farther than the margin; what is left is far below noise."""
    config = replace(FROM_FIT if name == "qcg-dti" else PUBLISHED, pool_voxels=16)
    torch.manual_seed(0)
    model = QcgDti(config).eval()
    monkeypatch.setitem(MODELS, name, MODELS[name]._replace(config=config))
    path = save_weights(tmp_path / "w.safetensors", model, name=name, version="0", training={})
    network = load_tensor_network(name, weights=path)
    inputs = draw_inputs(side=96).map_images(lambda t: t[..., :8, :8])
    whole = network.predict(inputs).tensor
    monkeypatch.setattr(blocks, "BLOCK_VOXELS", 64)
    parts = network.predict(inputs).tensor
    assert not torch.equal(parts, whole), "the scan was cut"
    assert (parts - whole).abs().max() < 5e-3


def test_ablations_have_about_as_many_parameters():
    counts = {n: sum(p.numel() for p in QcgDti(c).parameters()) for n, c in ABLATIONS.items()}
    assert max(counts.values()) <= 1e6
    assert abs(counts["no-mrd"] / counts["whole"] - 1) < 0.05
    assert max(counts.values()) / min(counts.values()) < 1.25


def test_sizes_of_the_networks(draw_inputs):
    torch.manual_seed(0)
    model = QcgDti(PAPER)
    assert 19e6 < sum(p.numel() for p in model.parameters()) < 21e6
    assert (PAPER.stride, PAPER.margin_voxels) == (16, 32)
    with torch.inference_mode():
        assert model(draw_inputs(side=16)).tensor.shape == (1, 6, 16, 16, 16)
    assert sum(p.numel() for p in QcgDti(DEFAULT).parameters()) < 3e6


def test_paper_network_costs_what_the_paper_says():
    """Table 4 has 488.3 for a block of 64^3; a block of 16^3 costs a 64th."""
    from torch.utils.flop_counter import FlopCounterMode

    from dmri_fm.tensor_networks.inputs import TensorInputs

    model = QcgDti(qcg_dti.PAPER)
    image = (1, 1, 16, 16, 16)
    sizes = (image, (1, 6, *image[2:]), (1, 6, 4), image, image, (1,), (1, 3))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(TensorInputs(*(torch.zeros(*size) for size in sizes)))
    gmac = counter.get_total_flops() / 2e9 * 64
    assert gmac == pytest.approx(488.3, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("config", [FROM_FIT, PUBLISHED], ids=["from fit", "published"])
def test_overfits_one_batch(overfit, config):
    torch.manual_seed(0)
    first, last = overfit(QcgDti(config))
    assert last < 0.1 * first
