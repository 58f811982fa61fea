import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from dmri_fm.encoders.drope import mae
from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.mae import (
    MaeConfig,
    Mask,
    MaskedAutoencoder,
    draw_mask,
    masked_errors,
    ramp_tau,
    restore_autoencoder,
    split_autoencoder,
)
from dmri_fm.encoders.patches import patchify, unpatchify
from dmri_fm.errors import GradientError, WeightsError
from dmri_fm.registry import load_weights
from dmri_fm.weights import save_weights

ENCODER = DropeConfig(
    grid_shape=(16, 8, 12), voxel_size_mm=2.0, patch=(4, 4, 2), dim=24, depth=1, heads=2
)
TINY = MaeConfig(ENCODER, decoder_dim=24, decoder_depth=1, decoder_heads=2)

#: Patches of a packed scan: cells 0 to 2, 0 to 1 and 1 to 4 of the 4 x 2 x 6, with gaps.
INDEX = np.array([1, 2, 8, 9, 14, 15, 16, 22, 25, 33])
BOX = np.s_[0:12, 0:8, 2:10]


def draw_inputs(*, n_directions=6, batch=1, seed=0):
    rng = np.random.default_rng(seed)
    patches = torch.from_numpy(rng.uniform(size=(batch, n_directions, len(INDEX), 32))).float()
    angles = rng.uniform([0.5, 0, -3], [3, 3, 3], (batch, n_directions, 3))
    cells = np.indices(ENCODER.patch_grid).reshape(3, -1).T[INDEX]
    centres = cells * np.array(ENCODER.patch) + (np.array(ENCODER.patch) - 1) / 2
    positions = torch.from_numpy(np.stack([centres] * batch)).float()
    return patches, torch.from_numpy(angles), positions


def draw_masks(kind, *, batch=1):
    rng = np.random.default_rng(0)
    drawn = (
        draw_mask(rng, TINY, kind=kind, n_directions=6, n_patches=len(INDEX)) for _ in range(batch)
    )
    return Mask(kind, torch.cat([mask.kept for mask in drawn]))


@pytest.mark.parametrize("kind", ["spatial", "diffusion"])
def test_shapes_gradients_and_blindness(kind):
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY)
    patches, qspace, positions = draw_inputs()
    mask = draw_masks(kind)
    masked = mask.masked(6, len(INDEX))
    out = model(patches, qspace, positions, mask)
    assert out.shape == patches.shape
    loss = sum(masked_errors(out, patches, masked, brain=torch.ones(1, len(INDEX), 32)))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    # Nothing of a masked patch may reach the output.
    changed = torch.where(masked[..., None], patches + 5.0, patches)
    torch.testing.assert_close(model(changed, qspace, positions, mask), out, atol=0, rtol=0)


def test_masks_cover_the_share_asked_for():
    rng = np.random.default_rng(0)
    drawn = (draw_mask(rng, TINY, kind="spatial", n_directions=6, n_patches=40) for _ in range(3))
    flags = torch.cat([spatial.masked(6, 40) for spatial in drawn])
    assert flags.shape == (3, 6, 40)
    assert (flags == flags[:, :1]).all(), "one spatial mask for all directions"
    assert flags[:, 0].float().mean().item() == pytest.approx(0.75)
    assert not (flags[0] == flags[1]).all()
    diffusion = draw_mask(rng, TINY, kind="diffusion", n_directions=6, n_patches=40).masked(6, 40)
    assert (diffusion == diffusion[..., :1]).all()
    assert diffusion.float().mean().item() == pytest.approx(0.5)
    one = draw_mask(rng, TINY, kind="diffusion", n_directions=1, n_patches=40)
    assert one.kept.shape == (1, 1), "something stays visible"


@pytest.mark.parametrize("kind", ["spatial", "diffusion"])
def test_scans_of_a_batch_are_independent(kind):
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY).double().eval()
    patches, qspace, positions = (t.double() for t in draw_inputs(batch=2))
    mask = draw_masks(kind, batch=2)
    both = model(patches, qspace, positions, mask)
    for i in range(2):
        one = slice(i, i + 1)
        alone = model(patches[one], qspace[one], positions[one], Mask(kind, mask.kept[one]))
        # The rank of the rotary tables is chosen over the batch, within their tolerance of 1e-6.
        torch.testing.assert_close(alone, both[one], atol=1e-5, rtol=0)


def flip(qspace):
    """Turn every second measurement to the other end of its axis."""
    flipped = qspace.clone()
    flipped[:, ::2, 1] = math.pi - flipped[:, ::2, 1]
    flipped[:, ::2, 2] += math.pi
    return flipped


@pytest.mark.parametrize("kind", ["spatial", "diffusion"])
def test_antipodes_and_order_of_directions_and_patches_do_not_matter(kind):
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY).double().eval()
    patches, qspace, positions = (t.double() for t in draw_inputs())
    mask = draw_masks(kind)
    expected = model(patches, qspace, positions, mask)
    # Tables of another order, or of sines of other angles, differ by their tolerance, 1e-6.
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(model(patches, flip(qspace), positions, mask), expected, **close)
    t, s = torch.randperm(6), torch.randperm(len(INDEX))
    moved = (s if kind == "spatial" else t).argsort()[mask.kept].sort(dim=1).values
    found = model(patches[:, t][:, :, s], qspace[:, t], positions[:, s], Mask(kind, moved))
    torch.testing.assert_close(found, expected[:, t][:, :, s], **close)


def test_b0_volumes_are_refused():
    model = MaskedAutoencoder(TINY)
    patches, qspace, positions = draw_inputs()
    qspace[:, 2] = 0.0
    with pytest.raises(GradientError, match="b=0"):
        model(patches, qspace, positions, draw_masks("spatial"))


