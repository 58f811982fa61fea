import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope import mae
from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.mae import (
    MaeConfig,
    Mask,
    MaskedAutoencoder,
    draw_mask,
    masked_errors,
    ramp_tau,
)
from dmri_fm.errors import GradientError

ENCODER = DropeConfig(
    grid_shape=(8, 8, 8), voxel_size_mm=2.0, patch=(4, 4, 4), dim=24, depth=1, heads=2, n_cls=2
)
TINY = MaeConfig(ENCODER, decoder_dim=24, decoder_depth=1, decoder_heads=2)


def draw_inputs(*, n_directions=6, n_places=8, batch=1, seed=0):
    rng = np.random.default_rng(seed)
    patches = torch.from_numpy(rng.uniform(size=(batch, n_directions, n_places, 64))).float()
    angles = rng.uniform([0.5, 0, -3], [3, 3, 3], (batch, n_directions, 3))
    centres = np.indices((2, 2, 2)).reshape(3, -1).T[:n_places] * 4 + 1.5
    positions = torch.from_numpy(np.broadcast_to(centres, (batch, n_places, 3)).copy()).float()
    return patches, torch.from_numpy(angles), positions


@pytest.mark.parametrize("kind", ["spatial", "diffusion"])
def test_shapes_gradients_and_blindness(kind):
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY)
    patches, qspace, positions = draw_inputs()
    mask = draw_mask(np.random.default_rng(0), TINY, kind=kind, n_directions=6, n_places=8)
    hidden = mask.hidden(6, 8)
    out = model(patches, qspace, positions, mask)
    assert out.shape == patches.shape
    loss = sum(masked_errors(out, patches, hidden, brain=torch.ones(1, 8, 64)))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    # Nothing of a hidden patch may reach the output.
    changed = torch.where(hidden[..., None], patches + 5.0, patches)
    torch.testing.assert_close(model(changed, qspace, positions, mask), out, atol=0, rtol=0)


def test_masks_hide_the_share_asked_for():
    rng = np.random.default_rng(0)
    spatial = draw_mask(rng, TINY, kind="spatial", n_directions=6, n_places=40, batch=3)
    flags = spatial.hidden(6, 40)
    assert flags.shape == (3, 6, 40)
    assert (flags == flags[:, :1]).all(), "one spatial mask for all directions"
    assert flags[:, 0].float().mean().item() == pytest.approx(0.75)
    assert not (flags[0] == flags[1]).all()
    diffusion = draw_mask(rng, TINY, kind="diffusion", n_directions=6, n_places=40).hidden(6, 40)
    assert (diffusion == diffusion[..., :1]).all()
    assert diffusion.float().mean().item() == pytest.approx(0.5)
    one = draw_mask(rng, TINY, kind="diffusion", n_directions=1, n_places=40)
    assert one.kept.shape == (1, 1), "something stays visible"


def test_scans_of_a_batch_are_independent():
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY).double().eval()
    patches, qspace, positions = (t.double() for t in draw_inputs(batch=2))
    rng = np.random.default_rng(0)
    mask = draw_mask(rng, TINY, kind="spatial", n_directions=6, n_places=8, batch=2)
    both = model(patches, qspace, positions, mask)
    for i in range(2):
        one = slice(i, i + 1)
        alone = model(patches[one], qspace[one], positions[one], Mask("spatial", mask.kept[one]))
        torch.testing.assert_close(alone, both[one], atol=1e-5, rtol=0)


def test_b0_volumes_are_refused():
    model = MaskedAutoencoder(TINY)
    patches, qspace, positions = draw_inputs()
    qspace[:, 2] = 0.0
    mask = draw_mask(np.random.default_rng(0), TINY, kind="spatial", n_directions=6, n_places=8)
    with pytest.raises(GradientError, match="b=0"):
        model(patches, qspace, positions, mask)


def test_conventions_of_the_authors_reach_the_decoder():
    """Same parameters, other frequencies: another reconstruction, with the encoder left out."""
    patches, qspace, positions = draw_inputs()
    mask = draw_mask(np.random.default_rng(0), TINY, kind="spatial", n_directions=6, n_places=8)
    results = []
    for layout in ("paired", "tiled"):
        torch.manual_seed(0)
        model = MaskedAutoencoder(replace(TINY, encoder=replace(ENCODER, rotary=layout)))
        with torch.no_grad():
            model.encoder.ln.weight.zero_()
        results.append(model(patches, qspace, positions, mask))
    assert (results[0] - results[1]).abs().max() > 1e-6


def test_convolutional_decoder_runs_on_whole_grids():
    config = MaeConfig(
        replace(ENCODER, is_packed=False),
        decoder_dim=24,
        decoder_depth=1,
        decoder_heads=2,
        conv_channels=2,
    )
    model = MaskedAutoencoder(config)
    patches, qspace, positions = draw_inputs()
    mask = draw_mask(np.random.default_rng(0), config, kind="spatial", n_directions=6, n_places=8)
    assert model(patches, qspace, positions, mask).shape == patches.shape
    with pytest.raises(ValueError, match="whole volumes"):
        MaeConfig(ENCODER, conv_channels=2)


def test_errors_by_hand():
    target = torch.zeros(1, 1, 2, 2)
    reconstruction = torch.tensor([[[[1.0, 3.0], [2.0, 4.0]]]])
    hidden = torch.tensor([[[False, True]]])
    brain = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    visible, masked = masked_errors(reconstruction, target, hidden, brain=brain)
    assert visible.item() == 1.0, "the voxel of 3 lies outside the brain"
    assert masked.item() == (4 + 16) / 2


def test_ramp():
    assert [ramp_tau(x) for x in (-1, 0, 0.5, 1, 2)] == pytest.approx(
        [0.05, 0.05, 0.5, 0.95, 0.95]
    )


def test_published_configuration():
    with torch.device("meta"):
        model = MaskedAutoencoder(mae.PAPER_MAE)
    assert 40e6 < sum(p.numel() for p in model.parameters()) < 43e6
    assert math.prod(mae.PAPER_MAE.encoder.patch_grid) == 24 * 28 * 48


@pytest.mark.slow
def test_overfits_one_batch():
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY)
    patches, qspace, positions = draw_inputs()
    mask = draw_mask(np.random.default_rng(0), TINY, kind="spatial", n_directions=6, n_places=8)
    hidden, brain = mask.hidden(6, 8), torch.ones(1, 8, 64)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(400):
        out = model(patches, qspace, positions, mask)
        loss = sum(masked_errors(out, patches, hidden, brain=brain))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
