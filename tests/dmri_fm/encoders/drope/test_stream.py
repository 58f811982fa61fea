"""A scan in pieces gives what it gives at once."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from dmri_fm.encoders.drope import packed_linear
from dmri_fm.encoders.drope import stream as drope_stream
from dmri_fm.encoders.drope.config import DropeConfig
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.drope.packed_linear import PackedLinear, has_packed_linear

PACKED = DropeConfig(
    grid_shape=(8, 8, 8),
    voxel_size_mm=2.0,
    patch=(4, 4, 4),
    dim=48,
    depth=2,
    heads=2,
    signal_mean=0.3,
    signal_std=0.2,
)
PAPER = replace(PACKED, direction_code="spherical", is_packed=False)
AUTHORS = replace(PAPER, base=0.3, rotary="tiled", pos_scale=1 / 300)
CONFIGS = {"packed": PACKED, "paper": PAPER, "authors": AUTHORS}


def make(config, *, seed=0):
    """Build an encoder with weights large enough for attention to choose."""
    torch.manual_seed(seed)
    model = Drope(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "qkv" in name:
                p.mul_(3.0)
    return model


def draw_inputs(config, *, n_directions, n_patches=9, batch=1, seed=0):
    rng = np.random.default_rng(seed)
    patches = rng.uniform(size=(batch, n_directions, n_patches, math.prod(config.patch)))
    rho = rng.choice([1.0, 2.0, 3.0], (batch, n_directions))
    theta = np.arccos(rng.uniform(-1, 1, (batch, n_directions)))
    phi = rng.uniform(-np.pi, np.pi, (batch, n_directions))
    positions = rng.uniform(0, 90, (batch, n_patches, 3))
    return (
        torch.from_numpy(patches).float(),
        torch.from_numpy(np.stack([rho, theta, phi], axis=2)),
        torch.from_numpy(positions).float(),
    )


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("n_directions", "batch"), [(1, 1), (5, 2), (64, 1)])
def test_pieces_equal_the_whole(name, n_directions, batch, monkeypatch):
    config = CONFIGS[name]
    model = make(config)
    inputs = draw_inputs(config, n_directions=n_directions, batch=batch)
    expected = model(*inputs)
    # Small pieces: several of every kind, the last one shorter.
    monkeypatch.setattr(drope_stream, "ROWS", 20)
    monkeypatch.setattr(drope_stream, "SCORES", 1)
    with torch.inference_mode():
        found = model(*inputs)
        alone = model.encode_cls(*inputs)
    # Rounding of float32 through two blocks; numbers after the last layer are of order one.
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(alone, expected[0], atol=2e-5, rtol=0)


def test_many_directions_use_joint_rank_tables(monkeypatch):
    model = make(PACKED)
    inputs = draw_inputs(PACKED, n_directions=7)
    with torch.inference_mode():
        expected = model(*inputs)
        monkeypatch.setattr(drope_stream, "KERNEL_DIRECTIONS", 6)
        found = model(*inputs)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_inputs_stay_as_they_were():
    model = make(PACKED)
    inputs = draw_inputs(PACKED, n_directions=4)
    before = [t.clone() for t in inputs]
    parameters = [p.detach().clone() for p in model.parameters()]
    with torch.inference_mode():
        first, second = model(*inputs), model(*inputs)
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    torch.testing.assert_close(list(inputs), before, atol=0, rtol=0)
    for now, then in zip(model.parameters(), parameters, strict=True):
        torch.testing.assert_close(now.detach(), then, atol=0, rtol=0)


def test_scan_features_reach_every_parameter_without_gradients_too():
    """A change of any block's weights changes the result: nothing is kept from an earlier run."""
    model = make(PACKED)
    inputs = draw_inputs(PACKED, n_directions=4)
    with torch.inference_mode():
        before = model.encode_cls(*inputs)
        for block in model.blocks:
            block.attn_diffusion.qkv.weight.mul_(1.5)
            after = model.encode_cls(*inputs)
            assert (after - before).abs().max() > 1e-5
            before = after


@pytest.mark.parametrize("is_gelu", [False, True])
def test_packed_linear_layers_are_exact(is_gelu, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 130, generator=generator) for n in (77, 50))
    bias = torch.randn(50, generator=generator)
    expected = x.double() @ weight.double().T + bias.double()
    expected = functional.gelu(expected) if is_gelu else expected
    for is_packed in {has_packed_linear(), False}:
        monkeypatch.setattr(packed_linear, "has_packed_linear", lambda p=is_packed: p)
        found = PackedLinear(weight, bias, is_gelu=is_gelu)(x).double()
        assert (found - expected).norm() < 1e-6 * expected.norm()


FULL_GRID = """
import resource
import sys
from dataclasses import replace

import numpy as np
import torch

from dmri_fm.encoders.drope.config import PAPER
from dmri_fm.encoders.drope.network import Drope

n = int(sys.argv[1])
model = Drope(replace(PAPER, depth=1)).eval()
centres = np.indices((24, 28, 14)).reshape(3, -1).T * np.array([8, 8, 4])
positions = torch.from_numpy(centres.astype(np.float32))[None]
qspace = torch.rand(1, n, 3) + 0.5
patches = torch.rand(1, n, len(centres), 256)
with torch.inference_mode():
    cls, tokens = model(patches, qspace, positions)
assert tokens.shape == (1, n, 9408, 384)
assert cls.isfinite().all() and tokens[0, ::17, ::97].isfinite().all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_directions", [90, 288])
def test_full_grid_runs_in_ten_gigabytes(n_directions):
    """192 x 224 x 56 voxels and their tokens, one published block; further ones reuse its memory.

    In a process of its own, whose peak is its own. 288 directions take some 7 CPU-minutes.
    """
    command = [sys.executable, "-c", FULL_GRID, str(n_directions)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 3e8 < int(run.stdout) < 10e9
