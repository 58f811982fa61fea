"""Batches of random training scans: brains, protocols, signal and truth, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate.acquisition import (
    add_noise,
    apply_per_axis,
    distort,
    drop_slices,
    eddy_slopes,
    jitter_volumes,
    point_spread,
    real_gradients,
)
from dmri_fm_lab.simulate.brains import Brains, Variation, draw_brains
from dmri_fm_lab.simulate.fields import (
    log_uniform,
    normal,
    random_rotations,
    smooth_fields,
    uniform,
)
from dmri_fm_lab.simulate.mixture import (
    Tissues,
    count_populations,
    dense_shell,
    draw_tissues,
    fit_shell,
    mixture,
)
from dmri_fm_lab.simulate.protocol import check_request, truth_bval

__all__ = ["Batch", "draw_batch"]

#: SNR of white matter at b=0.
LEAST_SNR, LARGEST_SNR = 5.0, 120.0

#: Centres of patches, MNI mm.
_LOWEST_CENTRE, _HIGHEST_CENTRE = (-45.0, -75.0, -20.0), (45.0, 40.0, 50.0)


#: Brains that training patches are cut out of.
PATCHES = Variation(jitter=2.0, label_chance=0.2, slab_chance=0.1)


@dataclass(frozen=True, eq=False)
class Batch:
    """Simulated scans of one shape and their truth.

    Attributes
    ----------
    signal
        Shape (B, N, X, Y, Z), float32, scanner units: as measured.
    bvals
        Shape (B, N), s/mm^2, as the gradient table states them.
    bvecs
        Shape (B, N, 3), RAS+.
    truth_tensor
        Shape (B, 6, X, Y, Z), mm^2/s, RAS+, order xx, xy, xz, yy, yz, zz; zero outside the
        mask. None if it was not asked for.
    truth_bval
        Shape (B,), s/mm^2: b-value the true tensor belongs to.
    fractions
        Shape (B, 4, X, Y, Z): white matter, grey matter, CSF, lesion.
    n_populations
        Shape (B, X, Y, Z), int64: fibre populations that fill a tenth of a voxel or more.
    mask
        Shape (B, X, Y, Z), bool: the brain.
    sigma
        Shape (B,): noise of one channel in the middle of its field, scanner units.
    affine
        Shape (B, 4, 4), voxel to RAS+ mm.
    """

    signal: Tensor
    bvals: Tensor
    bvecs: Tensor
    truth_tensor: Tensor | None
    truth_bval: Tensor
    fractions: Tensor
    n_populations: Tensor
    mask: Tensor
    sigma: Tensor
    affine: Tensor


def draw_batch(
    generator: torch.Generator,
    gtabs: Sequence[GradientTable],
    *,
    shape: tuple[int, int, int],
    affine: Tensor | None = None,
    snr: float | None = None,
    atlas_weight: float | None = None,
    with_truth: bool = True,
) -> Batch:
    """Draw simulated scans with everything about them at random.

    Parameters
    ----------
    generator
        Source of randomness, on the device of the results: the same state gives the same batch.
    gtabs
        The protocol of each sample, of equal length, with b=0 and weighted volumes.
    shape
        X, Y, Z.
    affine
        Shape (4, 4), voxel to RAS+ mm of a grid in MNI space: the brains lie there, up to a few
        degrees and millimetres. If None: patches of random pose, place and voxel size (1.2 to
        4 mm, a quarter of them with thicker slices), one in five with random labels for tissues.
    snr
        b=0 intensity of white matter over sigma; 5 to 120, log-uniform, if None.
    atlas_weight
        How far orientations follow the rough atlas, 0 to 1; at random if None.
    with_truth
        Compute the true tensors, which takes much of the time.

    Raises
    ------
    ConfigError
        If an argument is out of range.
    """
    bvals, bvecs, shells = _protocols(gtabs, generator.device)
    check_request(shape, snr)
    n, device = len(gtabs), generator.device

    def draw(low: float, high: float, *more: int) -> Tensor:
        return uniform(generator, low, high, n, *more)

    brains = _draw_patch_brains(generator, n, shape, affine, atlas_weight)
    tissues = draw_tissues(generator, n)
    spread, smooth_spread = _draw_point_spreads(generator, n, shape)

    real_bvals, real_bvecs = real_gradients(generator, bvals / 1000, bvecs)
    signal, truth = _signal_and_truth(
        brains,
        tissues,
        real_bvals,
        real_bvecs,
        spread,
        shells / 1000 if with_truth else None,
        smooth_spread,
    )
    bias = smooth_fields(generator, shape, spacing=draw(60.0, 120.0, 1) / brains.voxel_mm)
    signal *= torch.exp(draw(0.0, 0.2, 1, 1, 1, 1) * bias)
    signal = _disturb(generator, signal, bvals, bvecs, brains.voxel_mm)
    ratio = (
        log_uniform(generator, LEAST_SNR, LARGEST_SNR, n)
        if snr is None
        else torch.full((n,), snr, device=device)
    )
    sigma = tissues.intensity[:, 0] / ratio
    return Batch(
        _add_uneven_noise(generator, signal, sigma, brains.voxel_mm),
        bvals,
        bvecs,
        truth,
        shells,
        brains.fractions,
        count_populations(brains, tissues),
        brains.mask,
        sigma,
        brains.affine,
    )


def _draw_patch_brains(
    generator: torch.Generator,
    n: int,
    shape: tuple[int, int, int],
    affine: Tensor | None,
    atlas_weight: float | None,
) -> Brains:
    """Draw brains on a given grid, or on patches of any pose; see :func:`draw_batch`."""
    if affine is not None:
        affine = _checked_affine(affine)
    if atlas_weight is not None and not 0 <= atlas_weight <= 1:
        raise ConfigError(f"atlas weight {atlas_weight:g}", expected="0 to 1")
    device = generator.device
    weight = (
        uniform(generator, 0.0, 1.0, n)
        if atlas_weight is None
        else torch.full((n,), atlas_weight).to(device)
    )
    if affine is not None:
        grids = affine.to(device).repeat(n, 1, 1)
        return draw_brains(generator, shape, grids, atlas_weight=weight)
    return draw_brains(
        generator,
        shape,
        _patch_affines(generator, n, shape),
        atlas_weight=weight,
        rotation=random_rotations(generator, n),
        variation=PATCHES,
    )


def _add_uneven_noise(
    generator: torch.Generator, signal: Tensor, sigma: Tensor, voxel_mm: Tensor
) -> Tensor:
    """Add noise of one coil or several, whose level varies in space; neighbours may correlate."""
    n, _, *size = signal.shape
    shape = (size[0], size[1], size[2])

    def draw(low: float, high: float, *more: int) -> Tensor:
        return uniform(generator, low, high, n, *more)

    uneven = smooth_fields(generator, shape, spacing=draw(60.0, 120.0, 1) / voxel_mm)
    sigma_map = sigma.reshape(n, 1, 1, 1, 1) * torch.exp(draw(0.0, 0.25, 1, 1, 1, 1) * uneven)
    # Interpolation by the scanner correlates the noise of neighbours in half of the scans.
    width = draw(0.3, 0.7) * (draw(0.0, 1.0) < 0.5)
    correlation = (
        point_spread(shape[0], blur_voxels=width),
        point_spread(shape[1], blur_voxels=width),
        point_spread(shape[2], blur_voxels=width),
    )
    n_coils = torch.where(draw(0.0, 1.0) < 0.25, 3, 1).tolist()
    return add_noise(generator, signal, sigma=sigma_map, n_coils=n_coils, correlation=correlation)


def _protocols(
    gtabs: Sequence[GradientTable], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return b-values (B, N), b-vectors (B, N, 3) and the true tensors' b-values (B,)."""
    if not gtabs or len({len(gtab) for gtab in gtabs}) != 1:
        raise ConfigError(
            f"protocols of {sorted({len(gtab) for gtab in gtabs})} volumes",
            expected="one or more protocols of equal length",
        )
    shells = [truth_bval(gtab) for gtab in gtabs]
    bvals = torch.tensor(np.stack([g.bvals for g in gtabs]), dtype=torch.float32, device=device)
    bvecs = torch.tensor(
        np.stack([g.bvecs_ras for g in gtabs]), dtype=torch.float32, device=device
    )
    return bvals, bvecs, torch.tensor(shells, dtype=torch.float32, device=device)


