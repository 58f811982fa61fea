"""Patches of true tensors and b=0 signals, and images of them with Rician noise."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.simulate import draw_batch, draw_protocol
from dmri_fm_lab.simulate.fields import log_uniform, smooth_fields, uniform
from dmri_fm_lab.simulate.mixture import draw_tissues

#: Patches that are drawn at a time.
_AT_A_TIME = 8

#: Least share of a patch that lies in the brain.
_LEAST_BRAIN = 0.5

#: b=0 signal of white matter, scanner units, log-uniform over patches.
_SCANNER_UNITS = (50.0, 2000.0)

#: Distance of the control points of a coil's gain, voxels, and the largest deviation of its
#: logarithm.
_GAIN_SPACING, _GAIN_DEVIATION = 16.0, 0.2

#: Largest image over the measured b=0; more is noise of the b=0.
LARGEST_RATIO = 3.0


class Purpose(IntEnum):
    """What something random is for: nothing drawn serves two purposes."""

    WEIGHTS = 0
    TRAINING_PATCHES = 1
    TRAINING = 2
    TUNING = 3
    TEST_PATCHES = 4
    TEST = 5
    FRESH_PATCHES = 6
    REFERENCE = 7
    HELD_OUT = 8


def seed_of(seed: int, purpose: Purpose, *numbers: float) -> np.random.SeedSequence:
    """Return the seed of a purpose; `numbers`, such as the SNR, count to a thousandth."""
    return np.random.SeedSequence([seed, int(purpose), *(round(1000 * n) for n in numbers)])


def generator_of(seed: int, purpose: Purpose, *numbers: float) -> torch.Generator:
    """Return torch's generator of :func:`seed_of`."""
    state = seed_of(seed, purpose, *numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@dataclass(frozen=True, eq=False)
class TruePatches:
    """Tensors and b=0 signals of P cubes of brain, without noise.

    Attributes
    ----------
    tensor
        Shape (P, 6, E, E, E), um^2/ms, order xx, xy, xz, yy, yz, zz, along the voxel axes; zero
        outside the mask.
    mask
        Shape (P, E, E, E), bool: the brain.
    s0
        Shape (P, E, E, E), scanner units: signal at b=0; zero outside the mask.
    white_s0
        Shape (P,), scanner units: signal of white matter at b=0 where the coil's gain is 1.
    """

    tensor: Tensor
    mask: Tensor
    s0: Tensor
    white_s0: Tensor

    def __len__(self) -> int:
        return len(self.mask)

    def select(self, index: Tensor) -> TruePatches:
        """Return some of the patches."""
        return TruePatches(*(getattr(self, f.name)[index] for f in fields(self)))


def draw_patches(seed: np.random.SeedSequence, n: int, *, edge: int = 16) -> TruePatches:
    """Draw cubes out of simulated brains; those that hold little brain are drawn again.

    Tissue, pose and voxel size are those of the simulation that the packaged networks are trained
    on; of its signal only the tensor is kept, so that the tensor model is exact here. The b=0
    signal is drawn apart, see :func:`draw_s0`.
    """
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    drawn: list[TruePatches] = []
    while sum(map(len, drawn)) < n:
        gtabs = [draw_protocol(rng, scheme="skare6", bvals=1000) for _ in range(_AT_A_TIME)]
        batch = draw_batch(generator, gtabs, shape=(edge, edge, edge))
        assert batch.truth_tensor is not None
        s0, white_s0 = draw_s0(generator, batch.fractions)
        found = TruePatches((1e3 * batch.truth_tensor).float(), batch.mask, s0, white_s0)
        enough = batch.mask.float().mean(dim=(1, 2, 3)) >= _LEAST_BRAIN
        drawn.append(found.select(enough.nonzero()[:, 0]))
    joined = (torch.cat([getattr(d, f.name) for d in drawn])[:n] for f in fields(TruePatches))
    return TruePatches(*joined)


def draw_s0(generator: torch.Generator, fractions: Tensor) -> tuple[Tensor, Tensor]:
    """Draw b=0 signals (P, E, E, E) of tissue fractions (P, 4, E, E, E), and white matter's (P,).

    Contrast of the tissues is that of the simulation, which draws echo time, proton densities and
    T2; the scanner's units and a smooth gain of the coil differ from patch to patch.
    """
    n, _, *size = fractions.shape
    contrast = draw_tissues(generator, n).intensity
    scale = log_uniform(generator, *_SCANNER_UNITS, n)
    contrast = contrast * (scale / contrast[:, 0])[:, None]
    x, y, z = size
    field = smooth_fields(generator, (x, y, z), spacing=torch.full((n, 3), _GAIN_SPACING))
    gain = torch.exp(uniform(generator, 0.0, _GAIN_DEVIATION, n, 1, 1, 1) * field[:, 0])
    return gain * torch.einsum("pt,ptxyz->pxyz", contrast, fractions), scale


def signal_of(tensor: Tensor, gtab: GradientTable) -> Tensor:
    """Return S/S0 (P, N, ...) of tensors (P, 6, ...), um^2/ms, along the table's axes."""
    g = torch.tensor(gtab.bvecs_ras, dtype=tensor.dtype)
    x, y, z = g.T
    b = torch.tensor(gtab.bvals, dtype=tensor.dtype) / 1000
    design = b[:, None] * torch.stack([x * x, 2 * x * y, 2 * x * z, y * y, 2 * y * z, z * z], 1)
    return torch.exp(-torch.einsum("nk,pk...->pn...", design, tensor))


def sigma_of(patches: TruePatches, snr: Tensor) -> Tensor:
    """Return the deviation of the noise in either channel (P,), scanner units."""
    return patches.white_s0 / snr


def measure(
    patches: TruePatches, gtab: GradientTable, snr: Tensor, generator: torch.Generator
) -> Tensor:
    """Return images (P, N, E, E, E) with Rician noise, scanner units, 0 outside the brain.

    Parameters
    ----------
    patches
        What is measured.
    gtab
        The N volumes.
    snr
        Shape (P,): b=0 signal of white matter over the deviation of the noise in either channel.
    generator
        Source of randomness.
    """
    inside = patches.mask[:, None]
    clean = patches.s0[:, None] * signal_of(patches.tensor, gtab)
    sigma = sigma_of(patches, snr)[:, None, None, None, None]
    real, imaginary = (sigma * torch.randn(clean.shape, generator=generator) for _ in range(2))
    return torch.hypot(clean + real, imaginary) * inside


def over_b0(images: Tensor) -> Tensor:
    """Return the weighted images over the *measured* b=0, which is the first: (P, N - 1, ...).

    It is what networks read: S0 is as unknown to them as to least squares. Zero where the b=0 is;
    at most :data:`LARGEST_RATIO`.
    """
    b0 = images[:, :1]
    ratio = images[:, 1:] / torch.where(b0 > 0, b0, 1.0)
    return torch.where(b0 > 0, ratio, 0.0).clamp(max=LARGEST_RATIO)
