"""Front, tuned blocks and head of an encoder in fine-tuning; LoRA on the shipped encoder."""

import numpy as np
import pytest
import torch

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.tokens import ScanTokens
from dmri_fm.errors import ConfigError
from dmri_fm.registry import load_weights
from dmri_fm_lab.prediction.finetune_network import (
    FrontTokens,
    TunedEncoder,
    Tuning,
    count_tuned,
    frozen_front,
    join_encoder,
    merge_lora,
    pass_front,
)
from tests.dmri_fm_lab.prediction.tiny_cohort import TINY, tiny_encoder

#: Rounding of float32 between two orders of the same sums.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def tokens(n_voxels, n_directions=5, n_patches=7, seed=0):
    """Return a scan of random patches."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.rand(n, generator=generator) for n in (n_directions, n_directions)]
    qspace = torch.stack([torch.ones(n_directions), 3 * draw[0], 6 * draw[1]], dim=1).double()
    patches = torch.rand(n_directions, n_patches, n_voxels, generator=generator)
    positions = 20 * torch.rand(n_patches, 3, generator=generator)
    brain = torch.ones(n_patches, n_voxels)
    return ScanTokens(patches, qspace, positions, brain, np.arange(n_patches))


def cls_of(encoder: Drope, scan: ScanTokens, *, is_fast: bool):
    """Return the class token by the training path, or by the fast path without gradients."""
    with torch.set_grad_enabled(not is_fast):
        return encoder.encode_cls(scan.patches[None], scan.qspace[None], scan.positions[None])[0]


def shake(tuned: TunedEncoder) -> TunedEncoder:
    """Move all trained weights, so that LoRA's second factors are not zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return tuned


@pytest.fixture(scope="module")
def shipped():
    return load_weights("drope").model


@pytest.mark.parametrize("mode", ["last-layer", "lora"])
@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_front_and_tuned_blocks_are_the_encoder(mode, blocks):
    encoder, tuning = tiny_encoder(), Tuning(mode, blocks)
    scan = tokens(64)
    front = frozen_front(encoder, tuning)
    assert len(front.blocks) == (TINY.depth - blocks if blocks else 0)
    found = TunedEncoder(encoder, tuning).encode(pass_front(front, scan))[0]
    torch.testing.assert_close(found, cls_of(encoder, scan, is_fast=False), **CLOSE)


def test_pooled_features_are_the_mean_token():
    encoder, tuning = tiny_encoder(), Tuning(head_input="pooled")
    scan = tokens(64)
    found = TunedEncoder(encoder, tuning).encode(pass_front(frozen_front(encoder, tuning), scan))
    rows = encoder(scan.patches[None], scan.qspace[None], scan.positions[None])[1]
    torch.testing.assert_close(found, rows.mean(dim=(1, 2)), **CLOSE)


@pytest.mark.parametrize("mode", ["last-layer", "lora"])
def test_the_joined_encoder_runs_on_both_paths(mode):
    encoder, scan = tiny_encoder(), tokens(64)
    tuning = Tuning(mode, 2)
    tuned = shake(TunedEncoder(encoder, tuning))
    found = tuned.encode(pass_front(frozen_front(encoder, tuning), scan))[0]
    whole = join_encoder(encoder, tuned)
    assert whole.state_dict().keys() == encoder.state_dict().keys()
    for is_fast in (True, False):
        torch.testing.assert_close(cls_of(whole, scan, is_fast=is_fast), found.detach(), **CLOSE)
    before = cls_of(encoder, scan, is_fast=True)
    assert (found - before).abs().max() > 1e-2, "what was tuned changes the features"
    again = cls_of(encoder, scan, is_fast=True)
    torch.testing.assert_close(again, before, rtol=0, atol=0)


@pytest.mark.parametrize("blocks", [0, 1])
def test_lora_changes_less_than_a_twentieth_of_the_shipped_encoder(shipped, blocks):
    tuned = TunedEncoder(shipped, Tuning("lora", blocks))
    n_tuned, n_all = count_tuned(tuned, shipped)
    # Rank 12 on 192 -> 576 and 192 -> 192, both attentions of each block.
    assert n_tuned == (blocks or 10) * 2 * 12 * (192 + 576 + 192 + 192)
    assert n_all == sum(p.numel() for p in shipped.parameters())
    assert n_tuned < 0.05 * n_all


def test_merged_lora_gives_the_numbers_of_the_shipped_encoder_before_merging(shipped):
    tuning, scan = Tuning("lora", 0), tokens(256)
    tuned = shake(TunedEncoder(shipped, tuning))
    front = pass_front(frozen_front(shipped, tuning), scan)
    before = tuned.encode(front)
    merged = merge_lora(tuned)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    assert type(merged.blocks[0].attn_space.qkv) is torch.nn.Linear
    torch.testing.assert_close(merged.encode(front), before, **CLOSE)
    fast = cls_of(join_encoder(shipped, tuned), scan, is_fast=True)
    torch.testing.assert_close(fast, before[0].detach(), **CLOSE)
    assert (fast - cls_of(shipped, scan, is_fast=True)).abs().max() > 1e-3


def test_lora_sits_in_the_linear_layers_and_nothing_else_is_trained():
    tuned = TunedEncoder(tiny_encoder(), Tuning("lora", 1))
    layer = tuned.blocks[0].attn_diffusion.qkv
    assert type(layer.base_layer) is torch.nn.Linear
    trained = {name for name, p in tuned.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or name.startswith("head.") for name in trained)
    assert sum("lora" in name for name in trained) == 2 * 2 * 2
    front = FrontTokens(torch.zeros(1, 1, 24), torch.rand(1, 4, 3, 24), tokens(1, 4).qspace[None])
    tuned([front]).sum().backward()
    assert {n for n, p in tuned.named_parameters() if p.grad is not None} == trained


def test_heads():
    linear = TunedEncoder(tiny_encoder(), Tuning(head="linear")).head
    linear.mean.fill_(2.0)
    linear.std.fill_(4.0)
    features = torch.full((3, 24), 6.0)
    expected = linear.layers.weight.sum() + linear.layers.bias
    torch.testing.assert_close(linear(features), expected.expand(3))
    assert TunedEncoder(tiny_encoder(), Tuning(head="mlp")).head(features).shape == (3,)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "all"}, "mode 'all'"),
        ({"head": "tree"}, "head 'tree'"),
        ({"head_input": "patch"}, "head_input 'patch'"),
        ({"blocks": -1}, "-1 tuned blocks"),
        ({"lora_rank": 0}, "rank 0"),
    ],
)
def test_settings_that_do_not_exist(changes, words):
    with pytest.raises(ConfigError, match=words):
        Tuning(**changes)


def test_more_blocks_than_the_encoder_has():
    with pytest.raises(ConfigError, match="4 tuned blocks"):
        frozen_front(tiny_encoder(), Tuning(blocks=4))
