"""Checkpoints of the authors' code, and encoding whole volumes."""

import math
import pickle

import numpy as np
import pytest
import torch
from einops import rearrange
from torch.nn import functional

from dmri_fm import extract_features, feature_grid
from dmri_fm.encoders.drope.authors_checkpoint import (
    convert_authors_checkpoint,
    from_authors,
)
from dmri_fm.errors import GradientError, ImageError, WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.signal import normalise_b0
from dmri_fm.qspace import to_qspace
from dmri_fm.registry import load_weights
from dmri_fm.series import Dwi
from tests.dmri_fm.encoders.drope.authors_state import (
    DIM,
    HEADS,
    PATCH,
    draw_scan,
    draw_state_dict,
)


def sincos(x, n):
    omega = 10000.0 ** (-np.arange(n // 2) / (n / 2))
    return np.concatenate([np.sin(x * omega), np.cos(x * omega)])


def reference_encoder(state, dwi, qspace, positions, *, heads, patch, pos_scale):
    """The published network in the authors' conventions, slowly, in float64, one scan."""
    p = {k: v.double() for k, v in state.items()}
    dim, n_directions = p["ln.weight"].shape[0], qspace.shape[1]
    d = dim // heads
    depth = 1 + max(int(k.split(".")[1]) for k in p if k.startswith("blocks."))
    tokens, centres = [], []
    for i in range(0, dwi.shape[1], patch[0]):
        for j in range(0, dwi.shape[2], patch[1]):
            for k in range(0, dwi.shape[3], patch[2]):
                cut = dwi[0, i : i + patch[0], j : j + patch[1], k : k + patch[2]].double()
                tokens.append(rearrange(cut, "a b c t -> t (a b c)"))
                middle = (i + patch[0] // 2, j + patch[1] // 2, k + patch[2] // 2)
                centres.append(positions[0][middle].double().numpy() * pos_scale)
    place = np.stack([np.concatenate([sincos(x, dim // 6) for x in c]) for c in centres])
    x = torch.stack(tokens, dim=1) @ p["patch_mlp.weight"].T + p["patch_mlp.bias"]
    x[..., : dim // 2] += torch.from_numpy(place)
    q = qspace[0].double()
    x[..., dim // 2 :] += (q @ p["qpos_embed.weight"].T + p["qpos_embed.bias"])[:, None]
    q = q.numpy()
    x_axis, y_axis = np.sin(q[:, 1]) * np.cos(q[:, 2]), np.sin(q[:, 1]) * np.sin(q[:, 2])
    v = np.stack([x_axis, y_axis, np.cos(q[:, 1])], axis=1)
    matrix = np.zeros((n_directions, n_directions, d, d))
    for m in range(n_directions):
        for n in range(n_directions):
            angle = np.arctan2(np.linalg.norm(np.cross(v[m], v[n])), abs(v[m] @ v[n]))
            distance = math.sqrt(0.5 * float(q[m, 0] - q[n, 0]) ** 2 + angle**2)
            for c in range(d):
                a = distance * 0.3 ** (-2 * (c % (d // 2)) / d)
                # Channel c of the turned key: cos k_c + sin (-k_2 or k_1) of its adjacent pair.
                matrix[m, n, c, c] = math.cos(a)
                matrix[m, n, c, c ^ 1] = math.sin(a) if c % 2 else -math.sin(a)
    turn = torch.from_numpy(matrix)

    def norm(x, name):
        return functional.layer_norm(x, (dim,), p[f"{name}.weight"], p[f"{name}.bias"])

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def mlp(x, name):
        return linear(functional.gelu(linear(x, f"{name}.linear1")), f"{name}.linear2")

    def split(x, name):
        qkv = x @ p[f"{name}.qkv.weight"].T
        return rearrange(qkv, "... n (three h d) -> three ... h n d", three=3, h=heads)

    cls = p["cls_token"][0]
    for i in range(depth):
        b = f"blocks.{i}"
        query, key, value = split(
            norm(x, f"{b}.norm1_diffusion").transpose(0, 1), f"{b}.attn_diffusion"
        )
        score = torch.einsum("shmc,mnce,shne->shmn", query, turn, key) / math.sqrt(d)
        mixed = rearrange(score.softmax(-1) @ value, "s h t d -> t s (h d)")
        x = x + linear(mixed, f"{b}.attn_diffusion.out_proj")
        x = x + mlp(norm(x, f"{b}.norm2_diffusion"), f"{b}.mlp_diffusion")
        rows = torch.cat([cls.expand(n_directions, 1, dim), x], dim=1)
        query, key, value = split(norm(rows, f"{b}.norm1_space"), f"{b}.attn_space")
        score = query @ key.transpose(-1, -2) / math.sqrt(d)
        mixed = rearrange(score.softmax(-1) @ value, "t h n d -> t n (h d)")
        r = linear(mixed, f"{b}.attn_space.out_proj")
        cls, x = cls + r[:, :1].mean(dim=0), x + r[:, 1:]
        cls = cls + mlp(norm(cls, f"{b}.norm2_space"), f"{b}.mlp_space")
        x = x + mlp(norm(x, f"{b}.norm2_space"), f"{b}.mlp_space")
    return norm(cls, "ln"), norm(x, "ln")


@pytest.mark.parametrize("has_gradients", [True, False], ids=["at once", "in pieces"])
@pytest.mark.parametrize(("shells", "pos_scale"), [((1.0, 3.0), 1.0), ((2.0,), 1 / 300)])
def test_equals_a_slow_reference(has_gradients, shells, pos_scale):
    state = draw_state_dict()
    scan = draw_scan(shells=shells)
    encoder = from_authors(state, num_heads=HEADS, patch_size=PATCH, pos_scale=pos_scale)
    assert not encoder.training
    with torch.set_grad_enabled(has_gradients):
        cls, tokens = encoder(*scan)
        alone = encoder.encode_cls(*scan)
    expected = reference_encoder(state, *scan, heads=HEADS, patch=PATCH, pos_scale=pos_scale)
    assert cls.shape == (1, DIM)
    assert tokens.shape == (1, 5, 2 * 3 * 2, DIM)
    # float32 against float64 through two blocks of unit-sized numbers.
    torch.testing.assert_close(cls.detach().double(), expected[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens[0].detach().double(), expected[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(alone, cls, atol=1e-5, rtol=0)


def test_decoder_dead_parameters_and_wrapping_do_not_matter():
    whole, scan = draw_state_dict(), draw_scan()
    prefixes = ("decoder", "mask_tokens", "ln2", "patch_embedding", "pos_embedding")
    bare = {k: v for k, v in whole.items() if not k.startswith(prefixes)}
    released = {k: v for k, v in whole.items() if not k.startswith("decoder_conv")}
    wrapped = {f"module.{k}": v for k, v in whole.items()}
    with torch.inference_mode():
        expected = from_authors(whole, num_heads=HEADS, patch_size=PATCH)(*scan)
        for state in (bare, released, wrapped):
            found = from_authors(state, num_heads=HEADS, patch_size=PATCH)(*scan)
            torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("blocks.1.attn_space.qkv.weight"), "blocks.1.attn_space.qkv.weight"),
        (lambda s: s.pop("patch_mlp.weight"), "patch_mlp.weight"),
        (lambda s: s.update({"blocks.0.attn_space.qkv.bias": torch.zeros(72)}), "qkv.bias"),
        (lambda s: s.update({"qpos_embed.weight": torch.zeros(12, 4)}), "qpos_embed.weight"),
        (lambda s: s.update({"ln.bias": torch.full((DIM,), torch.nan)}), "ln.bias"),
        (lambda s: s.update({"cls_token": "text"}), "cls_token"),
    ],
)
def test_wrong_checkpoints_are_refused_by_name(change, named):
    state = draw_state_dict()
    change(state)
    with pytest.raises(WeightsError, match=named):
        from_authors(state, num_heads=HEADS, patch_size=PATCH)


def test_wrong_patch_and_heads_are_refused():
    with pytest.raises(WeightsError, match=r"patch_mlp.weight: \(24, 32\) instead of \(24, 256\)"):
        from_authors(draw_state_dict())
    with pytest.raises(WeightsError, match="5 heads"):
        from_authors(draw_state_dict(), num_heads=5, patch_size=PATCH)


def test_b0_volumes_are_left_out():
    encoder = from_authors(draw_state_dict(), num_heads=HEADS, patch_size=PATCH)
    dwi, qspace, positions = draw_scan(n_directions=5)
    with_b0 = qspace.clone()
    with_b0[:, [0, 3]] = 0.0
    kept = [1, 2, 4]
    for has_gradients in (True, False):
        with torch.set_grad_enabled(has_gradients):
            cls, tokens = encoder(dwi, with_b0, positions)
            expected = encoder(dwi[..., kept], qspace[:, kept], positions)
        assert tokens.shape[1] == 3
        torch.testing.assert_close((cls, tokens), expected, atol=0, rtol=0)


def test_impossible_inputs_are_refused():
    encoder = from_authors(draw_state_dict(), num_heads=HEADS, patch_size=PATCH)
    dwi, qspace, positions = draw_scan(batch=2)
    with pytest.raises(GradientError, match="4 rows for 5 volumes"):
        encoder(dwi, qspace[:, :4], positions)
    with pytest.raises(GradientError, match=r"\(2, 0, 3\)"):
        encoder(dwi[..., :0], qspace[:, :0], positions)
    with pytest.raises(GradientError, match="all 5 volumes are b=0"):
        encoder(dwi, qspace * torch.tensor([0.0, 1, 1]), positions)
    missing = qspace.clone()
    missing[1, 2, 1] = torch.nan
    with pytest.raises(GradientError, match=r"volumes \[2\]"):
        encoder(dwi, missing, positions)
    with pytest.raises(GradientError, match="negative"):
        encoder(dwi, -qspace, positions)
    ragged = qspace.clone()
    ragged[0, 0, 0] = 0.0
    with pytest.raises(GradientError, match="different volumes"):
        encoder(dwi, ragged, positions)
    with pytest.raises(ImageError, match="multiples of"):
        encoder(dwi[:, :7], qspace, positions[:, :7])
    with pytest.raises(ImageError, match="with positions"):
        encoder(dwi, qspace, positions[:1])


@pytest.mark.parametrize("grid", [(4, 4, 2), (12, 8, 2), (4, 16, 6)])
def test_any_grid_and_slab(grid):
    encoder = from_authors(draw_state_dict(), num_heads=HEADS, patch_size=PATCH)
    with torch.inference_mode():
        cls, tokens = encoder(*draw_scan(grid=grid, n_directions=3))
    assert tokens.shape == (1, 3, math.prod(grid) // math.prod(PATCH), DIM)
    assert cls.isfinite().all()


def test_a_slab_knows_where_it_was_cut():
    """With space attention silent, tokens of a slab are those of the whole scan."""
    state = draw_state_dict()
    for name in [k for k in state if "attn_space.out_proj" in k]:
        state[name] = torch.zeros_like(state[name])
    encoder = from_authors(state, num_heads=HEADS, patch_size=PATCH)
    dwi, qspace, positions = draw_scan(grid=(4, 4, 6))
    with torch.inference_mode():
        whole = encoder(dwi, qspace, positions)[1]
        slab = encoder(dwi[:, :, :, 2:4], qspace, positions[:, :, :, 2:4])[1]
    torch.testing.assert_close(slab[0, :, 0], whole[0, :, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("pos_scale", [1.0, 1 / 300])
def test_converted_checkpoint_runs_as_the_authors_network(tmp_path, pos_scale):
    """`extract_features` with converted weights equals the authors' network on their crop."""
    patch = (16, 16, 8)
    checkpoint = tmp_path / "trained_model_300.pth"
    torch.save(draw_state_dict(patch=patch, depth=1), checkpoint)
    path = convert_authors_checkpoint(
        checkpoint,
        tmp_path / "authors.safetensors",
        num_heads=HEADS,
        patch_size=patch,
        pos_scale=pos_scale,
    )
    loaded = load_weights(path, model="drope-paper")
    assert loaded.license == "", "theirs, which the file does not tell"
    assert "trained_model_300.pth" in loaded.training["data"]
    grid = feature_grid("drope-paper")
    rng = np.random.default_rng(0)
    gtab = GradientTable(np.r_[0.0, 1000.0, 1000.0, 2000.0], np.r_[[[0.0, 0, 0]], np.eye(3)])
    mask = np.zeros(grid.shape, dtype=bool)
    mask[70:100, 90:120, 40:100] = True
    data = np.zeros((*grid.shape, 4), dtype=np.float32)
    data[mask] = rng.uniform(200, 500, (int(mask.sum()), 4))
    dwi = Dwi.from_arrays(data, grid.affine, gtab, mask=mask)
    features = extract_features(dwi, model="drope-paper", weights=path)
    assert features.metadata["RegionSlices"] == [64, 119]
    half = {k: v.half().float() for k, v in torch.load(checkpoint, weights_only=True).items()}
    encoder = from_authors(half, num_heads=HEADS, patch_size=patch, pos_scale=pos_scale)
    signal = normalise_b0(data, gtab, mask=mask).signal[None, :, :, 64:120]
    voxels = torch.from_numpy(np.moveaxis(np.indices(grid.shape), 0, -1)).float()[:, :, 64:120]
    chosen = features.metadata["Volumes"]
    qspace = torch.from_numpy(to_qspace(gtab.select(chosen))).double()[None]
    with torch.inference_mode():
        cls, tokens = encoder(torch.from_numpy(signal[..., chosen]), qspace, voxels[None])
    np.testing.assert_allclose(features.vectors["cls"], cls[0].numpy(), atol=1e-4)
    assert features.patches.valid.sum() == 12 * 14 * 7
    found = features.patches.tokens[features.patches.valid]
    np.testing.assert_allclose(found, tokens[0].mean(dim=0).numpy(), atol=1e-4)


def test_checkpoints_that_cannot_be_converted_are_refused(tmp_path):
    out = tmp_path / "out.safetensors"
    with pytest.raises(WeightsError, match="cannot be read"):
        convert_authors_checkpoint(tmp_path / "none.pth", out)
    path = tmp_path / "code.pth"
    path.write_bytes(pickle.dumps(_Attack(), protocol=2))
    with pytest.raises(WeightsError, match="cannot be read"):
        convert_authors_checkpoint(path, out)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="holds a list"):
        convert_authors_checkpoint(path, out)
    torch.save({"epoch": 3}, path)
    with pytest.raises(WeightsError, match="no tensors under these names: epoch"):
        convert_authors_checkpoint(path, out)
    assert not out.exists()


class _Attack:
    def __reduce__(self):
        return (print, ("this must not run",))
