"""Decoders in checkpoints of the authors' code."""

import numpy as np
import pytest
import torch
from einops import rearrange
from torch.nn import functional

from dmri_fm.encoders.drope.authors_checkpoint import (
    add_authors_decoder,
    convert_authors_checkpoint,
    from_authors,
)
from dmri_fm.encoders.drope.mae import Mask, restore_autoencoder
from dmri_fm.encoders.patches import patchify, unpatchify
from dmri_fm.errors import WeightsError
from dmri_fm.registry import load_weights
from tests.dmri_fm.encoders.drope.authors_state import (
    DIM,
    HEADS,
    PATCH,
    draw_scan,
    draw_state_dict,
)


def build_autoencoder(state):
    encoder = from_authors(state, num_heads=HEADS, patch_size=PATCH).encoder
    return add_authors_decoder(encoder, state)


def draw_patches(*, n_directions=4):
    """Patches, measurements and centres of a scan of 2 x 3 x 4 patches, and a mask."""
    dwi, qspace, _ = draw_scan(grid=(8, 12, 8), n_directions=n_directions)
    patches = patchify(rearrange(dwi, "b x y z t -> b t x y z"), PATCH)
    cells = torch.from_numpy(np.indices((2, 3, 4)).reshape(3, -1).T.copy())
    centres = (cells * torch.tensor(PATCH) + torch.tensor(PATCH) // 2).float()
    return patches, qspace, centres[None], Mask("spatial", torch.tensor([[0, 5, 6, 20]]))


def test_kernels_of_the_decoder_run_over_the_axes_they_were_trained_on():
    """The decoder's convolutions equal plain ones with the authors' kernels over x, y, z."""
    state = draw_state_dict()
    network = build_autoencoder(state)
    before = []
    network.decoder_pred.register_forward_hook(lambda _module, _inputs, out: before.append(out))
    with torch.inference_mode():
        found = network(*draw_patches())
        x = rearrange(unpatchify(before[0], PATCH, (2, 3, 4)), "1 t x y z -> t 1 x y z")
        for i in (0, 2, 4):
            weight, bias = state[f"decoder_conv.{i}.weight"], state[f"decoder_conv.{i}.bias"]
            x = functional.conv3d(x.relu() if i else x, weight, bias, padding=1)
        expected = patchify(rearrange(x, "t 1 x y z -> 1 t x y z"), PATCH)
    # float32 sums of up to 216 products of order one.
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def test_decoder_takes_every_parameter():
    state = draw_state_dict()
    decoder = build_autoencoder(state).decoder
    torch.testing.assert_close(decoder.mask_token.data, state["mask_tokens"][0, 0])
    torch.testing.assert_close(decoder.embed.weight.data, state["decoder_embed.weight"])
    torch.testing.assert_close(decoder.ln.bias.data, state["ln2.bias"])
    own = decoder.position.qpos_embed.weight.data
    torch.testing.assert_close(own, state["qpos_embed.weight"])
    blocks = {f"decoder_blocks.{k}": v for k, v in decoder.blocks.state_dict().items()}
    assert blocks.keys() == {k for k in state if k.startswith("decoder_blocks.")}
    for name, tensor in blocks.items():
        torch.testing.assert_close(tensor, state[name])


def test_released_checkpoints_have_no_convolutions():
    whole = draw_state_dict()
    released = {k: v for k, v in whole.items() if not k.startswith("decoder_conv")}
    network = build_autoencoder(released)
    assert network.decoder_conv is None
    plain = build_autoencoder(whole)
    plain.decoder_conv = None
    with torch.inference_mode():
        expected = plain(*draw_patches())
        torch.testing.assert_close(network(*draw_patches()), expected, atol=0, rtol=0)
    bare = {k: v for k, v in whole.items() if not k.startswith(("decoder", "mask_tokens", "ln2"))}
    assert build_autoencoder(bare) is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("decoder_embed.bias"), "missing: decoder_embed.bias"),
        (lambda s: s.pop("decoder_conv.2.weight"), "missing: decoder_conv.2.weight"),
        (lambda s: s.update({"decoder_pred.1.bias": torch.zeros(3)}), "unknown.*decoder_pred.1"),
        (lambda s: s.update({"ln2.bias": torch.full((DIM,), torch.inf)}), "finite: ln2.bias"),
        (lambda s: s.update({"mask_tokens": torch.zeros(1, 1, 12)}), "mask_tokens"),
    ],
)
def test_wrong_decoders_are_refused_by_name(change, named):
    state = draw_state_dict()
    change(state)
    with pytest.raises(WeightsError, match=named):
        build_autoencoder(state)


def test_decoder_is_saved_with_the_weights(tmp_path):
    checkpoint = tmp_path / "trained.pth"
    state = {k: v.half().float() for k, v in draw_state_dict().items()}
    torch.save(state, checkpoint)
    out = tmp_path / "authors.safetensors"
    convert_authors_checkpoint(checkpoint, out, num_heads=HEADS, patch_size=PATCH)
    network = restore_autoencoder(load_weights(out, model="drope-paper"))
    with torch.inference_mode():
        expected = build_autoencoder(state)(*draw_patches())
        torch.testing.assert_close(network(*draw_patches()), expected, atol=0, rtol=0)
