"""Batches of random training scans: brains, protocols, signal and truth, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
    dense_shell,
    draw_tissues,
    fit_shell,
    mixture,
)
from dmri_fm_lab.simulate.protocol import truth_bval

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
    bvals, bvecs
        Shapes (B, N), s/mm^2, and (B, N, 3), RAS+, as the gradient tables state them.
    truth_tensor
        Shape (B, 6, X, Y, Z), mm^2/s, RAS+, order xx, xy, xz, yy, yz, zz; zero outside the
        mask. None if it was not asked for.
    truth_bval
        Shape (B,), s/mm^2: b-value the true tensor belongs to.
    fractions
        Shape (B, 4, X, Y, Z): white matter, grey matter, CSF, lesion.
    mask
        Shape (B, X, Y, Z), bool: the brain.
    noise
        Shape (B, X, Y, Z): standard deviation of the noise of one volume where signal is high.
    affine
        Shape (B, 4, 4), voxel to RAS+ mm.
    brains, tissues
        What was scanned: anatomy and fibres, and their diffusion properties.
    """

    signal: Tensor
    bvals: Tensor
    bvecs: Tensor
    truth_tensor: Tensor | None
    truth_bval: Tensor
    fractions: Tensor
    mask: Tensor
    noise: Tensor
    affine: Tensor
    brains: Brains
    tissues: Tissues


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
        degrees and millimetres. If None: patches of random pose, centre and voxel size (1.2 to
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
    _check_request(shape, affine, snr, atlas_weight)
    n = len(gtabs)
    brains = _draw_patch_brains(generator, n, shape, affine, atlas_weight)
    tissues = draw_tissues(generator, n)
    spreads = _draw_point_spreads(generator, n, shape)
    played = real_gradients(generator, bvals / 1000, bvecs)
    truth_shells = shells / 1000 if with_truth else None
    signal, truth = _signal_and_truth(brains, tissues, played, spreads, truth_shells)
    signal *= _draw_gain(generator, shape, brains.voxel_mm, 0.2)
    signal = _disturb(generator, signal, bvals, bvecs, brains.voxel_mm)
    sigma = tissues.intensity[:, 0] / _draw_snr(generator, n, snr)
    signal, noise = _add_uneven_noise(generator, signal, sigma, brains.voxel_mm)
    return Batch(
        signal=signal,
        bvals=bvals,
        bvecs=bvecs,
        truth_tensor=truth,
        truth_bval=shells,
        fractions=brains.fractions,
        mask=brains.mask,
        noise=noise,
        affine=brains.affine,
        brains=brains,
        tissues=tissues,
    )


def _check_request(
    shape: Sequence[int], affine: Tensor | None, snr: float | None, atlas_weight: float | None
) -> None:
    """Raise ConfigError for a scan that cannot be drawn."""
    if len(shape) != 3 or min(shape) < 2:
        raise ConfigError(f"shape {shape}", expected="three numbers, two or more each")
    if snr is not None and not snr > 0:
        raise ConfigError(f"SNR {snr:g}", expected="a number above zero")
    if affine is not None:
        is_square = affine.shape == (4, 4)
        if not is_square or not torch.isfinite(affine).all() or affine[:3, :3].det() == 0:
            raise ConfigError(f"affine {affine.tolist()}", expected="4 x 4, finite, of full rank")
    if atlas_weight is not None and not 0 <= atlas_weight <= 1:
        raise ConfigError(f"atlas weight {atlas_weight:g}", expected="0 to 1")


def _protocols(
    gtabs: Sequence[GradientTable], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return b-values (B, N), b-vectors (B, N, 3) and the true tensors' b-values (B,)."""
    lengths = sorted({len(gtab) for gtab in gtabs})
    if len(lengths) != 1:
        raise ConfigError(
            f"protocols of {lengths} volumes", expected="one or more protocols of equal length"
        )
    arrays = (
        [truth_bval(g) for g in gtabs],
        np.stack([g.bvals for g in gtabs]),
        np.stack([g.bvecs_ras for g in gtabs]),
    )
    shells, bvals, bvecs = (torch.tensor(a, dtype=torch.float32, device=device) for a in arrays)
    return bvals, bvecs, shells


def _draw_patch_brains(
    generator: torch.Generator,
    n: int,
    shape: tuple[int, int, int],
    affine: Tensor | None,
    atlas_weight: float | None,
) -> Brains:
    """Draw brains on a given grid, or on patches of any pose; see :func:`draw_batch`."""
    device = generator.device
    if atlas_weight is None:
        weight = uniform(generator, 0.0, 1.0, n)
    else:
        weight = torch.full((n,), atlas_weight).to(device)
    if affine is not None:
        grids = affine.float().to(device).repeat(n, 1, 1)
        return draw_brains(generator, shape, grids, atlas_weight=weight)
    grids = _patch_affines(generator, n, shape)
    pose = random_rotations(generator, n)
    return draw_brains(
        generator, shape, grids, atlas_weight=weight, rotation=pose, variation=PATCHES
    )


def _draw_snr(generator: torch.Generator, n: int, snr: float | None) -> Tensor:
    if snr is not None:
        return torch.full((n,), snr, device=generator.device)
    return log_uniform(generator, LEAST_SNR, LARGEST_SNR, n)


def _draw_gain(
    generator: torch.Generator, shape: tuple[int, int, int], voxel_mm: Tensor, largest: float
) -> Tensor:
    """Draw a smooth gain (B, 1, X, Y, Z); `largest` bounds the deviation of its logarithm."""
    n = len(voxel_mm)
    spacing = uniform(generator, 60.0, 120.0, n, 1) / voxel_mm
    field = smooth_fields(generator, shape, spacing=spacing)
    return torch.exp(uniform(generator, 0.0, largest, n, 1, 1, 1, 1) * field)


def _add_uneven_noise(
    generator: torch.Generator, signal: Tensor, sigma: Tensor, voxel_mm: Tensor
) -> tuple[Tensor, Tensor]:
    """Add noise of one coil or several, whose level varies in space; neighbours may correlate.

    Returns the signal, and the deviation of the noise, (B, X, Y, Z).
    """
    n, _, x, y, z = signal.shape

    def draw(low: float, high: float) -> Tensor:
        return uniform(generator, low, high, n)

    sigma_map = sigma.reshape(n, 1, 1, 1, 1) * _draw_gain(generator, (x, y, z), voxel_mm, 0.25)
    # Interpolation by the scanner correlates the noise of neighbours in half of the scans.
    width = draw(0.3, 0.7) * (draw(0.0, 1.0) < 0.5)
    along_x, along_y, along_z = (point_spread(k, blur_voxels=width) for k in (x, y, z))
    n_coils = torch.where(draw(0.0, 1.0) < 0.25, 3, 1).tolist()
    correlation = (along_x, along_y, along_z)
    noisy = add_noise(generator, signal, sigma=sigma_map, n_coils=n_coils, correlation=correlation)
    return noisy, sigma_map[:, 0]


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


class PointSpreads(NamedTuple):
    """Matrices (B, n, n) along the three axes, for the signals and for the true tensors."""

    signal: tuple[Tensor, Tensor, Tensor]
    truth: tuple[Tensor, Tensor, Tensor]


def _draw_point_spreads(
    generator: torch.Generator, n: int, shape: tuple[int, int, int]
) -> PointSpreads:
    """Draw blur along all axes, Gibbs ringing in plane, partial Fourier along the second axis.

    The point spread of the truth has the same resolution and does not ring.
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
    along_z = point_spread(z, blur_voxels=blur)
    return PointSpreads(
        signal=(
            point_spread(x, blur_voxels=blur, cutoff=cutoff),
            point_spread(y, blur_voxels=blur, cutoff=cutoff, partial=partial),
            along_z,
        ),
        truth=(
            point_spread(x, blur_voxels=in_plane),
            point_spread(y, blur_voxels=in_plane),
            along_z,
        ),
    )


def _signal_and_truth(
    brains: Brains,
    tissues: Tissues,
    gradients: tuple[Tensor, Tensor],
    spreads: PointSpreads,
    shells: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    """Return blurred signals (B, N, X, Y, Z); with shells (B,), true tensors (B, 6, X, Y, Z)."""
    bvals, bvecs = gradients  # (B, N), ms/um^2, and (B, N, 3)
    n, n_volumes = bvals.shape
    if shells is not None:
        axes = dense_shell(bvals.device)
        b0, dense = torch.zeros_like(shells)[:, None], shells[:, None].expand(-1, len(axes))
        bvals = torch.cat([bvals, b0, dense], 1)
        bvecs = torch.cat([bvecs, torch.cat([axes[:1], axes]).expand(n, -1, -1)], 1)
    signals, truths = [], []
    # Protocol and dense shell together, as they share work; one sample after the other, as the
    # arrays of a batch are too large to be allocated quickly.
    for k in range(n):
        one = slice(k, k + 1)
        volumes = mixture(brains.one(k), tissues.one(k), bvals[one], bvecs[one])
        x, y, z = (matrices[one] for matrices in spreads.signal)
        signals.append(apply_per_axis(volumes[:, :n_volumes], (x, y, z)).clamp_(min=0))
        if shells is not None:
            x, y, z = (matrices[one] for matrices in spreads.truth)
            dense = apply_per_axis(volumes[:, n_volumes:], (x, y, z))
            s0 = dense[:, 0] * brains.mask[one]
            truths.append(1e-3 * fit_shell(dense[:, 1:], s0, shells[one]))
    return torch.cat(signals), torch.cat(truths) if truths else None


def _disturb(
    generator: torch.Generator, signal: Tensor, bvals: Tensor, bvecs: Tensor, voxel_mm: Tensor
) -> Tensor:
    """Add the artefacts that correction leaves: distortion, jitter, drift, ghosts, dropout."""
    n, n_volumes, x, y, z = signal.shape

    def some(chance: float, low: float, high: float) -> Tensor:
        has = uniform(generator, 0.0, 1.0, n) < chance
        return torch.where(has, uniform(generator, low, high, n), 0.0)

    spacing = uniform(generator, 20.0, 40.0, n, 1) / voxel_mm
    field = smooth_fields(generator, (x, y, z), spacing=spacing)[:, 0]
    slopes = eddy_slopes(generator, bvals, bvecs, deviation=some(0.3, 0.0, 0.004))
    signal = distort(signal, some(0.3, 0.05, 0.3).reshape(n, 1, 1, 1) * field, slopes)
    signal = jitter_volumes(generator, signal, deviation=some(0.5, 0.02, 0.15))
    drift = some(0.3, 0.0, 0.06)[:, None] * torch.linspace(0, 1, n_volumes, device=signal.device)
    signal *= (1 - drift).reshape(n, n_volumes, 1, 1, 1)
    ghost = some(0.1, 0.01, 0.05).reshape(n, 1, 1, 1, 1)
    for k in ghost.flatten().nonzero()[:, 0].tolist():
        signal[k] += ghost[k] * signal[k].roll(y // 2, 2)
    return drop_slices(generator, signal, chance=some(0.1, 0.01, 0.05))
