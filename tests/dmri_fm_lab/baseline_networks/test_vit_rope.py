"""Vision transformer with 3-D rotary positions."""

import pytest
import torch

from dmri_fm_lab.baseline_networks.vit_rope import (
    VitRope,
    VitRopeConfig,
    rotary_angles,
    rotate,
)

SMALL = VitRopeConfig(n_channels=2, patch=(4, 4, 2), dim=24, depth=2, heads=2)


def score(q, k, at, to):
    """Return the scores of queries at some patches and keys at others."""
    turned = [
        rotate(x, rotary_angles(ijk, x.shape[-1], base=100.0)) for x, ijk in ((q, at), (k, to))
    ]
    return (turned[0] * turned[1]).sum(dim=-1)


def test_scores_depend_on_the_differences_of_positions_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 3, 5, 20, generator=generator).unbind(0)
    at, to = torch.randint(0, 12, (2, 5, 3), generator=generator).unbind(0)
    moved = torch.tensor([3, -2, 7])
    before = score(q, k, at, to)
    # Single precision, angles of up to 20 radians.
    torch.testing.assert_close(score(q, k, at + moved, to + moved), before, atol=1e-4, rtol=1e-4)
    for axis in torch.eye(3, dtype=torch.long):
        assert (score(q, k, at, to + axis) - before).abs().max() > 0.1, "every axis turns channels"


def test_angles_worked_out_by_hand():
    angles = rotary_angles(torch.tensor([[1, 2, 3]]), 14, base=100.0)
    # Two frequencies an axis, 1 and 1/10; the seventh pair does not turn.
    expected = torch.tensor([[1.0, 0.1, 2.0, 0.2, 3.0, 0.3, 0.0]])
    torch.testing.assert_close(angles, expected)
    x = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    quarter = torch.tensor([[torch.pi / 2]])
    torch.testing.assert_close(rotate(x, quarter)[0, 0, 0], torch.tensor([0.0, 1.0]))


def test_images_of_any_size_and_each_alone():
    torch.manual_seed(0)
    network = VitRope(SMALL).eval()
    images = torch.randn(3, 2, 9, 8, 5)
    together = network(images)
    assert together.shape == (3,)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(network(images.roll(4, 2)), together), "places matter"


def test_every_weight_has_a_gradient():
    network = VitRope(SMALL)
    network(torch.randn(2, 2, 8, 8, 4)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_the_published_size():
    with torch.device("meta"):
        network = VitRope(VitRopeConfig(n_channels=12))
    assert len(network.blocks) == 10
    assert network.cls_token.shape[-1] == 384


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="dim 20"):
        VitRopeConfig(n_channels=1, dim=20, heads=3)
