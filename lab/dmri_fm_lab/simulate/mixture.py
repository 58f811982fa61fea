"""Signal of the training generator's brains, and the tensor that is true of it.

White matter holds up to three fibre populations, each a stick within a zeppelin; grey matter is
isotropic with gamma-distributed diffusivity, but for fibres that follow the cortex' normal and
others that go on from the white matter; CSF and lesions are isotropic. The mixture is not a
tensor, as tissue is not: its *true tensor* is the weighted least-squares fit to the
noise-free signal of a dense set of directions at one b-value, point spread included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from dmri_fm.tensor_design import quadratic_columns, to_matrices
from dmri_fm_lab.simulate.brains import Brains
from dmri_fm_lab.simulate.fibres import N_REGIONS
from dmri_fm_lab.simulate.fields import log_uniform, normal, uniform, unit

#: Diffusivity of free water in the body, with a margin, um^2/ms.
FASTEST = 3.5

#: Voxels that are worked on together: the arrays of a few tens of volumes stay in the cache of a
#: processor.
_VOXELS_PER_PASS = 2**15


@dataclass(frozen=True, eq=False)
class Tissues:
    """Diffusion properties of a batch of brains; diffusivities in um^2/ms.

    Attributes
    ----------
    white
        Shape (B, N_REGIONS, 6): stick fraction, diffusivity along and across the stick (its
        dispersion), parallel and radial zeppelin diffusivity, share of crossing fibres.
    grey
        Shape (B, N_REGIONS, 6): mean and gamma shape of the diffusivity, shares of fibres along
        the cortex' normal and along the bundle, their parallel and radial diffusivity.
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

    def one(self, index: int) -> Tissues:
        """Return one sample of the batch, as a batch of one."""
        return Tissues(*(getattr(self, f.name)[index : index + 1] for f in fields(self)))


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
    # doi:10.1002/hbm.22099), here by these or by a neighbour that mixes in.
    crossing = draw(0.05, 0.45, N_REGIONS) * (draw(0.0, 1.0, N_REGIONS) < 0.6)
    white = torch.stack([stick, along, across, parallel, radial, crossing], dim=-1)
    # Grey matter is anisotropic: the cortex by .1 to .2 (McNab et al. 2013,
    # doi:10.1016/j.neuroimage.2012.11.065), the thalamus more.
    cortical = draw(1.1, 1.7, 1) * vary(0.1)
    grey = torch.stack(
        [
            draw(0.65, 0.95, 1) * vary(0.08),
            draw(3.0, 12.0, 1).expand(n, N_REGIONS),
            draw(0.2, 1.0, 1) * draw(0.0, 0.5, N_REGIONS),
            draw(0.2, 1.0, 1) * draw(0.0, 0.5, N_REGIONS),
            cortical,
            cortical * draw(0.15, 0.7, 1),
        ],
        dim=-1,
    )
    # Proton density and T2 of white matter, grey matter, CSF and lesion at one echo time; short
    # repetition times leave CSF saturated.
    echo_ms = draw(50.0, 120.0)
    t2_ms = torch.stack(
        [draw(60.0, 85.0), draw(75.0, 110.0), draw(400.0, 1500.0), draw(100.0, 300.0)], -1
    )
    density = [draw(0.65, 0.72), draw(0.78, 0.85), draw(0.4, 1.0), draw(0.75, 0.95)]
    intensity = torch.stack(density, -1) * torch.exp(-echo_ms[:, None] / t2_ms)
    scale = log_uniform(generator, 50.0, 2000.0, n, 1)
    return Tissues(
        white, grey, draw(2.6, 3.2), draw(1.0, 2.4), scale * intensity / intensity[:, :1]
    )


