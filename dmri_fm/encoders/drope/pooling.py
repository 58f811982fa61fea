"""From patch tokens to features of the whole scan."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pool_tokens(tokens: Tensor) -> Tensor:
    """Return what tokens are in the mean, and how much they differ between directions.

    Parameters
    ----------
    tokens
        Shape (B, T, S, d).

    Returns
    -------
    Tensor
        Shape (B, 2 d): means over directions and places; means over places of the standard
        deviation over directions, which is zero if there is one alone.
    """
    over_directions = tokens.std(dim=1, correction=0).mean(dim=1)
    return torch.cat([tokens.mean(dim=(1, 2)), over_directions], dim=-1)


class ScanReadout(nn.Module):
    """Pool tokens, and take off what differs between two measurements of the same tissue.

    A linear map, the identity until :meth:`fit`. It is no part of what gradients train.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(2 * dim, 2 * dim))
        self.register_buffer("bias", torch.empty(2 * dim))
        self.reset()

    def reset(self) -> None:
        """Return to the identity, for an encoder that is about to change."""
        nn.init.eye_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, S, d) to features (B, 2 d)."""
        return pool_tokens(tokens) @ self.weight.T + self.bias

    def fit(self, first: Tensor, second: Tensor, *, ridge: float = 0.1) -> None:
        """Find the Wiener filter of what two measurements of the same tissue do not share.

        That is noise, and the choice of directions. Its covariance comes from the differences of
        the pairs; the rest of the covariance of all measurements is that of the tissues and heads.

        Parameters
        ----------
        first, second
            Shape (N, 2 d): pooled tokens of N tissues in some head, each scanned twice at the
            same b-values with directions and noise of its own.
        ridge
            Variance that is added to that of the differences, over its mean.
        """
        a, b = first.double(), second.double()
        both = torch.cat([a, b])
        centre = both.mean(dim=0)
        total = (both - centre).T @ (both - centre) / len(both)
        noise = (a - b).T @ (a - b) / (2 * len(a))
        values, vectors = torch.linalg.eigh(total - noise)
        signal = (vectors * values.clamp(min=0.0)) @ vectors.T
        added = ridge * noise.diagonal().mean().clamp(min=1e-12) * torch.eye(len(noise)).to(noise)
        weight = torch.linalg.solve(signal + noise + added, signal).T
        self.weight.copy_(weight)
        self.bias.copy_(centre - weight @ centre)

    @property
    def is_fitted(self) -> bool:
        """Whether the map is another than the identity."""
        return not torch.equal(self.weight, torch.eye(len(self.weight)).to(self.weight))
