"""Scores and mixing of D-RoPE against explicit rotation matrices, both conventions."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from einops import rearrange

from dmri_fm.encoders.drope.rotary import (
    find_weighted,
    pair_tables,
    qspace_distance,
    rotary_scores,
    rotary_tables,
)
from dmri_fm.encoders.drope.rotary_kernel import attend_directions

BASES = {"paired": 10000.0, "tiled": 0.3}


def draw(n, *, shells, seed=0, places=2, heads=2, dim=16):
    rng = np.random.default_rng(seed)
    rho = rng.choice(shells, n)
    theta, phi = np.arccos(rng.uniform(-1, 1, n)), rng.uniform(-np.pi, np.pi, n)
    qkv = torch.from_numpy(rng.standard_normal((3, 1, places, heads, n, dim)))
    return qkv, torch.from_numpy(np.stack([rho, theta, phi], axis=1))[None]


def explicit_scores(q, k, qspace, *, layout):
    """q^T R k / sqrt(d), with the matrix R of every pair of directions written out."""
    distance = qspace_distance(qspace, gamma=0.5)[0].numpy()
    d, n_directions = q.shape[-1], q.shape[-2]
    q, k = q[0].numpy(), k[0].numpy()
    out = np.zeros((*q.shape[:3], n_directions))
    for m in range(n_directions):
        for n in range(n_directions):
            matrix = np.zeros((d, d))
            for c in range(d):
                i = c // 2 if layout == "paired" else c % (d // 2)
                a = distance[m, n] * BASES[layout] ** (-2 * i / d)
                other = c + 1 if c % 2 == 0 else c - 1
                matrix[c, c] = math.cos(a)
                matrix[c, other] = -math.sin(a) if c % 2 == 0 else math.sin(a)
            out[:, :, m, n] = np.einsum("shc,ce,she->sh", q[:, :, m], matrix, k[:, :, n])
    return torch.from_numpy(out)[None] / math.sqrt(d)


@pytest.mark.parametrize("layout", BASES)
@pytest.mark.parametrize("shells", [(1.0,), (0.7, 1.0, 3.0)], ids=["one shell", "three shells"])
@pytest.mark.parametrize("n", [1, 2, 3, 12, 31, 64])
def test_all_forms_equal_explicit_rotations(n, shells, layout):
    (q, k, v), qspace = draw(n, shells=shells, seed=n)
    expected = explicit_scores(q, k, qspace, layout=layout)
    settings = {"gamma": 0.5, "base": BASES[layout], "layout": layout}
    joint = rotary_tables(qspace, 16, dtype=torch.float64, **settings)
    # Table entries are exact to 1e-6; 16 products of unit normals keep that order.
    torch.testing.assert_close(rotary_scores(q, k, joint), expected, atol=1e-5, rtol=0)
    halves = "... (i two) -> ... (two i)"
    cos, sin = (
        rearrange(t / 4.0, halves, two=2).numpy() for t in pair_tables(qspace[0], 16, **settings)
    )
    parts = torch.stack([*(rearrange(t, halves, two=2) for t in (q, k)), v])
    qkv = rearrange(parts, "three 1 s h t d -> s t three h d").float().numpy()
    mixed = torch.from_numpy(attend_directions(qkv, cos, sin))
    by_hand = rearrange(expected.softmax(-1) @ v, "1 s h t d -> s t h d")
    torch.testing.assert_close(mixed.double(), by_hand, atol=1e-5, rtol=0)


def test_tiled_score_by_hand():
    """Two axes at a right angle, one b-value: D = pi / 2. Four channels, base 0.3.

    a_0 = 1 and a_1 = 0.3^(-1/2) = 1.825742; channels have a_0, a_1, a_0, a_1. cos and sin of
    a_0 D are 0 and 1, of a_1 D -0.962771 and 0.270319. The turned key of k = (5, 6, 7, 8) is
    (-6, 6 * -0.962771 + 5 * 0.270319, -8, 8 * -0.962771 + 7 * 0.270319)
    = (-6, -4.425032, -8, -5.809936); its product with q = (1, 2, 3, 4) is -62.08981.
    """
    qspace = torch.tensor([[[1.0, 0.0, 0.0], [1.0, math.pi / 2, 0.0]]], dtype=torch.float64)
    tables = rotary_tables(qspace, 4, gamma=0.5, base=0.3, layout="tiled", dtype=torch.float64)
    q, k = (
        torch.tensor(x, dtype=torch.float64).expand(1, 1, 1, 2, 4)
        for x in ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0])
    )
    score = rotary_scores(q, k, tables)[0, 0, 0]
    assert score[0, 1].item() == pytest.approx(-62.08981 / 2, abs=1e-5)
    assert score[0, 0].item() == pytest.approx(70 / 2, abs=1e-5)


def test_tiled_is_no_rotation_and_paired_is():
    """At D = 2.1 the authors' operator leaves orthogonality by 0.13 (head of 128)."""
    qspace = torch.tensor([[1.0, 0.0, 0.0], [1.0 + 2.1 / math.sqrt(0.5), 0.0, 0.0]])
    for layout, expected in (("paired", 0.0), ("tiled", 0.13)):
        settings = {"gamma": 0.5, "base": BASES[layout], "layout": layout}
        cos, sin = (t[0, 1].double() for t in pair_tables(qspace, 128, **settings))
        matrix = torch.diag(cos)
        for c in range(0, 128, 2):
            matrix[c, c + 1], matrix[c + 1, c] = -sin[c], sin[c + 1]
        excess = (matrix @ matrix.T - torch.eye(128)).abs().max()
        assert excess.item() == pytest.approx(expected, abs=5e-3)


def test_kernel_shares_places_among_threads_and_passes_nan_on():
    (q, k, v), qspace = draw(6, shells=(1.0, 2.0), places=7)
    cos, sin = (t.numpy() for t in pair_tables(qspace[0], 16, gamma=0.5, base=1e4))
    qkv = rearrange(torch.stack([q, k, v]), "three 1 s h t d -> s t three h d").float().numpy()
    alone = attend_directions(qkv, cos, sin)
    with ThreadPoolExecutor(3) as pool:
        shared = attend_directions(qkv, cos, sin, pool=pool, n_threads=3)
    np.testing.assert_array_equal(shared, alone)
    qkv[2, 1, 0, 0, 3] = np.nan
    broken = attend_directions(qkv, cos, sin)
    assert np.isnan(broken[2, 1, 0]).all()
    np.testing.assert_array_equal(broken[3:], alone[3:])


def test_kernel_survives_large_scores():
    """Scores of thousands: the softmax is a maximum, nothing overflows."""
    (q, k, v), qspace = draw(5, shells=(1.0,))
    cos, sin = (t.numpy() for t in pair_tables(qspace[0], 16, gamma=0.5, base=1e4))
    qkv = rearrange(torch.stack([1e3 * q, k, v]), "three 1 s h t d -> s t three h d")
    mixed = attend_directions(qkv.float().numpy(), cos, sin)
    assert np.isfinite(mixed).all()
    assert np.abs(mixed).max() <= np.abs(v.numpy()).max() * (1 + 1e-6)


def test_b0_needs_no_direction():
    table = torch.tensor([[[0.0, float("nan"), float("nan")], [1.0, 0.5, 0.5]]])
    assert find_weighted(table).tolist() == [1]
