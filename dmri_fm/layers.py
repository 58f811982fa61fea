"""Building blocks that more than one network uses."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional


class Mlp(nn.Module):
    """Two linear layers with a GELU between them, on the last axis."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., dim) to (..., dim)."""
        out: Tensor = self.linear2(functional.gelu(self.linear1(x)))
        return out


class SelfAttention(nn.Module):
    """Ordinary multi-head self-attention without dropout; no bias on q, k and v."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Let the tokens of each row see one another: (batch, token, dim) to the same."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out_proj(rearrange(mixed, "b h n d -> b n (h d)"))
        return out


def sincos_positions(positions: Tensor, dim: int) -> Tensor:
    """Encode points by sines and cosines of growing wavelength.

    Parameters
    ----------
    positions
        Shape (..., 3).
    dim
        Length of the code, a multiple of 6: dim / 3 numbers for each axis, the sines of all
        frequencies first, then the cosines.

    Returns
    -------
    Tensor
        Shape (..., dim), dtype of `positions`.
    """
    if dim % 6:
        raise ValueError(f"dim is {dim}, expected a multiple of 6")
    n_frequencies = dim // 6
    exponent = torch.arange(n_frequencies, dtype=torch.float64, device=positions.device)
    omega = 10000.0 ** (-exponent / n_frequencies)
    angle = positions.to(torch.float64)[..., None] * omega
    code = torch.cat([angle.sin(), angle.cos()], dim=-1)
    return rearrange(code, "... xyz f -> ... (xyz f)").to(positions.dtype)


def dyadic_code(directions: Tensor) -> Tensor:
    """Write axes as v v^T, which is equal for v and -v and has no seam anywhere.

    Parameters
    ----------
    directions
        Shape (..., 3), unit vectors.

    Returns
    -------
    Tensor
        Shape (..., 6): xx, xy, xz, yy, yz, zz; the mixed products carry a factor sqrt(2), so
        that the Euclidean norm is the Frobenius norm, which is one.
    """
    x, y, z = directions.unbind(-1)
    mixed = 2.0**0.5
    return torch.stack([x * x, mixed * x * y, mixed * x * z, y * y, mixed * y * z, z * z], dim=-1)


def conv3d(n_in: int, n_out: int, kernel: int, *, dilation: int = 1) -> nn.Conv3d:
    """Build a convolution that keeps the grid (zeros beyond the border)."""
    return nn.Conv3d(n_in, n_out, kernel, padding=dilation * (kernel - 1) // 2, dilation=dilation)


class ResidualBlock(nn.Module):
    """x + convolution(ReLU(convolution(x))).

    Parameters
    ----------
    channels
        Number of channels of x.
    branch_scale
        Factor on the initial weights of the last convolution.
    """

    def __init__(self, channels: int, branch_scale: float) -> None:
        super().__init__()
        self.first = conv3d(channels, channels, 3)
        self.second = conv3d(channels, channels, 3)
        quieten(self.second, branch_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, X, Y, Z) to the same."""
        out: Tensor = x + self.second(self.first(x).relu_())
        return out


def quieten(last: nn.Conv3d, scale: float) -> None:
    """Scale down the initial weights of the last convolution of a branch; no bias."""
    with torch.no_grad():
        last.weight *= scale
        assert last.bias is not None
        last.bias.zero_()
