"""From patch tokens to features of the scan."""

import torch

from dmri_fm.encoders.drope.pooling import ScanReadout, pool_tokens


def test_pooled_tokens_by_hand():
    # Two directions, two places, one channel.
    tokens = torch.tensor([[[[1.0], [2.0]], [[3.0], [8.0]]]])
    torch.testing.assert_close(pool_tokens(tokens), torch.tensor([[3.5, 2.0]]))
    one = pool_tokens(tokens[:, :1])
    torch.testing.assert_close(one, torch.tensor([[1.5, 0.0]]))


def test_order_does_not_matter():
    tokens = torch.rand(2, 5, 7, 3)
    torch.testing.assert_close(pool_tokens(tokens), pool_tokens(tokens.flip(1).flip(2)))


def test_a_new_readout_changes_nothing():
    tokens = torch.rand(2, 5, 7, 3)
    torch.testing.assert_close(ScanReadout(3)(tokens), pool_tokens(tokens))


def test_fitted_readout_finds_what_measurements_share():
    torch.manual_seed(0)
    readout = ScanReadout(4)
    mixing = torch.linalg.qr(torch.randn(8, 8))[0]
    # Three of eight hidden quantities are the tissue's, the others noise.
    tissue = torch.cat([torch.randn(400, 3), torch.zeros(400, 5)], dim=1)
    first, second = ((tissue + 0.7 * torch.randn(400, 8)) @ mixing + 5.0 for _ in range(2))
    readout.fit(first, second)
    true = tissue @ mixing + 5.0
    new = (tissue + 0.7 * torch.randn(400, 8)) @ mixing + 5.0
    found = new @ readout.weight.T + readout.bias
    assert (found - true).square().mean() < 0.5 * (new - true).square().mean()
    gains = torch.linalg.eigvals(readout.weight).real.sort().values
    assert gains[:5].abs().max() < 0.15, "noise alone"
    assert gains[5:].min() > 0.5, "the tissue's"
    assert gains.max() < 0.85
    assert readout.is_fitted
    assert not ScanReadout(4).is_fitted