def mixture(brains: Brains, tissues: Tissues, bvals: Tensor, bvecs: Tensor) -> Tensor:
    """Compute the signal of brains, without noise, blur or bias.

    Parameters
    ----------
    brains, tissues
        A batch.
    bvals
        Shape (B, N), ms/um^2.
    bvecs
        Shape (B, N, 3), unit, RAS+; not read at b=0.

    Returns
    -------
    Tensor
        Shape (B, N, X, Y, Z), scanner units, zero outside the brain.
    """
    n, _, *size = brains.fractions.shape
    out = torch.zeros(n, bvals.shape[1], math.prod(size), device=bvals.device)
    for k in range(n):
        for voxels in _passes(brains.mask[k]):
            values = signals_at(brains.one(k), tissues.one(k), voxels, bvals[k], bvecs[k])
            out[k].index_copy_(1, voxels, values)
    return out.reshape(n, -1, *size)


def signals_at(
    brains: Brains, tissues: Tissues, voxels: Tensor, bvals: Tensor, bvecs: Tensor
) -> Tensor:
    """Compute the signals (N, V) of V voxels of one brain, as :func:`mixture` does.

    Parameters
    ----------
    brains, tissues
        Batches of one.
    voxels
        Shape (V,): flat indices.
    bvals, bvecs
        Shapes (N,), ms/um^2, and (N, 3).
    """
    fractions = brains.fractions[0].flatten(1)[:, voxels]
    bundle = brains.bundle[0].flatten()[voxels]
    fibres = brains.fibres[0].flatten(2)[..., voxels]
    neighbour = brains.neighbour[0].flatten()[voxels]
    cortical = brains.cortical[0].flatten(1)[:, voxels]
    properties = torch.cat([tissues.white[0], tissues.grey[0]], dim=1).T[:, bundle]
    # Diffusion weighting of each volume along the three axes: the squared product with an axis
    # of fibres is the b-value along them.
    weighting = bvals.sqrt()[:, None] * bvecs
    bvals = bvals[:, None]
    white_matter, grey_matter, csf, lesion = fractions * tissues.intensity[0, :, None]
    stick, along, across, parallel, radial, crossing = properties[:6]
    mean, gamma, radially, onwards, cortex_along, cortex_across = properties[6:]
    shares = _fibre_shares(crossing, neighbour)
    # Axes, each with its compartments: amount, diffusivity across, and its excess along.
    compartments = [
        (axis, [(white_matter * stick * share, across, along - across),
                (white_matter * (1 - stick) * share, radial, parallel - radial)])
        for axis, share in zip(fibres, shares, strict=True)
    ]  # fmt: skip
    extra = cortex_along - cortex_across
    compartments.append((cortical, [(grey_matter * radially, cortex_across, extra)]))
    compartments[0][1].append((grey_matter * onwards, cortex_across, extra))
    rest = grey_matter * (1 - radially - onwards)
    total: Tensor = (1 + bvals * mean / gamma) ** -gamma * rest
    total.addcmul_(torch.exp(-bvals * tissues.csf), csf)
    total.addcmul_(torch.exp(-bvals * tissues.lesion), lesion)
    gx, gy, gz = weighting.T[..., None]
    for (x, y, z), decays in compartments:
        bvals_along = (gx * x).addcmul_(gy, y).addcmul_(gz, z).square_()
        for amount, least, more in decays:
            exponent = torch.mul(bvals_along, -more).addcmul_(bvals, -least)
            total.addcmul_(amount, exponent.exp_())
    return total


def fibre_amounts(brains: Brains, tissues: Tissues) -> Tensor:
    """Return the white matter of each population of fibres of :class:`.brains.Brains`.

    Shape (B, 3, X, Y, Z): volume fractions, which add up to that of white matter.
    """
    crossing = torch.stack(
        [of[bundle] for of, bundle in zip(tissues.white[..., 5], brains.bundle, strict=True)]
    )
    shares = torch.stack(_fibre_shares(crossing, brains.neighbour), dim=1)
    return shares * brains.fractions[:, :1]


