"""Acquisition effects on the training generator's signal (B, N, X, Y, Z), batched in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dmri_fm_lab.simulate.fields import normal, small_rotations, uniform, unit


def point_spread(
    n: int, *, blur_voxels: Tensor, cutoff: Tensor | None = None, partial: Tensor | None = None
) -> Tensor:
    """Return point spreads (B, n, n) along one axis of n voxels, to multiply from the left.

    Rows add up to one.

    Parameters
    ----------
    n
        Voxels.
    blur_voxels
        Shape (B,): deviation of a Gaussian, as T2* decay and interpolation have it.
    cutoff
        Shape (B,): share of k-space that was sampled, up to 1; less gives Gibbs ringing.
    partial
        Shape (B,): partial Fourier factor, up to 1; half of the lines beyond it are missing.
    """
    device = blur_voxels.device
    frequency = torch.fft.fftfreq(n, device=device)
    gain = torch.exp(-2 * (torch.pi * blur_voxels[:, None] * frequency) ** 2)
    far = frequency.abs() * 2
    edge = torch.ones(len(blur_voxels), device=device) if cutoff is None else cutoff
    gain = gain * (far <= edge[:, None] + 1e-6)
    if partial is not None:
        symmetric = (2 * partial - 1) * edge
        gain = gain * torch.where(far > symmetric[:, None] + 1e-6, 0.5, 1.0)
    kernel = torch.fft.ifft(gain.to(torch.complex64)).real
    index = torch.arange(n, device=device)
    matrix: Tensor = kernel[:, (index[:, None] - index[None]) % n]
    return matrix


def apply_per_axis(signal: Tensor, matrices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Apply one matrix (B, n, n) along each spatial axis."""
    n, *size = signal.shape[1:]
    out = torch.empty_like(signal)
    # One sample after the other: its arrays stay in the cache of a processor.
    for k, (x, y, z) in enumerate(zip(*matrices, strict=True)):
        rows = torch.matmul(x.expand(n, -1, -1), signal[k].reshape(n, size[0], -1))
        rows = torch.matmul(y.expand(n * size[0], -1, -1), rows.reshape(-1, *size[1:]))
        torch.matmul(rows.reshape(-1, size[2]), z.T, out=out[k].view(-1, size[2]))
    return out


def displace(signal: Tensor, shift: Tensor, axis: int) -> Tensor:
    """Move intensity along an axis by parts of a voxel; the outermost voxels repeat.

    `shift`, voxels, is clipped at one and broadcasts against the signal.
    """
    n = signal.shape[axis]
    first, last = signal.narrow(axis, 0, 1), signal.narrow(axis, n - 1, 1)
    before = torch.cat([first, signal.narrow(axis, 0, n - 1)], dim=axis)
    after = torch.cat([signal.narrow(axis, 1, n - 1), last], dim=axis)
    return torch.lerp(signal, torch.where(shift > 0, before, after), shift.abs().clamp(max=1))


def jitter_volumes(generator: torch.Generator, signal: Tensor, *, deviation: Tensor) -> Tensor:
    """Shift every volume, b=0 included, by parts of a voxel, as motion correction leaves it.

    `deviation` (B,) of the shifts is in voxels, below 0.5.
    """
    b, n = signal.shape[:2]
    shifts = deviation.reshape(b, 1, 1, 1, 1, 1) * normal(generator, b, 3, n, 1, 1, 1)
    out = []
    for volumes, shift, is_moved in zip(signal, shifts, (deviation > 0).tolist(), strict=True):
        moved = volumes
        for axis in (1, 2, 3) if is_moved else ():
            moved = displace(moved, shift[axis - 1], axis)
        out.append(moved)
    return torch.stack(out)


def eddy_slopes(
    generator: torch.Generator, bvals: Tensor, bvecs: Tensor, *, deviation: Tensor
) -> Tensor:
    """Draw the slopes (B, N, 3) of :func:`distort` that eddy currents leave after correction.

    Each component of a diffusion gradient, whose strength goes with the root of the b-value,
    leaves a field that grows linearly in space: opposite gradients distort oppositely.

    Parameters
    ----------
    generator
        Source of randomness.
    bvals, bvecs
        Shapes (B, N) and (B, N, 3), along the axes of the grid.
    deviation
        Shape (B,), of the response to the strongest gradient; no slope exceeds 0.01.
    """
    strength = (bvals / bvals.amax(dim=1, keepdim=True)).sqrt()
    response = deviation.reshape(-1, 1, 1) * normal(generator, len(bvals), 3, 3)
    # No row is longer than the largest slope, so that the slopes stay linear in the gradient.
    response = response * (0.01 / response.norm(dim=2, keepdim=True).clamp(min=0.01))
    return torch.einsum("bij,bnj->bni", response, strength[..., None] * bvecs)


