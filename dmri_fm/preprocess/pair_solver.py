"""Variational estimate of the field behind two images of opposite phase encoding.

The unknown is the displacement u along phase encoding, in mm, at the voxel centres of the
undistorted image. With ``rho`` the signed readout of an image in units of the pair's mean, the
undistorted image is recovered from distorted image i as::

    corrected_i(x) = image_i(T_i x + rho_i u(x) e_i) * (1 + rho_i du/dx)

and u minimises, over all voxels::

    1/2 (corrected_1 - corrected_2)^2 + alpha/2 |grad u|^2 + gamma/2 (Laplacian u)^2
        + beta phi(rho_i du/dx)

where phi grows without bound as the Jacobian nears 0 or 2. T_1 is the identity; T_2, a rigid
head movement between the two images, is estimated in turn with u. Levels run from coarse to
fine; on each, Gauss-Newton steps are solved by preconditioned conjugate gradients.

The formulation follows Ruthotto et al. 2012, doi:10.1088/0031-9155/57/18/5715, which has no
term of the Laplacian: with it, noise bends the field less than with a larger alpha, and large
fields are flattened less (`benchmarks/reverse_pair.py`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from dmri_fm.preprocess.pair_level import (
    BARRIER,
    PairImage,
    PairLevel,
    PairState,
    barrier,
    difference,
    difference_transposed,
    resize_field,
    roughness,
    roughness_diagonal,
)

logger = logging.getLogger(__name__)

#: The first level has voxels of about this size, mm.
COARSEST_MM = 16.0

#: Gauss-Newton steps per level, at most.
ITERATIONS = 12

#: A head movement beyond these bounds is refused.
LARGEST_SHIFT_MM, LARGEST_ANGLE_DEG = 15.0, 15.0

#: Conjugate gradients stop at this relative residual, or after this many steps.
CG_TOLERANCE, CG_STEPS = 0.05, 40

#: Voxels above this part of the typical intensity tell the relative gain of the two images.
BRIGHT = 0.4

#: Times that gain and field are estimated in turn on each level.
GAIN_ROUNDS = 2

#: A level ends when a step lowers the energy by less than this part.
LEVEL_TOLERANCE = 2e-3


@dataclass(frozen=True, eq=False)
class PairSolution:
    """Result of :func:`solve_pair`.

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
        Jacobians of the corrected images.
    is_seen
        Shape (X, Y, Z): voxels that lie inside both images.
    """

    displacement_mm: NDArray[np.float32]
    second_xfm: NDArray[np.float64]
    corrected: tuple[NDArray[np.float32], NDArray[np.float32]]
    jacobians: tuple[NDArray[np.float32], NDArray[np.float32]]
    is_seen: NDArray[np.bool_]


def solve_pair(first: PairImage, second: PairImage) -> PairSolution:
    """Estimate the field between two images of opposite phase encoding.

    Parameters
    ----------
    first, second
        The images; the solution lies on the grid of the first.
    """
    voxel = np.linalg.norm(first.affine[:3, :3], axis=0)
    displacement = torch.zeros(first.data.shape)
    xfm = np.eye(4)
    gain = 1.0
    factor_from = 1
    for factor in _level_factors(voxel):
        level = PairLevel.build(first, second, factor, gain=gain)
        displacement = resize_field(displacement, factor_from, factor, level.shape)
        for _ in range(GAIN_ROUNDS):
            gain *= _relative_gain(level.evaluate(displacement, xfm))
            level = PairLevel.build(first, second, factor, gain=gain)
            xfm, displacement = _solve_level(level, displacement, xfm)
        factor_from = factor
    full = PairLevel.build(first, second, 1, gain=gain)
    if factor_from != 1:
        displacement = resize_field(displacement, factor_from, 1, full.shape)
    state = full.evaluate(displacement, xfm)
    return PairSolution(
        displacement.numpy(),
        xfm,
        (state.first.numpy(), state.second.numpy()),
        (state.jacobian_first.numpy(), state.jacobian_second.numpy()),
        state.weight.numpy() > 0,
    )


def _relative_gain(state: PairState) -> float:
    """Return the factor that brings the second corrected image to the first one's level."""
    a, b = state.first[state.weight > 0], state.second[state.weight > 0]
    bright = (a > BRIGHT) & (b > BRIGHT)
    if int(bright.sum()) < 100:
        return 1.0
    return float((a[bright] / b[bright]).median())


