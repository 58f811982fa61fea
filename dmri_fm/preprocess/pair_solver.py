"""Variational estimate of the field behind two images of opposite phase encoding.

The unknown is the displacement u along phase encoding, in mm, at the voxel centres of the
undistorted image. With ``rho`` the signed readout of an image in units of the pair's mean, the
undistorted image is recovered from distorted image i as::

    corrected_i(x) = image_i(T_i x + rho_i u(x) e_i) * (1 + rho_i du/dx)

and u minimises, over all voxels::

    1/2 (corrected_1 - corrected_2)^2 + alpha/2 |grad u|^2 + beta phi(rho_i du/dx)

where phi grows without bound as the Jacobian nears 0 or 2. T_1 is the identity; T_2, a rigid
head movement between the two images, is estimated in turn with u. Levels run from coarse to
fine; on each, Gauss-Newton steps are solved by preconditioned conjugate gradients.

The formulation follows Ruthotto et al. 2012, doi:10.1088/0031-9155/57/18/5715.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

__all__ = ["PairImage", "PairSettings", "PairSolution", "solve_pair"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class PairImage:
    """One distorted image of a pair.

    Attributes
    ----------
    data
        Shape (X, Y, Z), intensities of about 0 to 1.
    affine
        Shape (4, 4), voxel to RAS+ mm.
    axis
        Voxel axis of phase encoding.
    rho
        Displacement along that voxel axis, mm, per mm of the unknown field.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    axis: int
    rho: float


@dataclass(frozen=True)
class PairSettings:
    """Weights and stopping rules of :func:`solve_pair`.

    Attributes
    ----------
    smoothness
        alpha: weight of the squared gradient of the field against squared intensities.
    barrier
        beta: weight of the term that keeps Jacobians between 0 and 2.
    finest_mm
        Levels get no finer than this voxel size.
    coarsest_mm
        The first level has voxels of about this size.
    iterations
        Gauss-Newton steps per level, at most.
    is_moving
        Whether a rigid movement between the two images is estimated.
    largest_shift_mm, largest_angle_deg
        A movement beyond these bounds is refused.
    """

    smoothness: float = 0.02
    barrier: float = 0.01
    finest_mm: float = 0.0
    coarsest_mm: float = 16.0
    iterations: int = 12
    is_moving: bool = True
    largest_shift_mm: float = 15.0
    largest_angle_deg: float = 15.0


@dataclass(frozen=True, eq=False)
class PairSolution:
    """What :func:`solve_pair` found.

    Attributes
    ----------
    displacement_mm
        Shape (X, Y, Z), the field u on the first image's grid.
    second_xfm
        Shape (4, 4), T_2: RAS+ mm, points of the undistorted image to points of the second
        image before distortion.
    corrected
        The two corrected images, each (X, Y, Z), on the first image's grid.
    jacobians
        Their Jacobians.
    is_seen
        Shape (X, Y, Z): voxels that lie inside both images.
    """

    displacement_mm: NDArray[np.float32]
    second_xfm: NDArray[np.float64]
    corrected: tuple[NDArray[np.float32], NDArray[np.float32]]
    jacobians: tuple[NDArray[np.float32], NDArray[np.float32]]
    is_seen: NDArray[np.bool_]


#: Jacobians stay within this distance of 1; 1 itself is where the barrier is infinite.
LARGEST_STRAIN = 0.97

#: Conjugate gradients stop at this relative residual, or after this many steps.
CG_TOLERANCE, CG_STEPS = 0.05, 40

#: Voxels above this part of the typical intensity tell the relative gain of the two images.
BRIGHT = 0.4

#: Times that gain and field are estimated in turn on each level.
GAIN_ROUNDS = 2

#: A level ends when a step lowers the energy by less than this part.
LEVEL_TOLERANCE = 2e-3


