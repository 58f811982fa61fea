import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import nn

from dmri_fm.encoders.drope.block import DropeBlock
from dmri_fm.encoders.drope.config import ABLATION, PAPER, SMALL, DropeConfig
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.rotary import (
    qspace_directions,
    qspace_distance,
    rotary_scores,
    rotary_tables,
)
from dmri_fm.encoders.patches import patchify, unpatchify
from dmri_fm.layers import dyadic_code, sincos_positions

TINY = DropeConfig(
    grid_shape=(8, 8, 8),
    voxel_size_mm=2.0,
    patch=(4, 4, 4),
    dim=24,
    depth=2,
    heads=2,
)


def draw_qspace(n, *, seed=0, batch=1):
    rng = np.random.default_rng(seed)
    rho = rng.uniform(0.4, 3.0, (batch, n, 1))
    theta = np.arccos(rng.uniform(-1, 1, (batch, n, 1)))
    phi = rng.uniform(-np.pi, np.pi, (batch, n, 1))
    return torch.from_numpy(np.concatenate([rho, theta, phi], axis=2))


def draw_inputs(config=TINY, *, n_directions=5, n_patches=6, batch=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n_voxels = math.prod(config.patch)
    patches = torch.rand(batch, n_directions, n_patches, n_voxels, generator=generator)
    positions = torch.rand(batch, n_patches, 3, generator=generator) * 8
    return patches, draw_qspace(n_directions, seed=seed, batch=batch), positions


def make(config=TINY, *, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return Drope(config).to(dtype).eval()


def materialised_scores(q, k, qspace, *, gamma, base):
    """Build the rotation matrix of every pair, slowly: score = q^T R k / sqrt(d)."""
    distance = qspace_distance(qspace, gamma=gamma)
    d = q.shape[-1]
    out = torch.zeros(*q.shape[:4], k.shape[3], dtype=torch.float64)
    for b in range(q.shape[0]):
        for m in range(q.shape[3]):
            for n in range(k.shape[3]):
                rotation = torch.zeros(d, d, dtype=torch.float64)
                for i in range(d // 2):
                    a = float(distance[b, m, n]) * base ** (-2 * i / d)
                    rotation[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor(
                        [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]
                    )
                row = torch.einsum(
                    "shi,ij,shj->sh", q[b, :, :, m].double(), rotation, k[b, :, :, n].double()
                )
                out[b, :, :, m, n] = row / math.sqrt(d)
    return out


def test_distance_by_hand():
    # z and x axes are 90 degrees apart; b 1000 and 3000: sqrt(0.5 * 4 + (pi/2)^2).
    rows = [[1.0, 0.0, 0.0], [3.0, math.pi / 2, 0.0], [1.0, math.pi, 0.0]]
    qspace = torch.tensor([rows], dtype=torch.float64)
    distance = qspace_distance(qspace, gamma=0.5)[0]
    assert distance[0, 1] == pytest.approx(math.sqrt(2 + (math.pi / 2) ** 2), abs=1e-12)
    assert distance[0, 2] == pytest.approx(0.0, abs=1e-12), "z and -z are one axis"


def test_distance_is_a_symmetric_antipodal_zero_diagonal():
    qspace = draw_qspace(40)
    distance = qspace_distance(qspace, gamma=0.5)
    torch.testing.assert_close(distance, distance.transpose(-1, -2), atol=1e-14, rtol=0)
    # arccos would leave up to 5e-4 here; 1e-7 is far below any frequency's reach.
    assert distance.diagonal(dim1=-2, dim2=-1).abs().max() < 1e-7
    flipped = qspace.clone()
    flipped[..., 1] = math.pi - flipped[..., 1]
    flipped[..., 2] = flipped[..., 2] + math.pi
    torch.testing.assert_close(
        qspace_directions(flipped), -qspace_directions(qspace), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(qspace_distance(flipped, gamma=0.5), distance, atol=1e-9, rtol=0)


def test_score_sign_by_hand():
    """One pair of channels at 90 degrees: D = pi / 2, a_1 = 1, so cos = 0 and sin = 1.

    R = [[0, -1], [1, 0]]; q = (1, 2), k = (3, 5): R k = (-5, 3), q^T R k = -5 + 6 = 1, which is
    q2 k1 - q1 k2 = 2 * 3 - 1 * 5. The opposite sign would give -1.
    """
    qspace = torch.tensor([[[1.0, 0.0, 0.0], [1.0, math.pi / 2, 0.0]]])
    tables = rotary_tables(qspace, 2, gamma=0.5, base=10000.0, dtype=torch.float64)
    q = torch.tensor([1.0, 2.0], dtype=torch.float64).expand(1, 1, 1, 2, 2)
    k = torch.tensor([3.0, 5.0], dtype=torch.float64).expand(1, 1, 1, 2, 2)
    scores = rotary_scores(q, k, tables)[0, 0, 0] * math.sqrt(2)
    assert scores[0, 1].item() == pytest.approx(1.0, abs=1e-6)
    assert scores[1, 0].item() == pytest.approx(1.0, abs=1e-6), "D is symmetric"
    assert scores[0, 0].item() == pytest.approx(13.0, abs=1e-6), "no rotation on the diagonal"


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_scores_equal_materialised_rotations(n):
    torch.manual_seed(n)
    q, k = torch.randn(2, 2, 3, 2, n, 16, dtype=torch.float64)
    qspace = draw_qspace(n, seed=n, batch=2)
    tables = rotary_tables(qspace, 16, gamma=0.5, base=10000.0, dtype=torch.float64)
    expected = materialised_scores(q, k, qspace, gamma=0.5, base=10000.0)
    # Table entries are exact to 1e-6; 16 products of unit normals keep that order.
    torch.testing.assert_close(rotary_scores(q, k, tables), expected, atol=1e-5, rtol=0)


def test_tables_have_small_rank_for_many_directions():
    tables = rotary_tables(draw_qspace(90), 128, gamma=0.5, base=10000.0)
    assert tables.pair.shape[1] <= 16


@pytest.mark.parametrize("n_directions", [1, 5])
def test_shapes_and_gradients(n_directions):
    model = make(dtype=torch.float32)
    patches, qspace, positions = draw_inputs(n_directions=n_directions)
    cls, tokens = model(patches, qspace, positions)
    assert cls.shape == (1, 24)
    assert tokens.shape == (1, n_directions, 6, 24)
    (cls.square().mean() + tokens.square().mean()).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # The softmax over a single direction is constant: nothing reaches its q and k.
    assert not missing


def test_order_of_directions_does_not_matter():
    model = make()
    patches, qspace, positions = (t.double() for t in draw_inputs(n_directions=7))
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    cls, tokens = model(patches, qspace, positions)
    cls2, tokens2 = model(patches[:, order], qspace[:, order], positions)
    # The low-rank tables of another order differ by their tolerance, 1e-6.
    torch.testing.assert_close(cls2, cls, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens2, tokens[:, order], atol=1e-5, rtol=0)


def test_antipodes_do_not_matter():
    model = make()
    patches, qspace, positions = (t.double() for t in draw_inputs())
    flipped = qspace.clone()
    flipped[:, ::2, 1] = math.pi - flipped[:, ::2, 1]
    flipped[:, ::2, 2] += math.pi
    cls, _ = model(patches, qspace, positions)
    cls2, _ = model(patches, flipped, positions)
    torch.testing.assert_close(cls2, cls, atol=1e-5, rtol=0)


def test_spherical_code_of_the_paper_is_not_antipodal():
    model = make(replace(TINY, direction_code="spherical"))
    patches, qspace, positions = (t.double() for t in draw_inputs())
    flipped = qspace.clone()
    flipped[:, ::2, 1] = math.pi - flipped[:, ::2, 1]
    flipped[:, ::2, 2] += math.pi
    cls, cls2 = model(patches, qspace, positions)[0], model(patches, flipped, positions)[0]
    assert (cls - cls2).abs().max() > 1e-3


def test_order_of_patch_positions_does_not_matter():
    model = make()
    patches, qspace, positions = (t.double() for t in draw_inputs())
    order = torch.tensor([5, 1, 0, 4, 2, 3])
    cls, tokens = model(patches, qspace, positions)
    cls2, tokens2 = model(patches[:, :, order], qspace, positions[:, order])
    torch.testing.assert_close(cls2, cls, atol=1e-9, rtol=0)
    torch.testing.assert_close(tokens2, tokens[:, :, order], atol=1e-9, rtol=0)


def test_scans_of_a_batch_are_independent():
    model = make()
    patches, qspace, positions = (t.double() for t in draw_inputs(batch=3))
    cls, tokens = model(patches, qspace, positions)
    for i in range(3):
        one = slice(i, i + 1)
        cls1, tokens1 = model(patches[one], qspace[one], positions[one])
        # The rank of the tables is chosen over the batch, within their tolerance of 1e-6.
        torch.testing.assert_close(cls1, cls[one], atol=1e-5, rtol=0)
        torch.testing.assert_close(tokens1, tokens[one], atol=1e-5, rtol=0)


def test_signal_and_direction_do_matter():
    model = make()
    patches, qspace, positions = (t.double() for t in draw_inputs())
    cls, _ = model(patches, qspace, positions)
    for changed in (
        (patches.roll(1, dims=1), qspace, positions),
        (patches, qspace, positions.roll(1, dims=1)),
        (patches.roll(1, dims=2), qspace, positions),
    ):
        assert (model(*changed)[0] - cls).abs().max() > 1e-4


def test_block_by_hand():
    """With its attention out-projections at zero, a block is its MLPs alone."""
    torch.manual_seed(0)
    block = DropeBlock(24, 2, 4).double()
    for attention in (block.attn_diffusion, block.attn_space):
        nn.init.zeros_(attention.out_proj.weight)
        nn.init.zeros_(attention.out_proj.bias)
    cls, x = torch.randn(1, 1, 24).double(), torch.randn(1, 3, 4, 24).double()
    tables = rotary_tables(draw_qspace(3), 12, gamma=0.5, base=1e4, dtype=torch.float64)
    new_cls, new_x = block(cls, x, tables)
    y = x + block.mlp_diffusion(block.norm2_diffusion(x))
    torch.testing.assert_close(new_x, y + block.mlp_space(block.norm2_space(y)))
    torch.testing.assert_close(new_cls, cls + block.mlp_space(block.norm2_space(cls)))


def test_patchify_round_trip_and_order():
    volumes = torch.arange(2 * 8 * 8 * 4, dtype=torch.float32).reshape(1, 2, 8, 8, 4)
    patches = patchify(volumes, (4, 4, 2))
    assert patches.shape == (1, 2, 8, 32)
    torch.testing.assert_close(unpatchify(patches, (4, 4, 2), (2, 2, 2)), volumes)
    torch.testing.assert_close(
        patches[0, 1, 3], rearrange(volumes[0, 1, :4, 4:, 2:], "x y z -> (x y z)")
    )


def test_sincos_by_hand():
    code = sincos_positions(torch.tensor([[2.0, 0.0, 5.0]]), 12)[0]
    # Four numbers an axis: sin, sin, cos, cos at frequencies 1 and 10000^(-1/2) = 0.01.
    expected = [math.sin(2), math.sin(0.02), math.cos(2), math.cos(0.02), 0, 0, 1, 1]
    expected += [math.sin(5), math.sin(0.05), math.cos(5), math.cos(0.05)]
    np.testing.assert_allclose(code.numpy(), expected, atol=1e-6)
    with pytest.raises(ValueError, match="multiple of 6"):
        sincos_positions(torch.zeros(1, 3), 8)


def test_dyadic_code_is_antipodal_and_of_unit_norm():
    v = qspace_directions(draw_qspace(20))
    torch.testing.assert_close(dyadic_code(v), dyadic_code(-v))
    torch.testing.assert_close(dyadic_code(v).norm(dim=-1), torch.ones(1, 20).double())


def test_configurations():
    n_small = sum(p.numel() for p in Drope(SMALL).parameters())
    assert 8e6 < n_small <= 10_000_000
    assert SMALL.patch_grid == (12, 14, 24)
    assert sum(p.numel() for p in Drope(ABLATION).parameters()) <= 1_000_000
    with torch.device("meta"):
        paper = Drope(PAPER)
    n_paper = sum(p.numel() for p in paper.parameters())
    assert 34e6 < n_paper < 36.5e6
    assert PAPER.patch_grid == (24, 28, 48)
    with pytest.raises(ValueError, match="do not tile"):
        replace(TINY, patch=(3, 4, 4))
    with pytest.raises(ValueError, match="multiple of 12"):
        replace(TINY, dim=20)


def test_paper_configuration_runs_on_a_few_patches():
    model = make(replace(PAPER, depth=1), dtype=torch.float32)
    patches, qspace, positions = draw_inputs(PAPER, n_directions=3, n_patches=4)
    with torch.inference_mode():
        cls, tokens = model(patches, qspace, positions)
    assert cls.shape == (1, 384)
    assert tokens.shape == (1, 3, 4, 384)