def _level_factors(voxel_mm: NDArray[np.float64]) -> list[int]:
    """Return the downsampling factors, coarse to fine, powers of two."""
    factors = [1]
    while float(voxel_mm.min()) * factors[0] * 2 <= COARSEST_MM * 1.01:
        factors.insert(0, factors[0] * 2)
    return factors


def _solve_level(
    level: PairLevel, displacement: Tensor, xfm: NDArray[np.float64]
) -> tuple[NDArray[np.float64], Tensor]:
    state = level.evaluate(displacement, xfm)
    energy = level.energy(displacement, state)
    while math.isinf(energy):  # interpolation between levels steepened a fold
        displacement = displacement * 0.5
        state = level.evaluate(displacement, xfm)
        energy = level.energy(displacement, state)
    for iteration in range(ITERATIONS):
        before = energy
        step = _newton_step(level, displacement, state)
        size = 1.0
        while size > 1e-3:
            trial = displacement + size * step
            trial_state = level.evaluate(trial, xfm)
            trial_energy = level.energy(trial, trial_state)
            if trial_energy < energy:
                displacement, state, energy = trial, trial_state, trial_energy
                break
            size /= 2
        moved = _rigid_step(level, state, xfm)
        if _is_within(moved, level):
            moved_state = level.evaluate(displacement, moved)
            moved_energy = level.energy(displacement, moved_state)
            if moved_energy < energy:
                xfm, state, energy = moved, moved_state, moved_energy
        logger.debug("pair, %s: step %d, energy %.3e", level.shape, iteration, energy)
        if before - energy < LEVEL_TOLERANCE * before:
            break
    return xfm, displacement


def _newton_step(level: PairLevel, displacement: Tensor, state: PairState) -> Tensor:
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
        phi = barrier(rho * state.strain)
        slope += BARRIER * rho * phi.slope
        curvature += BARRIER * rho * rho * phi.curvature
    residual = state.residual

    gradient = local * residual + roughness(displacement, level.spacing)
    gradient += difference_transposed(along * residual + slope, axis, spacing)

    def hessian(v: Tensor) -> Tensor:
        slope_v = difference(v, axis, spacing)
        change = local * v + along * slope_v
        out = local * change + roughness(v, level.spacing)
        out += difference_transposed(along * change + curvature * slope_v, axis, spacing)
        return out

    strength = F.avg_pool3d((along**2 + curvature)[None, None], 3, stride=1, padding=1)[0, 0]
    diagonal = local**2 + strength * (0.5 / spacing**2)
    diagonal += roughness_diagonal(level.spacing)
    return _conjugate_gradients(hessian, -gradient, diagonal)


def _conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], right: Tensor, diagonal: Tensor
) -> Tensor:
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


def _rigid_step(
    level: PairLevel, state: PairState, xfm: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the movement after one Gauss-Newton step of its six parameters.

    The shift along phase encoding is kept: it looks like a constant field.
    """
    linear = np.linalg.inv(level.second_affine)[:3, :3]
    slopes = (state.weight * state.jacobian_second) * state.slopes_second
    per_mm = slopes.reshape(3, -1).numpy().astype(np.float64).T @ linear
    centre = level.points.mean(axis=0)
    moved = (level.points - centre) @ xfm[:3, :3].T
    columns = np.concatenate([per_mm, np.cross(moved, per_mm)], axis=1)
    encoding = level.second_affine[:3, level.second_axis]
    encoding = encoding / np.linalg.norm(encoding)
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
    turn = Rotation.from_rotvec(parameters[3:]).as_matrix()
    image = xfm[:3, :3] @ centre + xfm[:3, 3]
    out = np.eye(4)
    out[:3, :3] = Rotation.from_matrix(turn @ xfm[:3, :3]).as_matrix()
    out[:3, 3] = image + parameters[:3] - out[:3, :3] @ centre
    return out


def _is_within(xfm: NDArray[np.float64], level: PairLevel) -> bool:
    centre = level.points.mean(axis=0)
    shift = float(np.linalg.norm(xfm[:3, :3] @ centre + xfm[:3, 3] - centre))
    angle = math.degrees(math.acos(float(np.clip((np.trace(xfm[:3, :3]) - 1) / 2, -1, 1))))
    return shift <= LARGEST_SHIFT_MM and angle <= LARGEST_ANGLE_DEG
