from __future__ import annotations

import pytest
import torch

from dmri_fm.encoders.artefact_unet.network import PAPER, ArtefactUnet, UnetConfig
from tests.dmri_fm.encoders.artefact_unet.narrow import NARROW


@pytest.fixture(scope="module")
def network() -> ArtefactUnet:
    torch.manual_seed(0)
    return ArtefactUnet(NARROW).eval()


def test_the_published_size() -> None:
    with torch.device("meta"):
        published = ArtefactUnet(PAPER)

    def conv(n_in: int, n_out: int, kernel: int = 27) -> int:
        return n_out * (n_in * kernel + 1)

    # Three levels down, the bridge, three up (transposed convolution, skip, two convolutions).
    down = [(64, 16), (16, 32), (32, 64), (64, 128)]
    up = [(128, 64), (64, 32), (32, 16)]
    expected = sum(conv(a, b) + conv(b, b) for a, b in down) + conv(16, 64, 1)
    expected += sum(conv(a, a) + conv(a + b, b) + conv(b, b) for a, b in up)
    found = sum(p.numel() for p in published.parameters())
    # About 2.07 million, says the publication's code.
    assert found == expected == 2_068_704


def test_shapes_and_gradients(network: ArtefactUnet) -> None:
    x = torch.rand(2, 16, 16, 24, 16)
    found = network(x)
    assert found.shape == x.shape
    assert network.encode(x).shape == (2, 5, 2, 3, 2)
    found.square().sum().backward()
    # Biases in front of a normalisation have a gradient of zero, not none.
    assert all(p.grad is not None for p in network.parameters())


def test_a_task_has_an_output_of_its_own(network: ArtefactUnet) -> None:
    task = ArtefactUnet(NARROW, n_outputs=4)
    assert task(torch.rand(1, 16, 8, 8, 16)).shape == (1, 4, 8, 8, 16)
    names = {k for k, v in network.state_dict().items() if task.state_dict()[k].shape != v.shape}
    assert names == {"out.weight", "out.bias"}


def test_scans_of_a_batch_do_not_see_each_other(network: ArtefactUnet) -> None:
    x = torch.rand(2, 16, 16, 24, 16)
    # Single precision.
    torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-5)


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        UnetConfig(grid_shape=(80, 94, 80))


@pytest.mark.slow
def test_it_learns_one_batch_by_heart() -> None:
    torch.manual_seed(0)
    network = ArtefactUnet(UnetConfig(NARROW.grid_shape, 8.0, 16, (16, 16, 16, 16)))
    coarse = torch.rand(1, 16, 4, 4, 4)
    target = torch.nn.functional.interpolate(coarse, (16, 16, 16), mode="trilinear")
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(300):
        loss = (network(target) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.25 * float(target.var()), "far better than the mean"
