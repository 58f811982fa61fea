from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.ssdiff.blocks import brain_blocks
from dmri_fm.encoders.ssdiff.config import COMPACT, PAPER, SsdiffConfig
from dmri_fm.encoders.ssdiff.network import Ssdiff, SsdiffAutoencoder, position_code

#: Blocks of 16 and 32 mm.
TINY = replace(
    COMPACT,
    block=8,
    direction_block=16,
    dim=24,
    heads=2,
    encoder_blocks=2,
    decoder_blocks=1,
    position_dim=6,
)
AS_PUBLISHED = replace(TINY, direction_code="mean", reads_b0=True)


def draw_input(config: SsdiffConfig, n: int = 7, batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    v, w = (len(brain_blocks(config, side)) for side in (config.block, config.direction_block))
    directions = torch.randn(batch, n, w, 3, generator=generator)
    return (
        torch.rand(batch, n, v, generator=generator),
        directions / directions.norm(dim=-1, keepdim=True),
        1000.0 * torch.randint(1, 4, (batch, n), generator=generator),
    )


@pytest.fixture(params=[TINY, AS_PUBLISHED], ids=["dyadic", "published"])
def network(request: pytest.FixtureRequest) -> Ssdiff:
    torch.manual_seed(0)
    return Ssdiff(request.param).eval()


def test_shapes_and_gradients(network: Ssdiff) -> None:
    cls, tokens = network(*draw_input(network.config))
    assert cls.shape == (2, 24)
    assert tokens.shape == (2, 7, 24)
    (cls.sum() + (tokens * tokens).sum()).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_scans_of_a_batch_do_not_see_each_other(network: Ssdiff) -> None:
    signal, directions, bvals = draw_input(network.config)
    both = network(signal, directions, bvals)[0]
    alone = network(signal[:1], directions[:1], bvals[:1])[0]
    torch.testing.assert_close(both[:1], alone, rtol=1e-5, atol=1e-5)


def test_the_order_of_volumes_does_not_matter(network: Ssdiff) -> None:
    signal, directions, bvals = draw_input(network.config)
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    cls, tokens = network(signal, directions, bvals)
    again, turned = network(signal[:, order], directions[:, order], bvals[:, order])
    torch.testing.assert_close(again, cls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(turned, tokens[:, order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 40])
def test_the_number_of_volumes_is_free(network: Ssdiff, n: int) -> None:
    cls, tokens = network(*draw_input(network.config, n=n))
    assert tokens.shape == (2, n, 24)
    assert torch.isfinite(cls).all()


def test_a_scan_measured_twice_has_the_same_mean_token() -> None:
    # The class token counts once among twice as many tokens: the mean follows nearly.
    torch.manual_seed(0)
    network = Ssdiff(TINY).eval()
    signal, directions, bvals = draw_input(TINY, n=30, batch=1)
    network.requires_grad_(False)
    once = network(signal, directions, bvals)[1].mean(dim=1)
    doubled = (torch.cat([x, x], dim=1) for x in (signal, directions, bvals))
    apart = once - network(*doubled)[1].mean(dim=1)
    assert (apart.norm() / once.norm()).item() < 0.02


def test_a_vector_and_its_opposite_are_one_direction_but_as_published() -> None:
    for config, is_equal in ((TINY, True), (AS_PUBLISHED, False)):
        torch.manual_seed(0)
        network = Ssdiff(config).eval()
        signal, directions, bvals = draw_input(config)
        flipped = network(signal, -directions, bvals)[0]
        same = torch.allclose(flipped, network(signal, directions, bvals)[0], atol=1e-5)
        assert same is is_equal


def test_places_without_brain_count_as_the_mean_signal(network: Ssdiff) -> None:
    signal, directions, bvals = draw_input(network.config)
    gone, filled = signal.clone(), signal.clone()
    gone[..., 2] = float("nan")
    filled[..., 2] = network.config.signal_mean
    torch.testing.assert_close(
        network(gone, directions, bvals)[0], network(filled, directions, bvals)[0]
    )


def test_sizes() -> None:
    with torch.device("meta"):
        published, compact = SsdiffAutoencoder(PAPER), Ssdiff(COMPACT)
    n_voxels = len(brain_blocks(PAPER, 1))
    # 228,453 voxels in the publication, whose template is another one.
    assert n_voxels == 235_142
    sides = (COMPACT.block, COMPACT.direction_block)
    assert [len(brain_blocks(COMPACT, side)) for side in sides] == [29_779, 50]
    wide = n_voxels * 1536
    blocks = 13 * (4 * 1536**2 + 8 * 1536**2)
    count = sum(p.numel() for p in published.encoder.parameters())
    assert count == pytest.approx(2 * wide + blocks, rel=2e-3)
    assert sum(p.numel() for p in compact.parameters()) < 5.5e6


def test_dropout_masks_in_training_alone() -> None:
    torch.manual_seed(0)
    network = SsdiffAutoencoder(TINY)
    data = draw_input(TINY)
    assert not torch.equal(network(*data), network(*data))
    network.eval()
    torch.testing.assert_close(network(*data), network(*data))
    assert network(*data).shape == data[0].shape


def test_blocks_lie_where_the_brain_is() -> None:
    blocks = brain_blocks(TINY, 8)
    affine = blocks.affine(TINY.grid)
    centres = blocks.ijk @ affine[:3, :3].T + affine[:3, 3]
    assert np.abs(centres[:, 0].mean()) < 4.0
    assert -110 < centres[:, 1].min() < centres[:, 1].max() < 80
    x, y, z = np.indices(TINY.grid_shape)
    first = blocks.means((x + 10.0 * y + 100.0 * z)[None], np.ones(TINY.grid_shape, dtype=bool))
    i, j, k = (8 * blocks.ijk + 3.5).T
    np.testing.assert_allclose(first[0], i + 10 * j + 100 * k, rtol=1e-5)
    np.testing.assert_array_equal(blocks.image(first[0])[tuple(blocks.ijk.T)], first[0])


def test_means_ignore_what_lies_outside_the_mask() -> None:
    blocks = brain_blocks(TINY, 8)
    mask = np.zeros(TINY.grid_shape, dtype=bool)
    i, j, k = 8 * blocks.ijk[5]
    mask[i, j, k] = True
    volumes = np.full((2, *TINY.grid_shape), np.nan)
    volumes[:, i, j, k] = [3.0, 4.0]
    means = blocks.means(volumes, mask)
    assert means[:, 5].tolist() == [3.0, 4.0]
    assert np.isnan(np.delete(means, 5, axis=1)).all()


def test_positions_differ() -> None:
    code = position_code(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]), 4)
    assert code.shape == (3, 12)
    assert code[0].tolist() == [0, 0, 1, 1] * 3
    assert not np.allclose(code[1], code[2])


@pytest.mark.slow
def test_one_scan_can_be_learnt_by_heart() -> None:
    torch.manual_seed(0)
    network = SsdiffAutoencoder(replace(TINY, input_dropout=0.2))
    signal, directions, bvals = draw_input(TINY, batch=1)
    target = network.encoder.scale(signal)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(400):
        loss = ((network(signal, directions, bvals) - target) ** 2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.1 * float(target.var())
