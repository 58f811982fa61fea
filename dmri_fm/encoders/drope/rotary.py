"""D-RoPE: attention across directions that knows how far apart they lie in q-space.

The score of two directions rotates the query against the key by an angle that grows with the
distance D(m, n) of the measurements. Channels come in adjacent pairs (1, 2):

    score(m, n) = d^-1/2 sum over pairs of
        k1 (cos1 q1 + sin2 q2) + k2 (cos2 q2 - sin1 q1),

where cos1 is cos(D a1), and so on, and a1, a2 are the frequencies of the two channels. As
published the two are equal, and this is q^T R k with 2x2 rotations R; the authors' code lays the
frequencies over the channels in another order ("tiled"), which is no rotation. Both are one
formula with one frequency a channel.

Method: Kung et al. 2026, https://doi.org/10.48550/arXiv.2603.25977.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor

from dmri_fm.errors import GradientError

#: Layout of the frequencies over channels. "paired": both channels of the adjacent pair i have
#: a_i, as published. "tiled": channel c has a_(c mod d/2), as in the authors' code. "none": no
#: channel turns, which leaves plain attention, for ablations.
Layout = Literal["paired", "tiled", "none"]

#: Largest error of a rotary table entry that its low-rank form may leave.
TABLE_TOLERANCE = 1e-6


def check_table(qspace: Tensor, n_volumes: int) -> None:
    """Refuse a gradient table (B, T, 3) of another number of volumes, by a GradientError."""
    if qspace.ndim == 3 and qspace.shape[1] != n_volumes:
        raise GradientError(
            f"a gradient table of {qspace.shape[1]} rows for {n_volumes} volumes",
            expected="one row (rho, theta, phi) a volume",
        )


def find_weighted(qspace: Tensor) -> Tensor | None:
    """Check gradient tables and find the volumes that are not b=0.

    Parameters
    ----------
    qspace
        Shape (B, T, 3): rho = b / 1000, theta, phi; rho is 0 for b=0.

    Returns
    -------
    Tensor or None
        Indices of the weighted volumes, the same for all scans of the batch; None if all are.

    Raises
    ------
    GradientError
        If there is no direction, a vector or b-value is missing (not finite) or negative, every
        volume is b=0, or the scans of the batch differ in which volumes are.
    """
    if qspace.ndim != 3 or qspace.shape[-1] != 3 or 0 in qspace.shape:
        raise GradientError(
            f"a gradient table of shape {tuple(qspace.shape)}",
            expected="(scans, directions, 3): rho, theta, phi, with one direction or more",
        )
    # At b=0 there is no direction to miss. The table has decided which volumes are b=0: rho is 0.
    is_known = torch.isfinite(qspace).all(dim=-1) | (qspace[..., 0] == 0)
    missing = ~is_known.all(dim=0)
    if missing.any():
        volumes = torch.nonzero(missing)[:, 0].tolist()
        raise GradientError(
            f"no b-value or no direction for volumes {volumes}",
            expected="finite rho, theta and phi for every volume",
        )
    rho = qspace[..., 0]
    if (rho < 0).any():
        raise GradientError("a negative b-value", expected="rho = b / 1000 of zero or more")
    is_weighted = rho > 0
    if not is_weighted.any():
        raise GradientError(
            f"all {rho.shape[1]} volumes are b=0",
            expected="at least one volume with rho above 0",
        )
    if is_weighted.all():
        return None
    if (is_weighted != is_weighted[:1]).any():
        raise GradientError(
            "scans of one batch have b=0 in different volumes",
            expected="the same volumes to be weighted in all scans",
            advice="leave b=0 volumes out, or encode one scan at a time",
        )
    return torch.nonzero(is_weighted[0])[:, 0]


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


def _angles(qspace: Tensor, head_dim: int, *, gamma: float, base: float, layout: Layout) -> Tensor:
    """Return D(m, n) base^(-2i/d) for the d/2 frequencies, (..., T, T, d/2), float64."""
    if layout == "none":
        n = qspace.shape[-2]
        return qspace.new_zeros(*qspace.shape[:-1], n, head_dim // 2, dtype=torch.float64)
    pairs = torch.arange(head_dim // 2, dtype=torch.float64, device=qspace.device)
    return qspace_distance(qspace, gamma=gamma)[..., None] * base ** (-2.0 * pairs / head_dim)


def _lay_out(values: Tensor, layout: Layout) -> Tensor:
    """Give each of d channels the number (last axis, d/2) of its frequency."""
    if layout == "paired":
        return repeat(values, "... i -> ... (i two)", two=2)
    return repeat(values, "... i -> ... (two i)", two=2)


def pair_tables(
    qspace: Tensor, head_dim: int, *, gamma: float, base: float, layout: Layout = "paired"
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines for all pairs of directions and channels, in full.

    Parameters
    ----------
    qspace
        Shape (..., T, 3).
    head_dim, gamma, base, layout
        See :func:`rotary_tables`.

    Returns
    -------
    cos, sin : Tensor
        Shape (..., T, T, d), float32.
    """
    angle = _angles(qspace, head_dim, gamma=gamma, base=base, layout=layout)
    cos, sin = (_lay_out(t.to(torch.float32), layout) for t in (angle.cos(), angle.sin()))
    return cos, sin


