"""Parameters and scans in the conventions of the authors' code."""

import math

import numpy as np
import torch
from einops import repeat

DIM, HEADS, DEPTH, PATCH = 24, 2, 2, (4, 4, 2)


def draw_state_dict(*, dim=DIM, depth=DEPTH, patch=PATCH, convolutions=True, seed=0):
    """Draw parameters with the names and shapes of the authors' autoencoder."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "cls_token": (1, 1, dim),
        "mask_tokens": (1, 1, dim),
        "pos_embedding": (1, 6, dim // 2),
        "decoder_pos_embedding": (1, 6, dim // 2),
        "patch_embedding.patch_embeddings.weight": (dim, 1, *patch),
        "patch_mlp.weight": (dim, math.prod(patch)),
        "patch_mlp.bias": (dim,),
        "qpos_embed.weight": (dim // 2, 3),
        "qpos_embed.bias": (dim // 2,),
        "decoder_embed.weight": (dim, dim),
        "decoder_embed.bias": (dim,),
        "decoder_pred.0.weight": (math.prod(patch), dim),
        "decoder_pred.0.bias": (math.prod(patch),),
    }
    for name in ("ln", "ln2"):
        shapes |= {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}
    for stem, n, ratio in (("blocks", depth, 4), ("decoder_blocks", 1, 1)):
        for i in range(n):
            for axis in ("diffusion", "space"):
                for norm in ("norm1", "norm2"):
                    shapes[f"{stem}.{i}.{norm}_{axis}.weight"] = (dim,)
                    shapes[f"{stem}.{i}.{norm}_{axis}.bias"] = (dim,)
                shapes[f"{stem}.{i}.attn_{axis}.qkv.weight"] = (3 * dim, dim)
                shapes[f"{stem}.{i}.attn_{axis}.out_proj.weight"] = (dim, dim)
                shapes[f"{stem}.{i}.attn_{axis}.out_proj.bias"] = (dim,)
                shapes[f"{stem}.{i}.mlp_{axis}.linear1.weight"] = (ratio * dim, dim)
                shapes[f"{stem}.{i}.mlp_{axis}.linear1.bias"] = (ratio * dim,)
                shapes[f"{stem}.{i}.mlp_{axis}.linear2.weight"] = (dim, ratio * dim)
                shapes[f"{stem}.{i}.mlp_{axis}.linear2.bias"] = (dim,)
    if convolutions:
        for i, (n_out, n_in) in zip((0, 2, 4), ((8, 1), (8, 8), (1, 8)), strict=True):
            shapes[f"decoder_conv.{i}.weight"] = (n_out, n_in, 3, 3, 3)
            shapes[f"decoder_conv.{i}.bias"] = (n_out,)
    # Wide enough for attention to be far from uniform.
    return {k: 0.3 * torch.randn(s, generator=generator) for k, s in shapes.items()}


def draw_scan(*, grid=(8, 12, 4), n_directions=5, batch=1, shells=(1.0, 3.0), seed=0):
    rng = np.random.default_rng(seed)
    dwi = torch.from_numpy(rng.uniform(size=(batch, *grid, n_directions))).float()
    rho = rng.choice(shells, (batch, n_directions))
    theta = np.arccos(rng.uniform(-1, 1, (batch, n_directions)))
    phi = rng.uniform(-np.pi, np.pi, (batch, n_directions))
    qspace = torch.from_numpy(np.stack([rho, theta, phi], axis=-1)).float()
    voxels = torch.from_numpy(np.moveaxis(np.indices(grid), 0, -1)).float()
    return dwi, qspace, repeat(voxels, "x y z c -> b x y z c", b=batch)