def distort(signal: Tensor, field: Tensor, slopes: Tensor) -> Tensor:
    """Distort along the second spatial axis, that of phase encoding, with pile-up.

    Parameters
    ----------
    signal
        Shape (B, N, X, Y, Z).
    field
        Shape (B, X, Y, Z): displacement of all volumes by susceptibility, voxels.
    slopes
        Shape (B, N, 3): displacement of a volume per voxel from the grid's middle, along each
        axis: shear, scale and shear.
    """
    lines = [torch.arange(k, device=signal.device) - (k - 1) / 2 for k in signal.shape[2:]]
    x, y, z = torch.meshgrid(*lines, indexing="ij")
    is_distorted = field.flatten(1).any(dim=1) | slopes.flatten(1).any(dim=1)
    out = []
    for k, touched in enumerate(is_distorted.tolist()):
        if not touched:
            out.append(signal[k])
            continue
        along_x, along_y, along_z = slopes[k].T[..., None, None, None]
        shift = field[k] + along_x * x + along_y * y + along_z * z
        stretched = torch.gradient(field[k], dim=1)[0] + along_y
        out.append(displace(signal[k], shift, 2) * (1 - stretched))
    return torch.stack(out)


def real_gradients(
    generator: torch.Generator, bvals: Tensor, bvecs: Tensor
) -> tuple[Tensor, Tensor]:
    """Draw the b-values (B, N) and b-vectors (B, N, 3) that a scanner plays out for a table's.

    The coils of the three axes are calibrated to half a percent, which scales the b-value of
    each gradient and turns it; all b-values are off by a percent, and motion turns each volume
    by half a degree. b-vectors are unit, before and after.
    """
    n, n_volumes = bvals.shape
    played = bvecs * (1 + 0.005 * normal(generator, n, 1, 3))
    length = played.norm(dim=2)
    # At b=0 there is no gradient, and no direction.
    scale = torch.where(length > 0, length.square(), 1.0) * (1 + 0.01 * normal(generator, n, 1))
    turns = small_rotations(torch.deg2rad(0.5 * normal(generator, n, n_volumes, 3)))
    return bvals * scale, (turns @ unit(played, 2)[..., None])[..., 0]


def drop_slices(generator: torch.Generator, signal: Tensor, *, chance: Tensor) -> Tensor:
    """Darken slices of single volumes, with a chance (B,) for every slice."""
    b, n, *_, slices = signal.shape
    is_hit = uniform(generator, 0.0, 1.0, b, n, slices) < chance[:, None, None]
    left = torch.where(is_hit, uniform(generator, 0.2, 0.9, b, n, slices), 1.0)
    return signal * left[:, :, None, None]


def add_noise(
    generator: torch.Generator,
    signal: Tensor,
    *,
    sigma: Tensor,
    n_coils: Sequence[int] = (),
    correlation: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Take the magnitude of a noisy signal: Rician, or non-central chi of several coils.

    Parameters
    ----------
    generator
        Source of randomness.
    signal
        Shape (B, N, X, Y, Z).
    sigma
        Broadcasts against it: deviation of the real and of the imaginary part of each coil.
    n_coils
        For each sample, coils whose squares are added up; one, the default, gives Rician noise.
    correlation
        Point spreads that correlate the noise of neighbours; its deviation stays.
    """
    counts = n_coils or [1] * len(signal)
    sigmas = sigma.expand_as(signal)
    correlated = [False] * len(signal)
    if correlation is not None:
        # The middle of a point spread is one only where it is the identity.
        correlated = (torch.stack([m[:, 0, 0] for m in correlation]) < 1 - 1e-5).any(0).tolist()
    out = torch.empty_like(signal)
    for k in range(len(signal)):
        real, imaginary = normal(generator, 2, *signal.shape[1:])
        if correlation is not None and correlated[k]:
            x, y, z = (m[k : k + 1] for m in correlation)
            gain = torch.stack([m[0, 0].norm() for m in (x, y, z)]).prod()
            both = apply_per_axis(torch.stack([real, imaginary]).flatten(0, 1)[None], (x, y, z))
            real, imaginary = (both[0] / gain).chunk(2)
        square = real.mul_(sigmas[k]).add_(signal[k]).square_()
        square += imaginary.mul_(sigmas[k]).square_()
        for _ in range(counts[k] - 1):
            # Two more normal squares add up to an exponential of mean two.
            exponential = uniform(generator, 1e-7, 1.0, *square.shape).log_()
            square.addcmul_(exponential, sigmas[k].square(), value=-2)
        torch.sqrt(square, out=out[k])
    return out