def solve_pair(
    first: PairImage, second: PairImage, *, settings: PairSettings | None = None
) -> PairSolution:
    """Estimate the field between two images of opposite phase encoding.

    Parameters
    ----------
    first, second
        The images; the solution lies on the grid of the first.
    settings
        Weights and stopping rules.

    Returns
    -------
    PairSolution
        Field, movement and corrected images.
    """
    settings = settings or PairSettings()
    voxel = np.linalg.norm(first.affine[:3, :3], axis=0)
    displacement = torch.zeros(first.data.shape)
    xfm = np.eye(4)
    gain = 1.0
    factor_from = 1
    for factor in _level_factors(voxel, first.data.shape, settings):
        level = _Level.build(first, second, factor, gain=gain)
        displacement = _resize(displacement, factor_from, factor, level.shape)
        for _ in range(GAIN_ROUNDS):
            gain *= _relative_gain(level.evaluate(displacement, xfm))
            level = _Level.build(first, second, factor, gain=gain)
            xfm, displacement = _solve_level(level, displacement, xfm, settings)
        factor_from = factor
    full = _Level.build(first, second, 1, gain=gain)
    if factor_from != 1:
        displacement = _resize(displacement, factor_from, 1, full.shape)
    state = full.evaluate(displacement, xfm)
    return PairSolution(
        displacement.numpy(),
        xfm,
        (state.first.numpy(), state.second.numpy()),
        (state.jacobian_first.numpy(), state.jacobian_second.numpy()),
        state.weight.numpy() > 0,
    )


def _relative_gain(state: _State) -> float:
    """Return the factor that brings the second corrected image to the first one's level."""
    a, b = state.first[state.weight > 0], state.second[state.weight > 0]
    bright = (a > BRIGHT) & (b > BRIGHT)
    if int(bright.sum()) < 100:
        return 1.0
    return float((a[bright] / b[bright]).median())


def _level_factors(
    voxel: NDArray[np.float64], shape: tuple[int, ...], settings: PairSettings
) -> list[int]:
    """Return the downsampling factors, coarse to fine, powers of two."""
    factors = [1]
    while float(voxel.min()) * factors[0] * 2 <= settings.coarsest_mm * 1.01:
        factors.insert(0, factors[0] * 2)
    kept = [f for f in factors if float(voxel.min()) * f >= settings.finest_mm]
    return kept or [factors[0]]


def _resize(field: Tensor, old: int, new: int, shape: tuple[int, ...]) -> Tensor:
    """Interpolate a field between levels; block centres are the sample positions."""
    axes = [
        ((torch.arange(n) + 0.5) * new / old - 0.5).clamp(0, m - 1)
        for n, m in zip(shape, field.shape, strict=True)
    ]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    return _sample(field[None], points)[0]


def _sample(volumes: Tensor, voxels: Tensor) -> Tensor:
    """Interpolate (C, X, Y, Z) trilinearly at voxel positions (..., 3); zero outside."""
    size = torch.tensor(volumes.shape[1:], dtype=torch.float32)
    grid = (2 * voxels + 1) / size - 1
    sampled = F.grid_sample(
        volumes[None], grid.flip(-1)[None], padding_mode="zeros", align_corners=False
    )
    return sampled[0]


def _difference(values: Tensor, axis: int, spacing: float) -> Tensor:
    """Return the central difference along an axis, one-sided at the two ends."""
    return torch.gradient(values, spacing=spacing, dim=axis)[0]


def _difference_transposed(values: Tensor, axis: int, spacing: float) -> Tensor:
    """Apply the transpose of :func:`_difference`."""
    v = values.movedim(axis, 0) / spacing
    out = torch.zeros_like(v)
    out[2:] += 0.5 * v[1:-1]
    out[:-2] -= 0.5 * v[1:-1]
    out[0] -= v[0]
    out[1] += v[0]
    out[-1] += v[-1]
    out[-2] -= v[-1]
    return out.movedim(0, axis)


def _laplacian(values: Tensor, spacing: NDArray[np.float64]) -> Tensor:
    """Return minus the Laplacian with free ends: the gradient of 1/2 |grad|^2."""
    out = torch.zeros_like(values)
    for axis in range(3):
        step = torch.diff(values, dim=axis) / float(spacing[axis]) ** 2
        n = values.shape[axis]
        out.narrow(axis, 0, n - 1).sub_(step)
        out.narrow(axis, 1, n - 1).add_(step)
    return out


