"""From patch tokens to features of the whole scan, without anything fitted."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dmri_fm.encoders.drope.rotary import qspace_directions
from dmri_fm.gradients import group_shells
from dmri_fm.layers import dyadic_code

#: Anisotropic terms of an even spherical harmonic series up to order 2.
ANISOTROPIC_TERMS = 5


def pool_tokens(tokens: Tensor, qspace: Tensor) -> Tensor:
    """Return what tokens are in the mean, and how much they differ between directions.

    Parameters
    ----------
    tokens
        Shape (T, S, d), of one scan.
    qspace
        Shape (T, 3): rho = b / 1000, theta, phi.

    Returns
    -------
    Tensor
        Shape (2 d,): means over directions and patches; and :func:`direction_deviation`.
    """
    return torch.cat([tokens.mean(dim=(0, 1)), direction_deviation(tokens, qspace)])


def direction_deviation(tokens: Tensor, qspace: Tensor) -> Tensor:
    """Return by how much tokens differ between directions of a shell, beyond noise.

    In every patch the tokens are regressed on the mean of each shell and on the anisotropic
    harmonics of order 2, weighted by b. What the harmonics explain is the signal; the residual
    variance is taken as that of noise, and the share of it that the harmonics explain by chance is
    taken off. So the expectation does not depend on the number of directions, as far as tokens
    follow these harmonics; what follows higher orders counts as noise.

    Parameters
    ----------
    tokens
        Shape (T, S, d).
    qspace
        Shape (T, 3).

    Returns
    -------
    Tensor
        Shape (d,): root of the variance over directions, mean over patches; zero where its
        estimate is negative, because the harmonics explain less than they would of noise. NaN
        where there are no more directions than terms (shells plus five), as where every b-value
        is a shell of its own: the noise is unknown.
    """
    n = len(tokens)
    shells = group_shells(1000.0 * qspace[:, 0].cpu().numpy())
    freedom = n - len(shells) - ANISOTROPIC_TERMS
    if freedom < 1:
        return tokens.new_full((tokens.shape[-1],), math.nan)
    means = np.zeros((n, len(shells)))
    for number, shell in enumerate(shells):
        means[shell, number] = 1.0 / math.sqrt(len(shell))
    within = torch.from_numpy(means).to(tokens)
    axes = qspace_directions(qspace.double())
    code = (qspace[:, :1].double() * _anisotropic(dyadic_code(axes))).to(tokens)
    code, _ = torch.linalg.qr(code - within @ (within.T @ code))
    flat = tokens.flatten(1)
    about = flat - within @ (within.T @ flat)
    explained = (code.T @ about).square().sum(dim=0)
    noise = (about.square().sum(dim=0) - explained) / freedom
    variance = ((explained - ANISOTROPIC_TERMS * noise) / n).unflatten(0, tokens.shape[1:])
    deviation: Tensor = variance.mean(dim=0).clamp(min=0.0).sqrt()
    return deviation


def _anisotropic(code: Tensor) -> Tensor:
    """Return the five traceless combinations (T, 5) of v v^T (T, 6)."""
    xx, xy, xz, yy, yz, zz = code.unbind(-1)
    return torch.stack([xy, xz, yz, (xx - yy) / 2**0.5, (2 * zz - xx - yy) / 6**0.5], dim=-1)
