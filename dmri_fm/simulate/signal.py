"""Diffusion signal of a simulated anatomy, its true tensor, and what a scanner adds.

White matter holds two fibre populations, each a stick within a zeppelin; grey matter is
isotropic with gamma-distributed diffusivity; CSF is free. The mixture is not a tensor, as tissue
is not: its *true tensor* is the one that weighted least squares finds in the noise-free
signal of a dense set of directions at one b-value, point spread included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from dmri_fm.gradients import GradientTable
from dmri_fm.simulate.anatomy import N_REGIONS, Anatomy
from dmri_fm.simulate.protocol import spread_directions

__all__ = [
    "Tissue",
    "add_noise",
    "blur_volumes",
    "dense_directions",
    "draw_tissue",
    "noise_free_signal",
    "true_tensor",
]

#: Directions of the dense set that defines the true tensor.
N_DENSE_DIRECTIONS = 30


@dataclass(frozen=True, eq=False)
class Tissue:
    """Diffusion properties of one head; diffusivities in um^2/ms.

    Attributes
    ----------
    white
        Shape (N_REGIONS, 6), float32, per region: stick fraction, stick diffusivity, parallel
        and radial zeppelin diffusivity, share of the second fibre population, radial
        diffusivity of the stick (its dispersion).
    grey, grey_shape
        Mean and gamma shape of grey matter's diffusivity.
    grey_fibres
        Share of grey matter's signal that comes from fibres.
    csf
        Diffusivity of CSF.
    intensity
        b=0 intensity of white matter, grey matter and CSF, scanner units.
    """

    white: NDArray[np.float32]
    grey: float
    grey_shape: float
    grey_fibres: float
    csf: float
    intensity: tuple[float, float, float]


def draw_tissue(rng: np.random.Generator, *, variety: float = 1.0) -> Tissue:
    """Draw diffusivities and b=0 contrast.

    Parameters
    ----------
    rng
        Source of randomness.
    variety
        1: the range of healthy and diseased brains and of all scanners, for training; near 0:
        a healthy adult. Regions differ from one another in either case.

    Returns
    -------
    Tissue
        Properties of one head.
    """

    def draw(low: float, high: float) -> float:
        return 0.5 * (low + high) + variety * rng.uniform(-0.5, 0.5) * (high - low)

    n = N_REGIONS
    stick = np.clip(draw(0.35, 0.6) + rng.normal(0, 0.07, n), 0.15, 0.8)
    along = draw(1.4, 2.2) * rng.gamma(60.0, 1 / 60.0, n)
    parallel = draw(1.1, 1.8) * rng.gamma(60.0, 1 / 60.0, n)
    radial = np.minimum(draw(0.35, 0.8) * rng.gamma(40.0, 1 / 40.0, n), 0.8 * parallel)
    second = np.where(rng.uniform(size=n) < 0.6, rng.uniform(0.1, 0.5, n), 0.0)
    dispersion = np.minimum(draw(0.03, 0.2) * rng.gamma(4.0, 0.25, n), 0.6) * along
    white = np.stack([stick, along, parallel, radial, second, dispersion], axis=1)
    scale = float(np.exp(rng.uniform(np.log(50.0), np.log(2000.0))))
    return Tissue(
        white=white.astype(np.float32),
        grey=draw(0.7, 1.0),
        grey_shape=draw(3.0, 12.0),
        grey_fibres=draw(0.0, 0.3),
        csf=draw(2.6, 3.2),
        intensity=(scale, scale * draw(1.05, 1.6), scale * draw(1.5, 4.5)),
    )


@njit(cache=True, fastmath=True, error_model="numpy")
def _mixture(region, axes, parts, white, grey, grey_shape, csf, bvals, bvecs):  # type: ignore
    """Mix compartments: (M,) kinds, (M, 6) axes, (M, 3) intensities -> (M, N) signal."""
    n_voxels, n_volumes = parts.shape[0], bvals.shape[0]
    out = np.empty((n_voxels, n_volumes), dtype=np.float32)
    iso = np.empty((2, n_volumes), dtype=np.float32)
    for n in range(n_volumes):
        iso[0, n] = (1.0 + bvals[n] * grey / grey_shape) ** (-grey_shape)
        iso[1, n] = np.exp(-bvals[n] * csf)
    for m in range(n_voxels):
        p = white[region[m]]
        second = p[4]
        for n in range(n_volumes):
            value = parts[m, 1] * iso[0, n] + parts[m, 2] * iso[1, n]
            if parts[m, 0] > 0:
                b = bvals[n]
                fibres = np.float32(0.0)
                for k in range(2):
                    weight = second if k == 1 else np.float32(1.0) - second
                    if weight > 0:
                        c = (
                            axes[m, 3 * k] * bvecs[n, 0]
                            + axes[m, 3 * k + 1] * bvecs[n, 1]
                            + axes[m, 3 * k + 2] * bvecs[n, 2]
                        )
                        c = c * c
                        fibres += weight * (
                            p[0] * np.exp(-b * (p[5] + (p[1] - p[5]) * c))
                            + (np.float32(1.0) - p[0]) * np.exp(-b * (p[3] + (p[2] - p[3]) * c))
                        )
                value += parts[m, 0] * fibres
            out[m, n] = value
    return out


@njit(cache=True, error_model="numpy")
def _fit_shell(signal, s0, bval, bvecs):  # type: ignore
    """Fit tensors to noise-free (M, N) signals of one shell: weights S^2, intercept ln S0."""
    n_voxels, n_volumes = signal.shape
    design = np.empty((n_volumes, 6))
    for n in range(n_volumes):
        x, y, z = bvecs[n, 0], bvecs[n, 1], bvecs[n, 2]
        design[n, 0], design[n, 1], design[n, 2] = x * x, 2 * x * y, 2 * x * z
        design[n, 3], design[n, 4], design[n, 5] = y * y, 2 * y * z, z * z
    out = np.zeros((n_voxels, 6), dtype=np.float32)
    normal, right = np.empty((6, 6)), np.empty(6)
    for m in range(n_voxels):
        if s0[m] <= 0:
            continue
        normal[:] = 0.0
        right[:] = 0.0
        for n in range(n_volumes):
            ratio = max(signal[m, n] / s0[m], 1e-6)
            weight = ratio * ratio
            adc = -np.log(ratio) / bval
            for i in range(6):
                wi = weight * design[n, i]
                right[i] += wi * adc
                for j in range(i + 1):
                    normal[i, j] += wi * design[n, j]
        for i in range(6):
            for j in range(i + 1):
                total = normal[i, j]
                for k in range(j):
                    total -= normal[i, k] * normal[j, k]
                normal[i, j] = np.sqrt(total) if i == j else total / normal[j, j]
        for i in range(6):
            for k in range(i):
                right[i] -= normal[i, k] * right[k]
            right[i] /= normal[i, i]
        for i in range(5, -1, -1):
            for k in range(i + 1, 6):
                right[i] -= normal[k, i] * right[k]
            right[i] /= normal[i, i]
            out[m, i] = right[i]
    return out


@lru_cache(maxsize=1)
def dense_directions() -> NDArray[np.float64]:
    """Return the axes (30, 3) whose noise-free signal defines the true tensor."""
    directions = spread_directions(np.random.default_rng(0), N_DENSE_DIRECTIONS, n_steps=400)
    directions.setflags(write=False)
    return directions


def noise_free_signal(
    anatomy: Anatomy, tissue: Tissue, gtab: GradientTable
) -> NDArray[np.float32]:
    """Compute the signal of an anatomy, without noise, blur or bias.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, N), float32, scanner units; zero outside the brain.
    """
    mask = anatomy.mask
    parts = np.stack([anatomy.wm[mask], anatomy.gm[mask], anatomy.csf[mask]], axis=1)
    parts *= np.array(tissue.intensity, dtype=np.float32)
    in_cortex = np.float32(tissue.grey_fibres) * parts[:, 1]
    parts[:, 0] += in_cortex
    parts[:, 1] -= in_cortex
    axes = np.moveaxis(anatomy.fibres, (0, 1), (3, 4))[mask].reshape(-1, 6)
    out = np.zeros((*mask.shape, len(gtab)), dtype=np.float32)
    out[mask] = _mixture(
        anatomy.region[mask],
        axes,
        parts,
        tissue.white,
        np.float32(tissue.grey),
        np.float32(tissue.grey_shape),
        np.float32(tissue.csf),
        (gtab.bvals / 1000.0).astype(np.float32),
        gtab.bvecs_ras.astype(np.float32),
    )
    return out


def true_tensor(
    anatomy: Anatomy, tissue: Tissue, *, bval: float, blur: float = 0.0
) -> NDArray[np.float32]:
    """Return the tensor of the noise-free signal at one b-value.

    Weighted least squares over a dense shell, weights the squared signal: what a fit of b=0
    and this shell tends to with ever more directions and ever less noise.

    Parameters
    ----------
    anatomy, tissue
        What is scanned.
    bval
        s/mm^2.
    blur
        Point spread, see :func:`blur_volumes`.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, 6), float32, mm^2/s, RAS+, order xx, xy, xz, yy, yz, zz.
    """
    dense = dense_directions()
    gtab = GradientTable(
        np.concatenate([[0.0], np.full(len(dense), bval)]),
        np.concatenate([np.zeros((1, 3)), dense]),
    )
    signal = blur_volumes(noise_free_signal(anatomy, tissue, gtab), blur)
    mask = anatomy.mask
    values = signal[mask]
    out = np.zeros((*mask.shape, 6), dtype=np.float32)
    out[mask] = _fit_shell(np.ascontiguousarray(values[:, 1:]), values[:, 0], bval, dense)
    return out


def blur_volumes(data: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """Blur the first three axes with the kernel [weight, 1 - 2 weight, weight].

    Its variance is 2 weight voxels^2 per axis: 0.1 is a Gaussian of 1.05 voxels full width.
    """
    if weight <= 0:
        return data
    w = np.float32(weight)
    for axis in range(3):
        x = np.moveaxis(data, axis, 0)
        y = x * (1 - 2 * w)
        y[1:] += w * x[:-1]
        y[:-1] += w * x[1:]
        y[0] += w * x[0]
        y[-1] += w * x[-1]
        data = np.moveaxis(y, 0, axis)
    return np.ascontiguousarray(data)


def add_noise(
    rng: np.random.Generator,
    signal: NDArray[np.float32],
    *,
    sigma: float,
    correlation: float = 0.0,
) -> NDArray[np.float32]:
    """Add Rician noise.

    Parameters
    ----------
    rng
        Source of randomness.
    signal
        Shape (X, Y, Z, N).
    sigma
        Standard deviation of the real and of the imaginary channel.
    correlation
        Width of a Gaussian, voxels, that correlates the noise of neighbours; the deviation
        stays `sigma`. Interpolation by the scanner has this effect.

    Returns
    -------
    ndarray
        Shape (X, Y, Z, N), float32.
    """
    real, imaginary = rng.standard_normal((2, *signal.shape), dtype=np.float32)
    if correlation > 0:
        for channel in (real, imaginary):
            gaussian_filter(channel, correlation, axes=(0, 1, 2), output=channel, truncate=3.0)
            channel /= channel.std()
    noisy: NDArray[np.float32] = np.hypot(
        signal + np.float32(sigma) * real, np.float32(sigma) * imaginary
    )
    return noisy
