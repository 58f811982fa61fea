"""From patch tokens to features of the scan."""

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.pooling import direction_deviation, pool_tokens
from dmri_fm.gradients import GradientTable
from dmri_fm.qspace import to_qspace
from dmri_fm_lab.simulate import spread_directions

N_PATCHES, DIM = 400, 6


def draw_table(rng, *, n=12, bvals=(1000.0,)):
    """Spread directions, shells of equal size, in random order."""
    axes = np.concatenate([spread_directions(rng, n // len(bvals)) for _ in bvals])
    gtab = GradientTable(np.repeat(bvals, n // len(bvals)), axes)
    order = rng.permutation(n)
    return torch.from_numpy(to_qspace(gtab.select(order))).double()


def axes_of(qspace):
    theta, phi = qspace[:, 1], qspace[:, 2]
    return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=1)


def draw_tokens(rng, qspace, *, noise, signal=1.0):
    """Tokens with a mean, one quadratic form of b times direction a patch, and noise."""
    forms = torch.from_numpy(np.random.default_rng(1).normal(size=(N_PATCHES, DIM, 3, 3)))
    forms = forms - torch.eye(3) * forms.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    v = axes_of(qspace)
    varying = qspace[:, 0, None, None] * torch.einsum("ti,sdij,tj->tsd", v, forms, v)
    return 3.0 + signal * varying + noise * torch.from_numpy(rng.normal(size=varying.shape))


def test_means_come_first():
    rng = np.random.default_rng(0)
    qspace = draw_table(rng)
    tokens = draw_tokens(rng, qspace, noise=0.3)
    pooled = pool_tokens(tokens, qspace)
    assert pooled.shape == (2 * DIM,)
    torch.testing.assert_close(pooled[:DIM], tokens.mean(dim=(0, 1)))
    torch.testing.assert_close(pooled[DIM:], direction_deviation(tokens, qspace))


def test_deviation_by_hand():
    """One patch, one channel, no noise: x^2 of twelve axes, about its mean."""
    qspace = draw_table(np.random.default_rng(0))
    tokens = axes_of(qspace)[:, :1].square()[:, None]
    expected = tokens.std(dim=0, correction=0)[0]
    torch.testing.assert_close(direction_deviation(tokens, qspace), expected)


def test_what_differs_between_shells_is_no_deviation_over_directions():
    rng = np.random.default_rng(0)
    qspace = draw_table(rng, n=24, bvals=(1000.0, 2500.0))
    tokens = draw_tokens(rng, qspace, noise=0.0)
    shifted = tokens + 5.0 * (qspace[:, :1, None] > 2.0)
    expected = direction_deviation(tokens, qspace)
    torch.testing.assert_close(direction_deviation(shifted, qspace), expected)
    level = (3.0 + 2.0 * (qspace[:, :1, None] > 2.0)).expand(-1, N_PATCHES, DIM).double()
    assert direction_deviation(level, qspace).max() < 1e-6


def mean_squares(rng, *, n, noise, signal=1.0, repeats=24):
    """Mean of the squared deviation over tables and noise: unbiased, where its root is not."""
    squares = []
    for _ in range(repeats):
        qspace = draw_table(rng, n=n)
        found = direction_deviation(draw_tokens(rng, qspace, noise=noise, signal=signal), qspace)
        squares.append(found.square())
    return torch.stack(squares).mean(dim=0)


@pytest.fixture(scope="module")
def expected():
    return mean_squares(np.random.default_rng(1), n=60, noise=0.0, repeats=4)


@pytest.mark.parametrize("n", [8, 12, 30])
@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_expectation_depends_on_neither_noise_nor_number_of_directions(n, noise, expected):
    """The variance of noise is six times what directions explain."""
    assert 0.6 < expected.mean() < 0.7
    found = mean_squares(np.random.default_rng(0), n=n, noise=noise)
    # Tables of few directions sample the quadratic forms more or less well: some per cent. The
    # noise of 2 leaves some 5 % over 24 repeats of 400 patches with 8 directions.
    torch.testing.assert_close(found, expected, atol=0, rtol=0.1)


def test_noise_alone_is_little_deviation():
    """The plain deviation over directions would be 1."""
    rng = np.random.default_rng(0)
    for n in (8, 12, 30):
        qspace = draw_table(rng, n=n)
        found = direction_deviation(draw_tokens(rng, qspace, noise=1.0, signal=0.0), qspace)
        assert found.max() < 0.35


def test_antipodes_and_order_do_not_matter():
    rng = np.random.default_rng(0)
    qspace = draw_table(rng, n=16, bvals=(1000.0, 2000.0))
    tokens = draw_tokens(rng, qspace, noise=0.3)
    expected = pool_tokens(tokens, qspace)
    flipped = qspace.clone()
    flipped[::2, 1] = np.pi - flipped[::2, 1]
    flipped[::2, 2] += np.pi
    torch.testing.assert_close(pool_tokens(tokens, flipped), expected)
    t, s = torch.randperm(16), torch.randperm(N_PATCHES)
    torch.testing.assert_close(pool_tokens(tokens[t][:, s], qspace[t]), expected)


@pytest.mark.parametrize("n", [1, 6, 7])
def test_few_directions_leave_the_noise_unknown(n):
    """One shell and five harmonics: seven directions are the least."""
    rng = np.random.default_rng(0)
    qspace = draw_table(rng, n=n)
    tokens = draw_tokens(rng, qspace, noise=0.3)
    assert direction_deviation(tokens, qspace).isnan().all() == (n < 7)
    assert pool_tokens(tokens, qspace)[:DIM].isfinite().all()


def test_a_second_shell_takes_one_direction_more():
    rng = np.random.default_rng(0)
    for n, is_known in ((6, False), (8, True)):
        qspace = draw_table(rng, n=n, bvals=(1000.0, 2500.0))
        found = direction_deviation(draw_tokens(rng, qspace, noise=0.3), qspace)
        assert found.isfinite().all() == is_known
