"""Artefacts that pretraining adds to the volumes of one shell, for a network to remove.

Each volume is distorted by itself: by eddy currents, tied to its gradient, and by TorchIO's
motion and ghosting; the bias field is that of the scan. TorchIO (Pérez-García et al. 2021,
doi:10.1016/j.cmpb.2021.106236) draws from torch's global generator, which is seeded here and then
put back, by one thread after the other.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dmri_fm.errors import ConfigError
from dmri_fm.qspace import PREFERRED_BVAL

#: Largest stretch along the phase-encoding axis, as published: factors 0.9 to 1.1.
LARGEST_STRETCH = 0.1

#: Largest shears along it, voxels per voxel, and largest translation, voxels.
LARGEST_SHEAR, LARGEST_SHIFT = 0.05, 2.0

#: The same, in the order of the rows of a response.
_LARGEST = np.array([LARGEST_SHEAR, LARGEST_STRETCH, LARGEST_SHEAR, LARGEST_SHIFT])

#: Chance of each of TorchIO's artefacts: in a volume (motion, ghosting), in a scan (bias, noise).
CHANCE = 0.5

#: Axis of the grid that is taken for that of phase encoding: from back to front, as published.
PHASE_AXIS = 1


#: Held while torch's global generator is another's: a step is drawn beside a validation.
_GENERATOR = threading.Lock()


@dataclass(frozen=True)
class ArtefactStrength:
    """Arguments of TorchIO's artefacts.

    Attributes
    ----------
    degrees, translation_mm, n_movements
        Motion: range of the rotations about each axis, and of the translations, either side of
        zero; number of movements in a volume.
    n_ghosts, ghost_intensity
        Ghosting: ranges.
    bias
        Bias field: range of the coefficients, either side of zero, of polynomials of order 3.
    noise
        Gaussian noise: largest standard deviation, S/S0.
    """

    degrees: float
    translation_mm: float
    n_movements: int
    n_ghosts: tuple[int, int]
    ghost_intensity: tuple[float, float]
    bias: float
    noise: float


#: "paper": two ghosts, else TorchIO's defaults (1.x), as the publication says. "light" and
#: "strong": the settings of its public code.
STRENGTHS: Mapping[str, ArtefactStrength] = {
    "paper": ArtefactStrength(10.0, 10.0, 2, (2, 2), (0.5, 1.0), 0.5, 0.25),
    "light": ArtefactStrength(5.0, 5.0, 1, (0, 1), (0.0, 0.5), 0.3, 0.1),
    "strong": ArtefactStrength(15.0, 15.0, 3, (1, 3), (0.5, 0.9), 0.7, 0.3),
}


def find_strength(name: str) -> ArtefactStrength:
    """Return the arguments of a strength; ConfigError if there is none of that name."""
    if name not in STRENGTHS:
        raise ConfigError(f"artefacts of strength {name!r}", expected=", ".join(STRENGTHS))
    return STRENGTHS[name]


def draw_response(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw how a scanner's eddy currents answer to a gradient of b=1000.

    Returns
    -------
    ndarray
        Shape (4, 3): rows are shear along the phase-encoding axis by the first axis of the grid,
        stretch, shear by the third axis (voxels per voxel), and translation (voxels), each a
        linear function of the gradient's direction, RAS+. The length of a row is uniform up to
        the largest one.
    """
    rows = rng.normal(size=(4, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * (_LARGEST * rng.uniform(size=4))[:, None])


def distort_by_gradients(
    signal: Tensor, gradients: ArrayLike, response: NDArray[np.float64]
) -> Tensor:
    """Stretch, shear and shift volumes along the phase-encoding axis, with pile-up.

    Parameters
    ----------
    signal
        Shape (N, X, Y, Z); the second axis of the grid is that of phase encoding.
    gradients
        Shape (N, 3): direction times sqrt(b / 1000), RAS+. Opposite ones distort oppositely.
    response
        Of :func:`draw_response`; no volume exceeds the largest distortions.
    """
    amounts = np.asarray(gradients, dtype=np.float64) @ response.T  # (N, 4)
    amounts = np.clip(amounts, -_LARGEST, _LARGEST)
    lines = [torch.arange(n) - (n - 1) / 2 for n in signal.shape[1:]]
    x, y, z = torch.meshgrid(*lines, indexing="ij")
    out = torch.empty_like(signal)
    for number, (shear_x, stretch, shear_z, translation) in enumerate(amounts.tolist()):
        shift = shear_x * x + stretch * y + shear_z * z + translation
        out[number] = _move_along_phase(signal[number], shift) * (1.0 - stretch)
    return out


def _move_along_phase(volume: Tensor, shift: Tensor) -> Tensor:
    """Read a volume `shift` voxels before each voxel, linearly; the outermost voxels repeat."""
    n = volume.shape[PHASE_AXIS]
    place = torch.arange(n, dtype=volume.dtype)[None, :, None] - shift
    low = place.floor()
    before, after = (k.clamp(0, n - 1).long() for k in (low, low + 1))
    return torch.lerp(
        volume.gather(PHASE_AXIS, before), volume.gather(PHASE_AXIS, after), place - low
    )


def add_artefacts(
    rng: np.random.Generator,
    signal: Tensor,
    directions: NDArray[np.float64],
    *,
    bval: float,
    voxel_size_mm: float,
    strength: ArtefactStrength,
) -> Tensor:
    """Return volumes of a shell with artefacts.

    Parameters
    ----------
    rng
        Source of randomness: the same state gives the same artefacts.
    signal
        Shape (N, X, Y, Z), S/S0.
    directions
        Shape (N, 3), unit vectors, RAS+; the polarity of each gradient is drawn.
    bval
        Of the shell, s/mm^2.
    voxel_size_mm
        Edge of a voxel.
    strength
        Arguments of TorchIO's artefacts.

    Returns
    -------
    Tensor
        Shape (N, X, Y, Z), clipped to 0 to 1.
    """
    polarity = rng.choice([-1.0, 1.0], size=(len(signal), 1))
    gradients = polarity * directions * np.sqrt(bval / PREFERRED_BVAL)
    distorted = distort_by_gradients(signal, gradients, draw_response(rng))
    has = rng.uniform(size=(2, len(signal))) < CHANCE
    has_bias, has_noise = rng.uniform(size=2) < CHANCE
    affine = np.diag([voxel_size_mm] * 3 + [1.0])
    motion, ghosting, bias, noise = _transforms(strength)
    with _GENERATOR, torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**62)))
        for number in range(len(distorted)):
            volume = distorted[number : number + 1]
            for transform, chosen in ((motion, has[0]), (ghosting, has[1])):
                volume = _apply(transform, volume, affine) if chosen[number] else volume
            distorted[number] = volume[0]
        for transform, chosen in ((bias, has_bias), (noise, has_noise)):
            distorted = _apply(transform, distorted, affine) if chosen else distorted
    return distorted.clamp(0.0, 1.0)


def _transforms(strength: ArtefactStrength) -> tuple[Any, Any, Any, Any]:
    """Return motion, ghosting, bias field and noise, every argument given."""
    import torchio

    s = strength
    return (
        torchio.RandomMotion(
            degrees=(-s.degrees, s.degrees),
            translation=(-s.translation_mm, s.translation_mm),
            num_transforms=s.n_movements,
            image_interpolation="linear",
        ),
        torchio.RandomGhosting(
            num_ghosts=s.n_ghosts, axes=(PHASE_AXIS,), intensity=s.ghost_intensity, restore=None
        ),
        torchio.RandomBiasField(coefficients=(-s.bias, s.bias), order=3),
        torchio.RandomNoise(mean=(0.0, 0.0), std=(0.0, s.noise)),
    )


def _apply(transform: Any, volumes: Tensor, affine: NDArray[np.float64]) -> Tensor:
    import torchio

    image = torchio.ScalarImage(tensor=volumes, affine=affine)
    found: Tensor = transform(image).data.float()
    return found