def _fibre_shares(crossing: Tensor, neighbour: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the shares of a voxel's bundle, its neighbour's fibres, and those that cross."""
    return (1 - crossing) * (1 - neighbour), (1 - crossing) * neighbour, crossing


def _passes(mask: Tensor) -> tuple[Tensor, ...]:
    """Return the flat indices of the voxels in a mask, in pieces that fit into a cache."""
    voxels: tuple[Tensor, ...] = mask.flatten().nonzero()[:, 0].split(_VOXELS_PER_PASS)
    return voxels


@lru_cache(maxsize=2)
def dense_shell(device: torch.device) -> Tensor:
    """Return the axes (16, 3) whose noise-free signal defines the true tensor.

    The corners and the centres of the faces of an icosahedron: up to 8 % in their weights they
    integrate polynomials of degree 9 exactly, so that the fit is that of 200 directions to
    within 0.01 um^2/ms at b=1000.
    """
    golden = (1 + 5**0.5) / 2
    axes = torch.tensor(
        [
            *((0.0, 1.0, golden), (1.0, golden, 0.0), (golden, 0.0, 1.0)),
            *((0.0, -1.0, golden), (-1.0, golden, 0.0), (golden, 0.0, -1.0)),
            *((1.0, 1.0, 1.0), (-1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, -1.0)),
            *((0.0, golden, 1 / golden), (golden, 1 / golden, 0.0), (1 / golden, 0.0, golden)),
            *((0.0, golden, -1 / golden), (golden, -1 / golden, 0.0), (-1 / golden, 0.0, golden)),
        ],
        device=device,
    )
    return unit(axes, 1)


def fit_shell(signal: Tensor, s0: Tensor, bval: Tensor) -> Tensor:
    """Fit tensors to the noise-free signals of the axes of :func:`dense_shell`.

    Weighted least squares of the log-signal, weights the squared signal, b=0 exact. The signal
    is clipped, against ringing, so that apparent diffusivities lie between zero and free water's.

    Parameters
    ----------
    signal
        Shape (B, 16, ...).
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
    design = torch.stack(quadratic_columns(x, y, z))  # (6, 16)
    pairs = [(i, j) for i in range(6) for j in range(i + 1)]
    products = torch.stack([design[i] * design[j] for i, j in pairs])
    out = signal.new_zeros(len(signal), 6, s0[0].numel())
    for k, b in enumerate(bval):
        for voxels in _passes(s0[k] > 0):
            ratio = signal[k].flatten(1)[:, voxels] / s0[k].flatten()[voxels]
            ratio = ratio.clamp_(torch.exp(-FASTEST * b), torch.ones_like(b))
            weight = ratio.square()
            entries = dict(zip(pairs, torch.matmul(products, weight), strict=True))
            right = torch.matmul(design, ratio.log_().mul_(weight)) / -b
            found = torch.stack(list(_solve(entries, list(right))))
            out[k].index_copy_(1, voxels, found)
    return out.reshape(len(signal), 6, *s0.shape[1:])


def scalars(tensor: Tensor) -> dict[str, Tensor]:
    """Return FA, MD, AD, RD and principal direction of tensors, by their names in files.

    Parameters
    ----------
    tensor
        Shape (6, X, Y, Z), order xx, xy, xz, yy, yz, zz.

    Returns
    -------
    dict
        ``fa``, ``md``, ``ad``, ``rd``: shape (X, Y, Z), in the tensor's unit; ``v1``: shape
        (X, Y, Z, 3), unit, of any sign.
    """
    values, vectors = torch.linalg.eigh(to_matrices(tensor.movedim(0, -1)).double())
    md = values.mean(dim=-1)
    spread = (values - md[..., None]).square().sum(dim=-1)
    fa = (1.5 * spread / values.square().sum(dim=-1).clamp(min=1e-30)).sqrt()
    found = {
        "fa": fa,
        "md": md,
        "ad": values[..., 2],
        "rd": values[..., :2].mean(dim=-1),
        "v1": vectors[..., 2],
    }
    return {name: value.to(tensor.dtype) for name, value in found.items()}


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