def _barrier(strain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return phi(z) = z^4 / (1 - z^2), its slope and a positive curvature."""
    square = strain * strain
    gap = 1 - square
    value = square * square / gap
    slope = strain * square * (4 - 2 * square) / (gap * gap)
    curvature = (12 * square - 6 * square**2 + 2 * square**3) / gap**3
    return value, slope, curvature


@dataclass(frozen=True, eq=False)
class _State:
    """Both corrected images and what their derivatives need, at one (field, movement)."""

    first: Tensor
    second: Tensor
    jacobian_first: Tensor
    jacobian_second: Tensor
    raw_first: Tensor
    raw_second: Tensor
    slope_first: Tensor
    slopes_second: Tensor  # (3, X, Y, Z), along the axes of the second image, per voxel
    weight: Tensor
    strain: Tensor

    @property
    def residual(self) -> Tensor:
        return self.weight * (self.first - self.second)


@dataclass(frozen=True, eq=False)
class _Level:
    """Images of one resolution, with their derivatives."""

    first: Tensor  # (2, X, Y, Z): intensity, its slope along phase encoding per mm
    second: Tensor  # (4, U, V, W): intensity, its slopes along the three axes per voxel
    base: Tensor  # (X, Y, Z, 3) voxel positions of the grid itself
    points: NDArray[np.float64]  # (X*Y*Z, 3) RAS+ mm
    affine: NDArray[np.float64]
    second_affine: NDArray[np.float64]
    axis: int
    second_axis: int
    rho: tuple[float, float]
    spacing: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape[:3])

    @classmethod
    def build(cls, first: PairImage, second: PairImage, factor: int, *, gain: float) -> _Level:
        a, a_affine = _reduced(first.data, first.affine, factor)
        b, b_affine = _reduced(gain * second.data, second.affine, factor)
        spacing = np.linalg.norm(a_affine[:3, :3], axis=0)
        slope = _difference(a, first.axis, float(spacing[first.axis]))
        slopes = [_difference(b, axis, 1.0) for axis in range(3)]
        axes = [torch.arange(n, dtype=torch.float32) for n in a.shape]
        base = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
        points = base.numpy().reshape(-1, 3).astype(np.float64) @ a_affine[:3, :3].T
        return cls(
            torch.stack([a, slope]),
            torch.stack([b, *slopes]),
            base,
            points + a_affine[:3, 3],
            a_affine,
            b_affine,
            first.axis,
            second.axis,
            (first.rho, second.rho),
            spacing,
        )

    def evaluate(self, displacement: Tensor, xfm: NDArray[np.float64]) -> _State:
        """Correct both images with a field and a movement."""
        strain = _difference(displacement, self.axis, float(self.spacing[self.axis]))
        where = self.base.clone()
        where[..., self.axis] += displacement * (self.rho[0] / float(self.spacing[self.axis]))
        raw_a, slope_a = _sample(self.first, where)
        matrix = np.linalg.inv(self.second_affine) @ xfm
        there = self.points @ matrix[:3, :3].T + matrix[:3, 3]
        where_b = torch.from_numpy(there.astype(np.float32)).reshape(self.base.shape)
        step = float(np.linalg.norm(self.second_affine[:3, self.second_axis]))
        where_b[..., self.second_axis] += displacement * (self.rho[1] / step)
        sampled = _sample(self.second, where_b)
        weight = _inside(where, self.first.shape[1:]) & _inside(where_b, self.second.shape[1:])
        jacobian_a, jacobian_b = 1 + self.rho[0] * strain, 1 + self.rho[1] * strain
        return _State(
            raw_a * jacobian_a,
            sampled[0] * jacobian_b,
            jacobian_a,
            jacobian_b,
            raw_a,
            sampled[0],
            slope_a,
            sampled[1:],
            weight.float(),
            strain,
        )

    def energy(self, displacement: Tensor, state: _State, settings: PairSettings) -> float:
        """Return the mean energy per voxel, infinite where a Jacobian leaves (0, 2)."""
        strains = [rho * state.strain for rho in self.rho]
        if max(float(s.abs().max()) for s in strains) >= LARGEST_STRAIN:
            return math.inf
        total = 0.5 * float((state.residual**2).sum(dtype=torch.float64))
        smooth = displacement * _laplacian(displacement, self.spacing)
        total += 0.5 * settings.smoothness * float(smooth.sum(dtype=torch.float64))
        for strain in strains:
            total += settings.barrier * float(_barrier(strain)[0].sum(dtype=torch.float64))
        return total / displacement.numel()


def _inside(voxels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Tell which positions lie in the image, half a voxel of rim included."""
    size = torch.tensor(shape, dtype=torch.float32)
    return ((voxels >= -0.5) & (voxels <= size - 0.5)).all(dim=-1)


def _reduced(
    data: NDArray[np.float32], affine: ArrayLike, factor: int
) -> tuple[Tensor, NDArray[np.float64]]:
    """Smooth an image and average it over blocks of factor^3 voxels."""
    image = torch.from_numpy(gaussian_filter(data, 0.5 * math.log2(factor) if factor > 1 else 0.0))
    scaled = np.array(affine, dtype=np.float64)
    if factor > 1:
        pad = [v for n in reversed(image.shape) for v in (0, -n % factor)]
        padded = F.pad(image[None, None], pad, mode="replicate")
        image = F.avg_pool3d(padded, factor)[0, 0]
        scaled[:3, 3] += scaled[:3, :3] @ np.full(3, (factor - 1) / 2)
        scaled[:3, :3] *= factor
    return image, scaled


def _solve_level(
    level: _Level, displacement: Tensor, xfm: NDArray[np.float64], settings: PairSettings
) -> tuple[NDArray[np.float64], Tensor]:
    state = level.evaluate(displacement, xfm)
    energy = level.energy(displacement, state, settings)
    while math.isinf(energy):  # interpolation between levels steepened a fold
        displacement = displacement * 0.5
        state = level.evaluate(displacement, xfm)
        energy = level.energy(displacement, state, settings)
    for iteration in range(settings.iterations):
        before = energy
        step = _newton_step(level, displacement, state, settings)
        size = 1.0
        while size > 1e-3:
            trial = displacement + size * step
            trial_state = level.evaluate(trial, xfm)
            trial_energy = level.energy(trial, trial_state, settings)
            if trial_energy < energy:
                displacement, state, energy = trial, trial_state, trial_energy
                break
            size /= 2
        if settings.is_moving:
            moved = _rigid_step(level, state, xfm)
            if _is_within(moved, level, settings):
                moved_state = level.evaluate(displacement, moved)
                moved_energy = level.energy(displacement, moved_state, settings)
                if moved_energy < energy:
                    xfm, state, energy = moved, moved_state, moved_energy
        logger.debug("pair, %s: step %d, energy %.3e", level.shape, iteration, energy)
        if before - energy < LEVEL_TOLERANCE * before:
            break
    return xfm, displacement


def _newton_step(
    level: _Level, displacement: Tensor, state: _State, settings: PairSettings
) -> Tensor:
    """Solve the Gauss-Newton system for the field by conjugate gradients."""
    axis, spacing = level.axis, float(level.spacing[level.axis])
    rho_a, rho_b = level.rho
    step_b = float(np.linalg.norm(level.second_affine[:3, level.second_axis]))
    local = state.weight * (
        rho_a * state.jacobian_first * state.slope_first
        - (rho_b / step_b) * state.jacobian_second * state.slopes_second[level.second_axis]
    )
    along = state.weight * (rho_a * state.raw_first - rho_b * state.raw_second)
    slope, curvature = torch.zeros_like(local), torch.zeros_like(local)
    for rho in level.rho:
        _, phi1, phi2 = _barrier(rho * state.strain)
        slope += settings.barrier * rho * phi1
        curvature += settings.barrier * rho * rho * phi2
    residual = state.residual

    gradient = local * residual + settings.smoothness * _laplacian(displacement, level.spacing)
    gradient += _difference_transposed(along * residual + slope, axis, spacing)

    def hessian(v: Tensor) -> Tensor:
        slope_v = _difference(v, axis, spacing)
        change = local * v + along * slope_v
        out = local * change + settings.smoothness * _laplacian(v, level.spacing)
        out += _difference_transposed(along * change + curvature * slope_v, axis, spacing)
        return out

    strength = F.avg_pool3d((along**2 + curvature)[None, None], 3, stride=1, padding=1)[0, 0]
    diagonal = local**2 + strength * (0.5 / spacing**2)
    diagonal += settings.smoothness * float((2.0 / level.spacing**2).sum())
    return _conjugate_gradients(hessian, -gradient, diagonal)


def _conjugate_gradients(matrix: object, right: Tensor, diagonal: Tensor) -> Tensor:
    assert callable(matrix)
    solution = torch.zeros_like(right)
    residual = right.clone()
    z = residual / diagonal
    direction = z.clone()
    product = float((residual * z).sum())
    limit = CG_TOLERANCE * float(residual.norm())
    for _ in range(CG_STEPS):
        image = matrix(direction)
        curvature = float((direction * image).sum())
        if curvature <= 0:
            break
        size = product / curvature
        solution += size * direction
        residual -= size * image
        if float(residual.norm()) <= limit:
            break
        z = residual / diagonal
        product, old = float((residual * z).sum()), product
        direction = z + (product / old) * direction
    return solution


def _rigid_step(level: _Level, state: _State, xfm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the movement after one Gauss-Newton step of its six parameters.

    The shift along phase encoding stays as it is: it looks like a constant field.
    """
    linear = np.linalg.inv(level.second_affine)[:3, :3]
    slopes = (state.weight * state.jacobian_second) * state.slopes_second
    per_mm = slopes.reshape(3, -1).numpy().astype(np.float64).T @ linear
    centre = level.points.mean(axis=0)
    moved = (level.points - centre) @ xfm[:3, :3].T
    columns = np.concatenate([per_mm, np.cross(moved, per_mm)], axis=1)
    encoding = level.second_affine[:3, level.second_axis] / np.linalg.norm(
        level.second_affine[:3, level.second_axis]
    )
    free = np.linalg.svd(encoding[None])[2][1:]  # two directions across phase encoding
    basis = np.zeros((6, 5))
    basis[:3, :2] = free.T
    basis[3:, 2:] = np.eye(3)
    columns = columns @ basis
    residual = state.residual.numpy().ravel().astype(np.float64)
    normal = columns.T @ columns
    normal += 1e-6 * np.trace(normal) / len(normal) * np.eye(len(normal))
    parameters = basis @ np.linalg.solve(normal, columns.T @ residual)
    return _compose_rigid(parameters, xfm, centre)


def _compose_rigid(
    parameters: NDArray[np.float64], xfm: NDArray[np.float64], centre: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Turn about the centre's image, shift, and keep the result a proper rotation."""
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec(parameters[3:]).as_matrix()
    image = xfm[:3, :3] @ centre + xfm[:3, 3]
    out = np.eye(4)
    out[:3, :3] = Rotation.from_matrix(turn @ xfm[:3, :3]).as_matrix()
    out[:3, 3] = image + parameters[:3] - out[:3, :3] @ centre
    return out


def _is_within(xfm: NDArray[np.float64], level: _Level, settings: PairSettings) -> bool:
    centre = level.points.mean(axis=0)
    shift = float(np.linalg.norm(xfm[:3, :3] @ centre + xfm[:3, 3] - centre))
    angle = math.degrees(math.acos(float(np.clip((np.trace(xfm[:3, :3]) - 1) / 2, -1, 1))))
    return shift <= settings.largest_shift_mm and angle <= settings.largest_angle_deg
