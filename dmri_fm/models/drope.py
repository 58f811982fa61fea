"""Diffusion-space rotary transformer: an encoder of whole diffusion scans.

The image of every direction is cut into patches; blocks let the patches of one place see one
another across directions, and then the patches of one direction across places. Attention across
directions rotates queries against keys by an angle that grows with the distance between two
measurements in q-space (D-RoPE), so any number of directions in any order can be read.

Method: Kung et al. 2026, https://doi.org/10.48550/arXiv.2603.25977.

Two configurations: :data:`PAPER` follows the publication; :data:`SMALL`, the default of this
project, has fewer and narrower blocks, reads a 2 mm grid, keeps only the patches that hold brain,
encodes a direction by rho v v^T (equal for v and -v) and reads two scan tokens of 192 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from dmri_fm.models.layers import Mlp, SelfAttention, dyadic_code, sincos_positions

__all__ = [
    "PAPER",
    "SMALL",
    "Drope",
    "DropeConfig",
    "RotaryTables",
    "patchify",
    "qspace_directions",
    "qspace_distance",
    "rotary_tables",
    "unpatchify",
]

#: Largest error of a rotary table entry that its low-rank form may leave.
TABLE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class DropeConfig:
    """Architecture of a :class:`Drope` encoder.

    Attributes
    ----------
    grid_shape
        Voxels of the model's grid.
    voxel_size_mm
        Its voxel size; 2 and 1 mm have fixed affines in :mod:`dmri_fm.normalise.grid`.
    patch
        Voxels of a patch along each axis; divides `grid_shape`.
    dim
        Channels of a token, a multiple of 12 and of twice `heads`.
    depth, heads, mlp_ratio
        Blocks, attention heads, widening of the two MLPs of a block.
    n_cls
        Scan tokens; the scan's feature vector is their concatenation, `n_cls * dim` numbers.
    gamma
        Weight of the squared difference of b / 1000 against the squared angle in radians.
    base
        The slowest rotary frequency is about 1 / `base`.
    direction_code
        "spherical": linear in (rho, theta, phi), as published. "dyadic": linear in rho v v^T.
    pos_scale
        Patch centres in voxels are multiplied by this before they are encoded.
    is_packed
        Whether only patches that hold brain become tokens.
    signal_mean, signal_std
        S/S0 is shifted and scaled by these two numbers before the first layer.
    """

    grid_shape: tuple[int, int, int]
    voxel_size_mm: float
    patch: tuple[int, int, int]
    dim: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    n_cls: int = 1
    gamma: float = 0.5
    base: float = 10000.0
    direction_code: Literal["spherical", "dyadic"] = "dyadic"
    pos_scale: float = 1.0
    is_packed: bool = True
    signal_mean: float = 0.0
    signal_std: float = 1.0

    def __post_init__(self) -> None:
        if any(n % p for n, p in zip(self.grid_shape, self.patch, strict=True)):
            raise ValueError(f"patches {self.patch} do not tile the grid {self.grid_shape}")
        if self.dim % 12 or self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of 12 and of 2 * heads")
        if self.direction_code not in ("spherical", "dyadic"):
            raise ValueError(f"unknown direction code {self.direction_code!r}")

    @property
    def n_features(self) -> int:
        """Length of a scan's feature vector."""
        return self.n_cls * self.dim

    @property
    def patch_grid(self) -> tuple[int, int, int]:
        """Number of patches along each axis of the grid."""
        a, b, c = (n // p for n, p in zip(self.grid_shape, self.patch, strict=True))
        return a, b, c


#: The published encoder (35M parameters). Ships without weights.
PAPER = DropeConfig(
    grid_shape=(192, 224, 192),
    voxel_size_mm=1.0,
    patch=(8, 8, 4),
    dim=384,
    depth=10,
    heads=3,
    direction_code="spherical",
    is_packed=False,
)

#: The small encoder whose weights ship with the package.
SMALL = DropeConfig(
    grid_shape=(96, 112, 96),
    voxel_size_mm=2.0,
    patch=(8, 8, 8),
    dim=192,
    depth=4,
    heads=3,
    n_cls=2,
    signal_mean=0.35,
    signal_std=0.2,
)


def qspace_directions(qspace: Tensor) -> Tensor:
    """Turn (rho, theta, phi) of shape (..., 3) into unit vectors of shape (..., 3), RAS."""
    theta, phi = qspace[..., 1], qspace[..., 2]
    return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], dim=-1)


def qspace_distance(qspace: Tensor, *, gamma: float) -> Tensor:
    """Measure how far apart measurements lie in q-space.

    Parameters
    ----------
    qspace
        Shape (..., T, 3): rho = b / 1000 in ms/um^2, theta and phi in radians.
    gamma
        Weight of the b-values' part.

    Returns
    -------
    Tensor
        Shape (..., T, T), float64: sqrt(gamma (rho_m - rho_n)^2 + angle^2), where the angle
        between two axes lies in [0, pi/2]. Zero on the diagonal.
    """
    qspace = qspace.to(torch.float64)
    v = qspace_directions(qspace)
    a, b = torch.broadcast_tensors(v[..., :, None, :], v[..., None, :, :])
    # atan2 keeps full precision where axes coincide; arccos loses half of the digits there.
    angle = torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(dim=-1).abs())
    rho = qspace[..., 0]
    return (gamma * (rho[..., :, None] - rho[..., None, :]) ** 2 + angle**2).sqrt()