def test_conventions_of_the_authors_reach_the_decoder():
    """Same parameters, other frequencies: another reconstruction, with the encoder left out."""
    inputs = draw_inputs()
    results = []
    for layout in ("paired", "tiled"):
        torch.manual_seed(0)
        model = MaskedAutoencoder(replace(TINY, encoder=replace(ENCODER, rotary=layout)))
        with torch.no_grad():
            model.encoder.ln.weight.zero_()
        results.append(model(*inputs, draw_masks("spatial")))
    assert (results[0] - results[1]).abs().max() > 1e-6


def randomise(convolutions):
    for layer in convolutions:
        if isinstance(layer, nn.Conv3d):
            nn.init.normal_(layer.weight, std=0.2)
            nn.init.normal_(layer.bias, std=0.2)


def without_convolutions(model):
    plain = MaskedAutoencoder(replace(model.config, conv_channels=0))
    tensors = {k: v for k, v in model.state_dict().items() if not k.startswith("decoder_conv")}
    plain.load_state_dict(tensors, strict=True)
    return plain.to(next(model.parameters()).dtype)


@pytest.mark.parametrize("with_gradients", [True, False])
def test_packed_convolutions_are_those_of_the_whole_box(with_gradients):
    """Patches laid in the smallest box of the grid that holds them, zero elsewhere."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(replace(TINY, encoder=replace(ENCODER, signal_std=0.2))).double()
    randomise(model.decoder_conv)
    patches, qspace, positions = (t.double() for t in draw_inputs())
    mask = draw_masks("spatial")
    with torch.set_grad_enabled(with_gradients):
        found = model(patches, qspace, positions, mask)
        before = without_convolutions(model)(patches, qspace, positions, mask)[0] / 0.2
    # Kernels lie as (z, x, y).
    for layer in model.decoder_conv[::2]:
        layer.weight.data = layer.weight.data.permute(0, 1, 3, 4, 2).contiguous()
    full = torch.zeros(6, math.prod(ENCODER.patch_grid), 32, dtype=torch.float64)
    full[:, INDEX] = before.detach()
    volumes = unpatchify(full[None], ENCODER.patch, ENCODER.patch_grid)[0]
    with torch.no_grad():
        for volume in volumes:
            volume[BOX] = model.decoder_conv(volume[BOX][None])[0]
    expected = 0.2 * patchify(volumes[None], ENCODER.patch)[:, :, INDEX]
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)


def test_errors_by_hand():
    target = torch.zeros(1, 1, 2, 2)
    reconstruction = torch.tensor([[[[1.0, 3.0], [2.0, 4.0]]]])
    is_masked = torch.tensor([[[False, True]]])
    brain = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    visible, masked = masked_errors(reconstruction, target, is_masked, brain=brain)
    assert visible.item() == 1.0, "the voxel of 3 lies outside the brain"
    assert masked.item() == (4 + 16) / 2
    nothing = masked_errors(reconstruction, target, torch.zeros_like(is_masked), brain=brain)[1]
    assert nothing.item() == 0.0


def test_ramp():
    assert [ramp_tau(x) for x in (-1, 0, 0.5, 1, 2)] == pytest.approx(
        [0.05, 0.05, 0.5, 0.95, 0.95]
    )


def test_published_configuration():
    with torch.device("meta"):
        model = MaskedAutoencoder(mae.PAPER_MAE)
    assert 40e6 < sum(p.numel() for p in model.parameters()) < 43e6
    assert math.prod(mae.PAPER_MAE.encoder.patch_grid) == 24 * 28 * 48
    assert len(model.decoder.blocks) == 3
    assert (mae.PAPER_MAE.spatial_ratio, mae.PAPER_MAE.diffusion_ratio) == (0.75, 0.5)


def test_autoencoders_are_written_and_read_back_whole(tmp_path):
    """Half precision on disk; the reconstruction is the same to that."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY).eval()
    path = save_weights(
        tmp_path / "x.safetensors",
        model.encoder,
        name="drope",
        version="1",
        training={},
        pretraining=split_autoencoder(model),
    )
    restored = restore_autoencoder(load_weights(path))
    assert restored.config == model.config
    assert not any(p.requires_grad for p in restored.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value.half().float()), name
    inputs, mask = draw_inputs(), draw_masks("spatial")
    with torch.inference_mode():
        # Weights are off by 5e-4 of themselves; numbers are of order one.
        torch.testing.assert_close(
            restored(*inputs, mask), model(*inputs, mask), atol=5e-3, rtol=0
        )


def test_weights_without_their_decoder_are_no_autoencoder(tmp_path):
    model = MaskedAutoencoder(TINY)
    alone = {"name": "drope", "version": "1", "training": {}}
    save_weights(tmp_path / "x.safetensors", model.encoder, **alone)
    with pytest.raises(WeightsError, match="encoder alone"):
        restore_autoencoder(load_weights(tmp_path / "x.safetensors"))
    pretraining = split_autoencoder(model)
    for change in ({"decoder_dim": 48}, {"conv_channels": 1}, {"width": 3}):
        wrong = pretraining._replace(config={**pretraining.config, **change})
        path = save_weights(tmp_path / "y.safetensors", model.encoder, pretraining=wrong, **alone)
        with pytest.raises(WeightsError, match="does not fit"):
            restore_autoencoder(load_weights(path))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spatial", "diffusion"])
def test_overfits_one_batch(kind):
    torch.manual_seed(0)
    model = MaskedAutoencoder(TINY)
    patches, qspace, positions = draw_inputs()
    mask = draw_masks(kind)
    masked, brain = mask.masked(6, len(INDEX)), torch.ones(1, len(INDEX), 32)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(400):
        out = model(patches, qspace, positions, mask)
        loss = sum(masked_errors(out, patches, masked, brain=brain))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
