"""Signal of the training generator's heads, and the tensor that is true of it.

White matter holds up to three fibre populations, each a stick within a zeppelin; grey matter is
isotropic with gamma-distributed diffusivity, a part of it fibres that follow the cortex' normal;
CSF and lesions are isotropic. The mixture is not a tensor, as tissue is not: its *true tensor* is
the one that weighted least squares finds in the noise-free signal of a dense set of directions
at one b-value, point spread included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dmri_fm.simulate.anatomy import N_REGIONS
from dmri_fm.simulate.fields import log_uniform, normal, uniform
from dmri_fm.simulate.heads import Heads
from dmri_fm.simulate.signal import dense_directions

__all__ = ["Tissues", "dense_shell", "draw_tissues", "fit_shell", "mixture"]

#: Diffusivity of free water in the body, with a margin, um^2/ms.
FASTEST = 3.5


@dataclass(frozen=True, eq=False)
class Tissues:
    """Diffusion properties of a batch of heads; diffusivities in um^2/ms.

    Attributes
    ----------
    white
        Shape (B, N_REGIONS, 8): stick fraction, diffusivity along and across the stick (its
        dispersion), parallel and radial zeppelin diffusivity, weights of the three populations.
    grey
        Shape (B, 5): mean and gamma shape of the diffusivity, share of cortical fibres, their
        parallel and radial diffusivity.
    csf, lesion
        Shape (B,): diffusivities.
    intensity
        Shape (B, 4): b=0 intensity of white matter, grey matter, CSF and lesion.
    """

    white: Tensor
    grey: Tensor
    csf: Tensor
    lesion: Tensor
    intensity: Tensor


def draw_tissues(generator: torch.Generator, n: int) -> Tissues:
    """Draw diffusivities and b=0 contrast: healthy and diseased brains, all scanners."""

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return uniform(generator, low, high, n, *shape)

    def vary(deviation: float) -> Tensor:
        return torch.exp(deviation * normal(generator, n, N_REGIONS))

    stick = (draw(0.4, 0.65, 1) + 0.07 * normal(generator, n, N_REGIONS)).clamp(0.15, 0.8)
    along = draw(1.2, 1.9, 1) * vary(0.13)
    parallel = draw(0.9, 1.5, 1) * vary(0.13)
    radial = torch.minimum(draw(0.3, 0.7, 1) * vary(0.16), 0.8 * parallel)
    across = (draw(0.05, 0.35, 1) * vary(0.4)).clamp(max=0.6) * along
    # Most voxels of white matter hold more than one population (Jeurissen et al. 2013,
    # doi:10.1002/hbm.22099).
    crosses = draw(0.0, 1.0, N_REGIONS)
    second = draw(0.1, 0.5, N_REGIONS) * (crosses < 0.8)
    third = draw(0.1, 0.33, N_REGIONS) * (crosses < 0.3)
    weights = [(1 - second) * (1 - third), second * (1 - third), third]
    white = torch.stack([stick, along, across, parallel, radial, *weights], dim=-1)
    cortical = draw(1.1, 1.6)
    grey = torch.stack(
        [draw(0.65, 0.95), draw(3.0, 12.0), draw(0.0, 0.4), cortical, cortical * draw(0.5, 0.9)],
        -1,
    )
    # Proton density and T2 of white matter, grey matter, CSF and lesion at one echo time; short
    # repetition times leave CSF saturated.
    echo_ms = draw(50.0, 120.0)
    t2_ms = torch.stack(
        [draw(60.0, 85.0), draw(75.0, 110.0), draw(400.0, 1500.0), draw(100.0, 300.0)], -1
    )
    density = torch.stack(
        [
            draw(0.65, 0.72),
            draw(0.78, 0.85),
            draw(0.5, 1.0),
            draw(0.75, 0.95),
        ],
        -1,
    )
    intensity = density * torch.exp(-echo_ms[:, None] / t2_ms)
    scale = log_uniform(generator, 50.0, 2000.0, n, 1)
    return Tissues(
        white,
        grey,
        draw(2.6, 3.2),
        draw(1.0, 2.4),
        scale * intensity / intensity[:, :1],
    )


def mixture(heads: Heads, tissues: Tissues, bvals: Tensor, bvecs: Tensor) -> Tensor:
    """Compute the signal of heads, without noise, blur or bias.

    Parameters
    ----------
    heads, tissues
        A batch.
    bvals
        Shape (B, N), ms/um^2.
    bvecs
        Shape (B, N, 3), unit, RAS+; anything at b=0.

    Returns
    -------
    Tensor
        Shape (B, N, X, Y, Z), scanner units, zero outside the brain.
    """
    n, _, *size = heads.fractions.shape
    n_volumes = bvals.shape[1]
    amounts = heads.fractions.flatten(2) * tissues.intensity[..., None]
    white, grey, csf, lesion = amounts.unbind(1)
    row = torch.arange(n, device=white.device)[:, None]
    picked = tissues.white[row, heads.bundle.flatten(1)]  # (B, V, 8)
    stick, along, across, parallel, radial, *shares = picked.movedim(2, 0).contiguous()
    mean, gamma, fibrous, cortex_along, cortex_across = tissues.grey[..., None].unbind(1)
    folded = grey * fibrous
    # Axes, and what decays along them: amount, diffusivity across, and how much more along.
    fibres = [
        (axes, [(white * stick * share, across, along - across),
                (white * (1 - stick) * share, radial, parallel - radial)])
        for axes, share in zip(heads.fibres.flatten(3).unbind(1), shares, strict=True)
    ]  # fmt: skip
    extra = cortex_along - cortex_across
    fibres.append((heads.cortical.flatten(2), [(folded, cortex_across, extra)]))
    free = [(csf, tissues.csf[:, None]), (lesion, tissues.lesion[:, None])]
    out = torch.empty(n, n_volumes, white.shape[1], device=white.device)
    # One volume after the other: its arrays stay in the cache of a processor.
    for k in range(n_volumes):
        b, g = bvals[:, k, None], bvecs[:, k, :, None]
        total = (grey - folded) * (1 + b * mean / gamma) ** -gamma
        for amount, diffusivity in free:
            total.addcmul_(amount, torch.exp(-b * diffusivity))
        for axes, decays in fibres:
            cosine = axes[:, 0] * g[:, 0]
            cosine.addcmul_(axes[:, 1], g[:, 1]).addcmul_(axes[:, 2], g[:, 2]).square_()
            for amount, least, more in decays:
                total.addcmul_(amount, torch.addcmul(least, cosine, more).mul_(-b).exp_())
        out[:, k] = total
    return out.reshape(n, n_volumes, *size)


@lru_cache(maxsize=2)
def dense_shell(device: torch.device) -> Tensor:
    """Return the axes (30, 3) whose noise-free signal defines the true tensor."""
    return torch.tensor(dense_directions(), dtype=torch.float32, device=device)


def fit_shell(signal: Tensor, s0: Tensor, bval: Tensor) -> Tensor:
    """Fit tensors to the noise-free signals of the axes of :func:`dense_shell`.

    Weighted least squares of the log-signal, weights the squared signal, b=0 exact. No
    diffusivity is negative or above that of free water, wherever ringing has put the signal.

    Parameters
    ----------
    signal
        Shape (B, 30, ...).
    s0
        Shape (B, ...): b=0; the tensor is zero where it is.
    bval
        Shape (B,), ms/um^2.

    Returns
    -------
    Tensor
        Shape (B, 6, ...), um^2/ms, order xx, xy, xz, yy, yz, zz.
    """
    x, y, z = dense_shell(signal.device).to(signal.dtype).unbind(1)
    design = torch.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z], dim=1)
    b = bval[:, None, None]
    ratio = (signal / s0.clamp(min=1e-12)[:, None]).flatten(2)
    ratio = torch.minimum(torch.maximum(ratio, torch.exp(-FASTEST * b)), torch.ones_like(b))
    weight = ratio.square()
    adc = -ratio.log() / b
    pairs = [(i, j) for i in range(6) for j in range(i + 1)]
    products = torch.stack([design[:, i] * design[:, j] for i, j in pairs])
    entries = dict(zip(pairs, torch.matmul(products, weight).unbind(1), strict=True))
    right = torch.matmul(design.T, weight * adc)
    found = torch.stack(list(_solve(entries, list(right.unbind(1)))), dim=1)
    found = found.reshape(len(signal), 6, *signal.shape[2:])
    return torch.where(s0[:, None] > 0, found, 0.0)


def _solve(matrix: dict[tuple[int, int], Tensor], right: list[Tensor]) -> Iterator[Tensor]:
    """Solve symmetric systems by Cholesky, element by element: six unknowns in every voxel."""
    n = len(right)
    low: dict[tuple[int, int], Tensor] = {}
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j].clone()
            for k in range(j):
                total -= low[i, k] * low[j, k]
            low[i, j] = total.clamp(min=1e-20).sqrt() if i == j else total / low[j, j]
    y: list[Tensor] = []
    for i in range(n):
        total = right[i].clone()
        for k in range(i):
            total -= low[i, k] * y[k]
        y.append(total / low[i, i])
    for i in reversed(range(n)):
        total = y[i].clone()
        for k in range(i + 1, n):
            total -= low[k, i] * y[k]
        y[i] = total / low[i, i]
    return iter(y)