@dataclass(frozen=True)
class RotaryTables:
    """Cosines and sines of D(m, n) a_i for all pairs and channels, in joint low rank.

    cos(D a_i) ~ sum_j pair_j[m, n] cos_j[i], and likewise for the sine with the same `pair`.

    Attributes
    ----------
    pair
        Shape (B, J, T, T).
    cos, sin
        Shape (B, J, d): each entry repeated for the two channels of its pair.
    """

    pair: Tensor
    cos: Tensor
    sin: Tensor


def rotary_tables(
    qspace: Tensor,
    head_dim: int,
    *,
    gamma: float,
    base: float,
    dtype: torch.dtype = torch.float32,
) -> RotaryTables:
    """Prepare the rotations between all pairs of directions.

    The distances are those of a scan, the same for every place in the brain, and the matrix
    [pairs x (cosines | sines of all channels)] has a small rank because most frequencies are
    slow. Its singular vectors turn the rotation into a few ordinary matrix products.

    Parameters
    ----------
    qspace
        Shape (B, T, 3): rho, theta, phi.
    head_dim
        Channels d of one attention head, even.
    gamma, base
        See :class:`DropeConfig`.
    dtype
        Of the tables; they are computed in float64.
    """
    pairs = torch.arange(head_dim // 2, dtype=torch.float64, device=qspace.device)
    frequency = base ** (-2.0 * pairs / head_dim)
    angle = qspace_distance(qspace, gamma=gamma)[..., None] * frequency
    n_directions = qspace.shape[-2]
    joint = rearrange(torch.cat([angle.cos(), angle.sin()], dim=-1), "b m n c -> b (m n) c")
    u, s, vh = torch.linalg.svd(joint, full_matrices=False)
    tail = s.square().flip(-1).cumsum(-1).flip(-1).sqrt().amax(dim=0)
    rank = max(1, int((tail > TABLE_TOLERANCE).sum()))
    pair = rearrange(u[..., :rank] * s[..., None, :rank], "b (m n) j -> b j m n", m=n_directions)
    cos, sin = vh[:, :rank].chunk(2, dim=-1)
    return RotaryTables(
        pair.to(dtype),
        repeat(cos, "b j i -> b j (i two)", two=2).to(dtype),
        repeat(sin, "b j i -> b j (i two)", two=2).to(dtype),
    )


def _swap_pairs(x: Tensor) -> Tensor:
    """Turn each adjacent pair (x1, x2) into (x2, -x1)."""
    x = rearrange(x, "... (i two) -> ... i two", two=2)
    return rearrange(torch.stack([x[..., 1], -x[..., 0]], dim=-1), "... i two -> ... (i two)")


class DiffusionAttention(nn.Module):
    """Self-attention across directions with D-RoPE; values are not rotated.

    score(m, n) = d^-1/2 sum_i [cos(D a_i) (q1 k1 + q2 k2) + sin(D a_i) (q2 k1 - q1 k2)].
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out_proj = nn.Linear(dim, dim)

    def scores(self, q: Tensor, k: Tensor, tables: RotaryTables) -> Tensor:
        """Compute scores (B, S, heads, T, T) of queries and keys (B, S, heads, T, d)."""
        swapped, transposed = _swap_pairs(q), k.transpose(-1, -2)
        total = torch.zeros((), dtype=q.dtype, device=q.device)
        for j in range(tables.pair.shape[1]):
            cos, sin = (t[:, j, None, None, None, :] for t in (tables.cos, tables.sin))
            product = (q * cos + swapped * sin) @ transposed
            total = total + tables.pair[:, j, None, None] * product
        scaled: Tensor = total * float(q.shape[-1]) ** -0.5
        return scaled

    def forward(self, x: Tensor, tables: RotaryTables) -> Tensor:
        """Map (B, T, S, dim) to the same."""
        q, k, v = rearrange(
            self.qkv(x), "b t s (three h d) -> three b s h t d", three=3, h=self.heads
        )
        mixed = self.scores(q, k, tables).softmax(dim=-1) @ v
        out: Tensor = self.out_proj(rearrange(mixed, "b s h t d -> b t s (h d)"))
        return out


class DropeBlock(nn.Module):
    """Attention across directions, then across places; an MLP after each."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1_diffusion = nn.LayerNorm(dim, eps=1e-5)
        self.attn_diffusion = DiffusionAttention(dim, heads)
        self.norm2_diffusion = nn.LayerNorm(dim, eps=1e-5)
        self.mlp_diffusion = Mlp(dim, mlp_ratio * dim)
        self.norm1_space = nn.LayerNorm(dim, eps=1e-5)
        self.attn_space = SelfAttention(dim, heads)
        self.norm2_space = nn.LayerNorm(dim, eps=1e-5)
        self.mlp_space = Mlp(dim, mlp_ratio * dim)

    def forward(self, cls: Tensor, x: Tensor, tables: RotaryTables) -> tuple[Tensor, Tensor]:
        """Update scan tokens (B, C, dim) and patch tokens (B, T, S, dim)."""
        n_directions, n_cls = x.shape[1], cls.shape[1]
        x = x + self.attn_diffusion(self.norm1_diffusion(x), tables)
        x = x + self.mlp_diffusion(self.norm2_diffusion(x))
        everywhere = torch.cat([repeat(cls, "b c d -> b t c d", t=n_directions), x], dim=2)
        rows = rearrange(self.norm1_space(everywhere), "b t n d -> (b t) n d")
        r = rearrange(self.attn_space(rows), "(b t) n d -> b t n d", t=n_directions)
        cls = cls + reduce(r[:, :, :n_cls], "b t c d -> b c d", "mean")
        x = x + r[:, :, n_cls:]
        cls = cls + self.mlp_space(self.norm2_space(cls))
        x = x + self.mlp_space(self.norm2_space(x))
        return cls, x


class PositionCode(nn.Module):
    """[place | direction] code that is added to the tokens, half of the channels each."""

    def __init__(self, config: DropeConfig, dim: int) -> None:
        super().__init__()
        self.is_dyadic = config.direction_code == "dyadic"
        self.pos_scale = config.pos_scale
        self.place_dim = dim // 2
        self.qpos_embed = nn.Linear(6 if self.is_dyadic else 3, dim - self.place_dim)

    def forward(self, qspace: Tensor, positions: Tensor) -> Tensor:
        """Encode (B, T, 3) measurements and (B, S, 3) patch centres as (B, T, S, dim)."""
        if self.is_dyadic:
            code = qspace[..., :1] * dyadic_code(qspace_directions(qspace))
        else:
            code = qspace
        direction = self.qpos_embed(code.to(self.qpos_embed.weight.dtype))
        place = sincos_positions(positions * self.pos_scale, self.place_dim)
        n_directions, n_places = qspace.shape[1], positions.shape[1]
        return torch.cat(
            [
                repeat(place, "b s d -> b t s d", t=n_directions),
                repeat(direction, "b t d -> b t s d", s=n_places),
            ],
            dim=-1,
        )


class Drope(nn.Module):
    """Encoder: patches of all directions to scan features and patch tokens."""

    def __init__(self, config: DropeConfig) -> None:
        super().__init__()
        self.config = config
        n_voxels = config.patch[0] * config.patch[1] * config.patch[2]
        self.patch_mlp = nn.Linear(n_voxels, config.dim)
        self.position = PositionCode(config, config.dim)
        self.cls_token = nn.Parameter(torch.randn(1, config.n_cls, config.dim) * 0.02)
        self.blocks = nn.ModuleList(
            DropeBlock(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.ln = nn.LayerNorm(config.dim, eps=1e-5)

    def forward(self, patches: Tensor, qspace: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Encode scans.

        Parameters
        ----------
        patches
            Shape (B, T, S, P): S/S0 of S patches of P voxels in T directions, zero outside the
            brain.
        qspace
            Shape (B, T, 3): rho = b / 1000, theta, phi; b-vectors in the grid's RAS frame.
        positions
            Shape (B, S, 3): patch centres in voxels of the model's grid.

        Returns
        -------
        cls : Tensor
            Shape (B, n_cls * dim).
        tokens : Tensor
            Shape (B, T, S, dim).
        """
        config = self.config
        x = self.patch_mlp((patches - config.signal_mean) / config.signal_std)
        x = x + self.position(qspace, positions)
        tables = rotary_tables(
            qspace, config.dim // config.heads, gamma=config.gamma, base=config.base, dtype=x.dtype
        )
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        for block in self.blocks:
            cls, x = block(cls, x, tables)
        return rearrange(self.ln(cls), "b c d -> b (c d)"), self.ln(x)


def patchify(volumes: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Cut (B, T, X, Y, Z) into (B, T, S, P), patches and voxels in C order of their axes."""
    p1, p2, p3 = patch
    return rearrange(
        volumes, "b t (h p1) (w p2) (z p3) -> b t (h w z) (p1 p2 p3)", p1=p1, p2=p2, p3=p3
    )


def unpatchify(
    patches: Tensor, patch: tuple[int, int, int], patch_grid: tuple[int, int, int]
) -> Tensor:
    """Assemble (B, T, S, P) into (B, T, X, Y, Z); inverse of :func:`patchify`."""
    (p1, p2, p3), (h, w, z) = patch, patch_grid
    return rearrange(
        patches,
        "b t (h w z) (p1 p2 p3) -> b t (h p1) (w p2) (z p3)",
        p1=p1,
        p2=p2,
        p3=p3,
        h=h,
        w=w,
        z=z,
    )
