from dataclasses import replace

import pytest
import torch

from dmri_fm.tensor_networks import qcg_dti
from dmri_fm.tensor_networks.qcg_dti import ABLATIONS, QcgDti, QcgDtiConfig

TINY = QcgDtiConfig(widths=(4, 6, 8), qcf_hidden=8)
VARIANTS = {name: replace(c, widths=TINY.widths, qcf_hidden=8) for name, c in ABLATIONS.items()}


def make(config, *, seed=0):
    """Build a network whose QCF has left its quiet initial state, in double precision."""
    torch.manual_seed(seed)
    model = QcgDti(config).double().eval()
    with torch.no_grad():
        for qcf in model.qcf:
            qcf.mlp[-1].weight.normal_(std=0.5)
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_shapes_gradients_and_mask(name, draw_inputs):
    torch.manual_seed(0)
    model = QcgDti(VARIANTS[name])
    out = model(draw_inputs(batch=2)).tensor
    assert out.shape == (2, 6, 8, 8, 8)
    assert not out[:, :, :2].any(), "zero outside the mask"
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_depends_on_order_and_sign(draw_inputs):
    model, inputs = make(TINY), draw_inputs(dtype=torch.float64)
    out = model(inputs).tensor
    order = torch.tensor([1, 0, 2, 3, 4, 5])
    shuffled = inputs._replace(ratios=inputs.ratios[:, order], q=inputs.q[:, order])
    assert (model(shuffled).tensor - out).abs().max() > 1e-4
    flipped = inputs._replace(q=inputs.q * torch.tensor([-1.0, -1, -1, 1]))
    assert (model(flipped).tensor - out).abs().max() > 1e-4
    with pytest.raises(ValueError, match="fuses 6"):
        model(draw_inputs(n=7, dtype=torch.float64))


@pytest.mark.parametrize("name", ["no-qcf", "baseline"])
def test_without_qcf_directions_do_not_matter(name, draw_inputs):
    model, inputs = make(VARIANTS[name]), draw_inputs(dtype=torch.float64)
    other = inputs._replace(q=inputs.q.roll(1, dims=1))
    torch.testing.assert_close(model(other).tensor, model(inputs).tensor)


@pytest.mark.parametrize("name", ["whole", "no-strategy"])
def test_scans_of_a_batch_are_independent(name, draw_inputs):
    model, inputs = make(VARIANTS[name]), draw_inputs(batch=3, dtype=torch.float64)
    both = model(inputs).tensor
    for i in range(3):
        alone = model(inputs.map(lambda t: t[i : i + 1])).tensor  # noqa: B023
        torch.testing.assert_close(alone, both[i : i + 1], atol=1e-10, rtol=0)


def test_ablations_have_about_as_many_parameters():
    counts = {n: sum(p.numel() for p in QcgDti(c).parameters()) for n, c in ABLATIONS.items()}
    assert abs(counts["no-mrd"] / counts["whole"] - 1) < 0.05
    assert max(counts.values()) / min(counts.values()) < 1.25


def test_paper_network_has_the_published_size(draw_inputs):
    torch.manual_seed(0)
    model = QcgDti(qcg_dti.PAPER)
    assert 19e6 < sum(p.numel() for p in model.parameters()) < 21e6
    assert qcg_dti.PAPER.stride == 8
    with torch.inference_mode():
        assert model(draw_inputs()).tensor.shape == (1, 6, 8, 8, 8)


def test_paper_network_costs_what_the_paper_says():
    """Table 4 has 488.3 for a block of 64^3; a block of 16^3 costs a 64th."""
    from torch.utils.flop_counter import FlopCounterMode

    model = QcgDti(qcg_dti.PAPER).to("meta")
    from dmri_fm.tensor_networks.inputs import TensorInputs

    shape = (16, 16, 16)
    with FlopCounterMode(display=False) as counter:
        model(
            TensorInputs(
                *(
                    torch.zeros(*size, device="meta")
                    for size in ((1, 1, *shape), (1, 6, *shape), (1, 6, 4), (1, 1, *shape))
                ),
                *(torch.zeros(*size, device="meta") for size in ((1,), (1,), (1, 3))),
            )
        )
    gmac = counter.get_total_flops() / 2e9 * 64
    assert gmac == pytest.approx(488.3, rel=0.01)


@pytest.mark.slow
def test_overfits_one_batch(overfit):
    torch.manual_seed(0)
    first, last = overfit(QcgDti(TINY))
    assert last < 0.1 * first