def _checked_affine(affine: Tensor) -> Tensor:
    is_square = affine.shape == (4, 4)
    if not is_square or not torch.isfinite(affine).all() or affine[:3, :3].det() == 0:
        raise ConfigError(f"affine {affine.tolist()}", expected="4 x 4, finite, of full rank")
    return affine.float()


def _patch_affines(generator: torch.Generator, n: int, shape: tuple[int, int, int]) -> Tensor:
    device = generator.device
    voxel_mm = uniform(generator, 1.2, 3.2, n, 1) * torch.exp(0.05 * normal(generator, n, 3))
    is_thick = uniform(generator, 0.0, 1.0, n) < 0.25
    voxel_mm[:, 2] *= torch.where(is_thick, uniform(generator, 1.2, 2.0, n), 1.0)
    voxel_mm = voxel_mm.clamp(1.2, 4.0)
    low = torch.tensor(_LOWEST_CENTRE, device=device)
    centre = uniform(generator, low, torch.tensor(_HIGHEST_CENTRE, device=device), n, 3)
    affine = torch.eye(4, device=device).repeat(n, 1, 1)
    affine[:, :3, :3] = torch.diag_embed(voxel_mm)
    half = torch.tensor([(k - 1) / 2 for k in shape], device=device)
    affine[:, :3, 3] = centre - voxel_mm * half
    return affine


_Spread = tuple[Tensor, Tensor, Tensor]


