"""What a scanner does to the training generator's signal, batched in torch.

Signals are (B, N, X, Y, Z).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmri_fm.simulate.fields import normal, uniform

__all__ = ["add_noise", "apply_per_axis", "drop_slices", "jitter_volumes", "point_spread"]


def point_spread(
    n: int, *, blur_voxels: Tensor, cutoff: Tensor | None = None, partial: Tensor | None = None
) -> Tensor:
    """Return what sampling k-space does along one axis of n voxels.

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

    Returns
    -------
    Tensor
        Shape (B, n, n): multiply from the left. Rows add up to one.
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


def jitter_volumes(generator: torch.Generator, signal: Tensor, *, deviation: Tensor) -> Tensor:
    """Shift every volume by parts of a voxel, as correction leaves it; b=0 and all.

    Parameters
    ----------
    generator
        Source of randomness.
    signal
        Shape (B, N, X, Y, Z).
    deviation
        Shape (B,), voxels, below 0.5.
    """
    b, n = signal.shape[:2]
    for axis in (2, 3, 4):
        shift = (deviation[:, None] * normal(generator, b, n)).clamp(-1, 1)
        shift = shift.reshape(b, n, 1, 1, 1)
        near = torch.where(shift > 0, signal.roll(1, axis), signal.roll(-1, axis))
        signal = torch.lerp(signal, near, shift.abs())
    return signal


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
    n_coils: int = 1,
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
        Coils whose squares are added up; one gives Rician noise.
    correlation
        Point spreads that correlate the noise of neighbours; its deviation stays.
    """
    if n_coils < 1:
        raise ValueError(f"{n_coils} coils")
    real, imaginary = normal(generator, *signal.shape), normal(generator, *signal.shape)
    if correlation is not None:
        gain = torch.stack([m[:, 0].square().sum(dim=-1).sqrt() for m in correlation]).prod(dim=0)
        gain = gain.reshape(-1, 1, 1, 1, 1)
        real = apply_per_axis(real, correlation) / gain
        imaginary = apply_per_axis(imaginary, correlation) / gain
    square = (signal + sigma * real).square_() + (sigma * imaginary).square_()
    for _ in range(n_coils - 1):
        # Two more normal squares add up to an exponential of mean two.
        exponential = -2 * uniform(generator, 1e-7, 1.0, *signal.shape).log_()
        square = square + sigma * sigma * exponential
    return square.sqrt_()
