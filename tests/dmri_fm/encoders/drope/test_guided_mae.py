"""The autoencoder that corrects plain estimates."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.guided_mae import (
    SMALL_MAE,
    GuidedAutoencoder,
    GuidedConfig,
    Window,
    restore_autoencoder,
    split_autoencoder,
)
from dmri_fm.encoders.drope.mae import draw_mask, masked_errors
from dmri_fm.errors import GradientError, WeightsError
from dmri_fm.registry import MODELS, load_weights
from dmri_fm.weights import save_weights

# Forty millimetres about the middle of a head, on the corner of the models' box.
ENCODER = DropeConfig(
    grid_shape=(96, 112, 96),
    voxel_size_mm=2.0,
    patch=(4, 4, 4),
    dim=24,
    depth=1,
    heads=2,
    n_cls=2,
    signal_mean=0.35,
    signal_std=0.2,
)
TINY = GuidedConfig(ENCODER, decoder_dim=24, decoder_depth=1, decoder_heads=2, refiner_channels=4)


def draw_inputs(*, n_directions=12, seed=0):
    """Return patches, qspace, positions and brain of a cube of 27 patches."""
    rng = np.random.default_rng(seed)
    cells = np.indices((3, 3, 3)).reshape(3, -1).T + np.array([11, 13, 11])
    positions = torch.from_numpy(cells * 4 + 1.5).float()
    brain = torch.from_numpy(rng.uniform(size=(27, 64)) < 0.9).float()
    patches = torch.from_numpy(rng.uniform(0.1, 0.9, (n_directions, 27, 64))).float() * brain
    angles = rng.uniform([1.0, 0.2, -3], [1.0, 3, 3], (n_directions, 3))
    return patches[None], torch.from_numpy(angles)[None], positions[None], brain[None]


def draw(kind, n_directions=12, seed=0):
    return draw_mask(
        np.random.default_rng(seed), TINY, kind=kind, n_directions=n_directions, n_places=27
    )


@pytest.fixture
def network():
    """Return a network whose corrections are not zero, as they are at the start."""
    torch.manual_seed(0)
    network = GuidedAutoencoder(TINY)
    for layer in (network.correction, network.refiner.last, network.refiner.modulation):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return network.eval()


@pytest.mark.parametrize("kind", ["spatial", "diffusion"])
def test_nothing_hidden_reaches_the_output(network, kind):
    patches, qspace, positions, brain = draw_inputs()
    mask = draw(kind)
    hidden = mask.hidden(12, 27)
    found = network(patches, qspace, positions, mask, brain)
    assert found.patches.shape == patches.shape
    other = torch.where(hidden[..., None], brain[:, None] * 0.123, patches)
    again = network(other, qspace, positions, mask, brain)
    torch.testing.assert_close(again.patches, found.patches, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["spatial", "diffusion"])
def test_an_untrained_network_gives_the_plain_estimate(kind):
    network = GuidedAutoencoder(TINY).eval()
    # Without what the convolutions take of smoothed and filled images from the start.
    torch.nn.init.zeros_(network.refiner.last.bias)
    patches, qspace, positions, brain = draw_inputs()
    mask = draw(kind)
    hidden = mask.hidden(12, 27)[0]
    with torch.no_grad():
        found = network.reconstruct(patches, qspace, positions, mask, brain)[0]
        first, _ = network._estimate(patches[0], qspace[0], positions[0], mask, brain[0])
    torch.testing.assert_close(found[hidden], first[hidden])
    torch.testing.assert_close(first[~hidden], patches[0][~hidden], atol=0, rtol=0)
    assert not torch.allclose(found[~hidden], patches[0][~hidden]), "visible ones are not copied"


@pytest.mark.parametrize("kind", ["spatial", "diffusion"])
def test_all_parameters_learn(network, kind):
    patches, qspace, positions, brain = draw_inputs()
    mask = draw(kind)
    hidden = mask.hidden(12, 27)
    found = network.train()(patches, qspace, positions, mask, brain)
    loss = sum(masked_errors(found.patches, patches, hidden, brain=brain))
    loss.backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    assert torch.isfinite(loss)


def test_half_precision_does_not_reach_the_plain_estimates(network):
    patches, qspace, positions, brain = draw_inputs()
    args = (patches, qspace, positions, draw("diffusion"), brain)
    with torch.no_grad():
        exact = network(*args).estimate
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = network(*args)
    torch.testing.assert_close(found.estimate, exact, atol=0, rtol=0)
    assert found.patches.isfinite().all()


def test_a_window_limits_the_convolutions(network):
    patches, qspace, positions, brain = draw_inputs()
    mask = draw("diffusion")
    hidden = mask.hidden(12, 27)[0].all(dim=1).nonzero()[:, 0].tolist()
    with torch.no_grad():
        whole = network(patches, qspace, positions, mask, brain).patches[0]
        none = network(
            patches, qspace, positions, mask, brain, window=Window([], (0, 0, 0), (0, 0, 0))
        ).patches[0]
        box = Window(hidden[:1], (11, 13, 11), (13, 15, 13))
        part = network(patches, qspace, positions, mask, brain, window=box).patches[0]
    inside = ((positions[0] - 1.5) / 4 - torch.tensor([11.0, 13, 11]) < 2).all(dim=1)
    changed = (part != none).any(dim=2)
    assert changed[hidden[0], inside].all()
    assert changed.sum() == inside.sum()
    assert (whole != none).any(dim=2)[hidden].all()
    assert not (whole != none)[[t for t in range(12) if t not in hidden]].any()


def test_the_order_and_the_signs_of_directions_do_not_matter(network):
    patches, qspace, positions, brain = draw_inputs()
    mask = draw("spatial")
    found = network(patches, qspace, positions, mask, brain).patches
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4, 11, 9, 10, 8])
    flipped = qspace[:, order].clone()
    flipped[..., 1], flipped[..., 2] = np.pi - flipped[..., 1], flipped[..., 2] + np.pi
    again = network(patches[:, order], flipped, positions, mask, brain).patches
    torch.testing.assert_close(again, found[:, order], atol=1e-4, rtol=0)


def test_few_visible_directions_are_left_to_the_plain_estimate(network):
    patches, qspace, positions, brain = draw_inputs(n_directions=10)
    with torch.no_grad():
        args = (patches, qspace, positions, draw("diffusion", n_directions=10), brain)
        coarse = network(*args, window=Window([], (0, 0, 0), (0, 0, 0)))
        torch.testing.assert_close(network(*args).patches, coarse.patches, atol=0, rtol=0)


def test_b0_is_refused(network):
    patches, qspace, positions, brain = draw_inputs()
    qspace[0, 2] = 0.0
    with pytest.raises(GradientError, match="b=0"):
        network(patches, qspace, positions, draw("diffusion"), brain)


def test_encoder_and_decoder_travel_together(network, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "drope", MODELS["drope"]._replace(config=ENCODER))
    path = tmp_path / "drope.safetensors"
    common = {"name": "drope", "version": "1", "training": {}}
    pretraining = split_autoencoder(network)
    save_weights(path, network.encoder, **common, pretraining=pretraining)
    back = restore_autoencoder(load_weights(path))
    patches, qspace, positions, brain = draw_inputs()
    mask = draw("diffusion")
    a = network.half().float().reconstruct(patches, qspace, positions, mask, brain)
    b = back.reconstruct(patches, qspace, positions, mask, brain)
    torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
    save_weights(path, network.encoder, **common)
    with pytest.raises(WeightsError, match="encoder alone"):
        restore_autoencoder(load_weights(path))
    wrong = replace(TINY, decoder_dim=48)
    save_weights(
        path,
        network.encoder,
        **common,
        pretraining=pretraining._replace(
            config=split_autoencoder(GuidedAutoencoder(wrong)).config
        ),
    )
    with pytest.raises(WeightsError, match="does not fit"):
        restore_autoencoder(load_weights(path))


def test_the_templates_tissue_lies_where_the_grid_says():
    tissue = GuidedAutoencoder(replace(TINY, encoder=ENCODER)).tissue
    assert tissue.shape == (24 * 28 * 24, 64, 2)
    # The middle of the right centrum semiovale (24, -16, 34) mm is white, the left putamen grey.
    for point, expected in (((24, -16, 34), 0), ((-26, 4, 2), 1)):
        voxel = (np.array(point) - np.array([-95.5, -129.5, -87.5])) / 2
        a, b, c = np.round(voxel).astype(int) // 4
        assert tissue[(a * 28 + b) * 24 + c].mean(dim=0).argmax() == expected


def test_the_shipped_size():
    n = sum(p.numel() for p in GuidedAutoencoder(SMALL_MAE).parameters())
    assert n < 10_000_000