@dataclass(frozen=True)
class RotaryTables:
    """Cosines and sines of D(m, n) a_c for all pairs and channels, in joint low rank.

    cos(D a_c) ~ sum_j pair_j[m, n] cos_j[c], and likewise for the sine with the same `pair`.

    Attributes
    ----------
    pair
        Shape (B, J, T, T).
    cos, sin
        Shape (B, J, d).
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
    layout: Layout = "paired",
    dtype: torch.dtype = torch.float32,
) -> RotaryTables:
    """Prepare the rotations between all pairs of directions.

    The distances are those of a scan, the same for every patch position, and the matrix
    [pairs x (cosines | sines of all channels)] has a small rank because most frequencies are
    slow. Its singular vectors turn the rotation into a few ordinary matrix products.

    Parameters
    ----------
    qspace
        Shape (B, T, 3): rho, theta, phi.
    head_dim
        Channels d of one attention head, even.
    gamma
        Weight of the b-values in :func:`qspace_distance`.
    base
        The frequencies are base^(-2i/d), i = 0 .. d/2 - 1.
    layout
        Layout of the frequencies over channels.
    dtype
        Type of the tables; they are computed in float64.
    """
    angle = _angles(qspace, head_dim, gamma=gamma, base=base, layout=layout)
    n_directions = qspace.shape[-2]
    joint = rearrange(torch.cat([angle.cos(), angle.sin()], dim=-1), "b m n c -> b (m n) c")
    u, s, vh = torch.linalg.svd(joint, full_matrices=False)
    tail = s.square().flip(-1).cumsum(-1).flip(-1).sqrt().amax(dim=0)
    rank = max(1, int((tail > TABLE_TOLERANCE).sum()))
    pair = rearrange(u[..., :rank] * s[..., None, :rank], "b (m n) j -> b j m n", m=n_directions)
    cos, sin = (_lay_out(t, layout).to(dtype) for t in vh[:, :rank].chunk(2, dim=-1))
    return RotaryTables(pair.to(dtype), cos, sin)


def rotary_scores(q: Tensor, k: Tensor, tables: RotaryTables) -> Tensor:
    """Compute scores (B, S, heads, T, T) of queries and keys (B, S, heads, T, d)."""
    transposed = k.transpose(-1, -2)
    total = torch.zeros((), dtype=q.dtype, device=q.device)
    for j in range(tables.pair.shape[1]):
        cos, sin = (t[:, j, None, None, None, :] for t in (tables.cos, tables.sin))
        product = (q * cos + _swap_pairs(q * sin)) @ transposed
        total = total + tables.pair[:, j, None, None] * product
    scaled: Tensor = total * float(q.shape[-1]) ** -0.5
    return scaled


def _swap_pairs(x: Tensor) -> Tensor:
    """Turn each adjacent pair (x1, x2) into (x2, -x1)."""
    x = rearrange(x, "... (i two) -> ... i two", two=2)
    return rearrange(torch.stack([x[..., 1], -x[..., 0]], dim=-1), "... i two -> ... (i two)")
