from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dmri_fm.encoders.artefact_unet.network import DEFAULT, ArtefactUnet

TINY = replace(
    DEFAULT, grid_shape=(16, 24, 16), voxel_size_mm=10.0, n_directions=8, widths=(2, 3, 4, 5)
)


@pytest.fixture(scope="module")
def network() -> ArtefactUnet:
    torch.manual_seed(0)
    return ArtefactUnet(TINY).eval()


def test_the_published_size() -> None:
    with torch.device("meta"):
        published = ArtefactUnet(DEFAULT)
    # About 2.07 million, says the publication's code.
    assert sum(p.numel() for p in published.parameters()) == 2_068_704


def test_shapes_and_gradients(network: ArtefactUnet) -> None:
    x = torch.rand(2, 8, 16, 24, 16)
    found = network(x)
    assert found.shape == x.shape
    assert network.encode(x).shape == (2, 5, 2, 3, 2)
    assert network.read_out(x).shape == (2, 2, 16, 24, 16)
    found.square().sum().backward()
    # Biases in front of a normalisation have a gradient of zero, not none.
    assert all(p.grad is not None for p in network.parameters())


def test_scans_of_a_batch_do_not_see_each_other(network: ArtefactUnet) -> None:
    x = torch.rand(2, 8, 16, 24, 16)
    torch.testing.assert_close(network(x)[:1], network(x[:1]), rtol=1e-4, atol=1e-5)


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        replace(DEFAULT, grid_shape=(80, 94, 80))