def _draw_point_spreads(
    generator: torch.Generator, n: int, shape: tuple[int, int, int]
) -> tuple[_Spread, _Spread]:
    """Draw blur along all axes, Gibbs ringing in plane, partial Fourier along the second axis.

    The second of the two has the same resolution and does not ring: that of the truth.
    """

    def draw(low: float, high: float) -> Tensor:
        return uniform(generator, low, high, n)

    blur = draw(0.0, 0.5)
    rings = draw(0.0, 1.0) < 0.4
    cutoff = torch.where(rings, draw(0.75, 1.0), 1.0)
    partial = torch.where(draw(0.0, 1.0) < 0.4, draw(0.7, 0.95), 1.0)
    x, y, z = shape
    # The main lobe of a cut spectrum is about as wide as this Gaussian.
    lobe = 0.5 * (cutoff**-2 - 1).sqrt()
    in_plane = (blur.square() + lobe.square()).sqrt()
    return (
        (
            point_spread(x, blur_voxels=blur, cutoff=cutoff),
            point_spread(y, blur_voxels=blur, cutoff=cutoff, partial=partial),
            point_spread(z, blur_voxels=blur),
        ),
        (
            point_spread(x, blur_voxels=in_plane),
            point_spread(y, blur_voxels=in_plane),
            point_spread(z, blur_voxels=blur),
        ),
    )


def _signal_and_truth(
    brains: Brains,
    tissues: Tissues,
    bvals: Tensor,
    bvecs: Tensor,
    spread: _Spread,
    shells: Tensor | None,
    smooth_spread: _Spread,
) -> tuple[Tensor, Tensor | None]:
    """Compute blurred signals (B, N, X, Y, Z) and true tensors (B, 6, X, Y, Z), mm^2/s.

    Parameters
    ----------
    brains, tissues
        A batch.
    bvals, bvecs
        Shapes (B, N), ms/um^2, and (B, N, 3).
    spread
        Point spread of the signals.
    shells
        Shape (B,), ms/um^2: b-values of the true tensors; None leaves them out.
    smooth_spread
        Point spread of the true tensors.
    """
    n, n_volumes = bvals.shape
    if shells is not None:
        axes = dense_shell(bvals.device)
        bvals = torch.cat(
            [bvals, torch.zeros_like(shells)[:, None], shells[:, None].expand(-1, len(axes))], 1
        )
        bvecs = torch.cat([bvecs, torch.cat([axes[:1], axes]).expand(n, -1, -1)], 1)
    signals, truths = [], []
    # Protocol and dense shell together, as they share work; one sample after the other, as the
    # arrays of a batch are too large to be allocated quickly.
    for k in range(n):
        one = slice(k, k + 1)
        volumes = mixture(brains.one(k), tissues.one(k), bvals[one], bvecs[one])
        x, y, z = (matrices[one] for matrices in spread)
        signals.append(apply_per_axis(volumes[:, :n_volumes], (x, y, z)).clamp_(min=0))
        if shells is not None:
            x, y, z = (matrices[one] for matrices in smooth_spread)
            dense = apply_per_axis(volumes[:, n_volumes:], (x, y, z))
            truths.append(
                1e-3 * fit_shell(dense[:, 1:], dense[:, 0] * brains.mask[one], shells[one])
            )
    return torch.cat(signals), torch.cat(truths) if truths else None


def _disturb(
    generator: torch.Generator, signal: Tensor, bvals: Tensor, bvecs: Tensor, voxel_mm: Tensor
) -> Tensor:
    """Add what correction leaves: distortion, misalignment, drift, dropped slices, ghosts."""
    n, n_volumes, *size = signal.shape

    def some(chance: float, low: float, high: float) -> Tensor:
        has = uniform(generator, 0.0, 1.0, n) < chance
        return torch.where(has, uniform(generator, low, high, n), 0.0)

    spacing = uniform(generator, 20.0, 40.0, n, 1) / voxel_mm
    field = smooth_fields(generator, (size[0], size[1], size[2]), spacing=spacing)[:, 0]
    slopes = eddy_slopes(generator, bvals, bvecs, deviation=some(0.3, 0.0, 0.004))
    signal = distort(signal, some(0.3, 0.05, 0.3).reshape(n, 1, 1, 1) * field, slopes)
    signal = jitter_volumes(generator, signal, deviation=some(0.5, 0.02, 0.15))
    drift = some(0.3, 0.0, 0.06)[:, None] * torch.linspace(0, 1, n_volumes, device=signal.device)
    signal *= (1 - drift).reshape(n, n_volumes, 1, 1, 1)
    ghost = some(0.1, 0.01, 0.05).reshape(n, 1, 1, 1, 1)
    for k in ghost.flatten().nonzero()[:, 0].tolist():
        signal[k] += ghost[k] * signal[k].roll(size[1] // 2, 2)
    return drop_slices(generator, signal, chance=some(0.1, 0.01, 0.05))
