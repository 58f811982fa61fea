"""Noise of a reference tensor, voxel by voxel, from the residuals of its own fit.

Wild bootstrap (Whitcher et al. 2008, doi:10.1002/hbm.20395): residuals of the weighted fit to the
logarithm of the signal keep their volume and get random signs. They are divided by the square
root of one minus their leverage, so that the variance is right on average for few volumes too;
it is to be subtracted, so bias matters more than caution.

The b=0 volume of a single shell is fitted exactly: it has no residual. Its noise is drawn from a
normal distribution instead, as large as the residuals of the other volumes say.

Seven volumes leave no residuals at all. :func:`model_noise` draws from the noise model instead:
magnitudes of the fitted signal with normal noise of an estimated deviation in two channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.series import Dwi
from dmri_fm.tensor import smallest_signal
from dmri_fm.tensor_maps import SCALARS, decompose_tensors
from dmri_fm_lab.evaluate.log_fit import log_design, weighted_inverse
from dmri_fm_lab.evaluate.tensor_errors import axis_angle_deg

#: Scalars whose noise is estimated.
_SCALARS = ("fa", "md", "ad", "rd")

#: Quantities whose noise is estimated, and the unit that they are computed in here: mm^2/s for
#: the tensor, whose noise is that of six elements, and diffusivities; degrees for `v1`.
QUANTITIES = {"tensor": 1e-3, "fa": 1.0, "md": 1e-3, "ad": 1e-3, "rd": 1e-3, "v1": 1.0}

#: Leverage above which a volume has no residual to speak of.
HIGHEST_LEVERAGE = 0.98

#: Fewest residual degrees of freedom; with fewer, noise is taken from a fit to more volumes.
FEWEST_FREE = 3

#: Voxels worked on at a time.
_BLOCK = 20_000


@dataclass(frozen=True, eq=False)
class ReferenceNoise:
    """Noise of a reference in the voxels of a mask, M voxels in the order of the mask.

    Attributes
    ----------
    variance
        By `fa`, `md`, `ad`, `rd`: shape (M,); `tensor`: shape (M, 6); squares of the unit.
    floor
        By `tensor` (sum over six elements), `fa`, `md`, `ad`, `rd`, `v1` (degrees): shape (M,),
        mean absolute deviation of the replicates.
    fa_bias
        Shape (M,): mean FA of the replicates minus the FA of the fit, which is about what noise
        has added to the FA of the reference itself.
    n_free
        Residual degrees of freedom that the noise was estimated from; 0: none, the noise model.
    tensors
        Shape (R, M, 6), float32, mm^2/s: the tensors of the replicates.
    """

    variance: dict[str, NDArray[np.float64]]
    floor: dict[str, NDArray[np.float64]]
    fa_bias: NDArray[np.float64]
    n_free: int
    tensors: NDArray[np.float32]

    @classmethod
    def join(cls, blocks: Sequence[ReferenceNoise]) -> ReferenceNoise:
        """Join the noise of blocks of voxels."""
        variance, floor = (
            {k: np.concatenate([getattr(b, name)[k] for b in blocks]) for k in first}
            for name, first in (("variance", blocks[0].variance), ("floor", blocks[0].floor))
        )
        return cls(
            variance,
            floor,
            np.concatenate([b.fa_bias for b in blocks]),
            blocks[0].n_free,
            np.concatenate([b.tensors for b in blocks], axis=1),
        )


def bootstrap_noise(
    dwi: Dwi,
    reference: Sequence[int],
    *,
    mask: NDArray[np.bool_],
    rng: np.random.Generator,
    more: Sequence[int] = (),
    has_b0_noise: bool = True,
    n_replicates: int = 40,
) -> ReferenceNoise | None:
    """Estimate the noise of the tensor that is fitted to some volumes of a series.

    Parameters
    ----------
    dwi
        The series.
    reference
        Positions of the volumes the tensor is fitted to; one shell and b=0.
    mask
        Shape (X, Y, Z): voxels of the estimate.
    rng
        Source of randomness.
    more
        Volumes that are fitted beside the reference's where these alone leave no residuals; only
        the size of their residuals is used.
    has_b0_noise
        Whether b=0 volumes vary. Where estimate and reference share their b=0, its noise is in
        both and not in their difference.
    n_replicates
        Fits to perturbed signals.

    Returns
    -------
    ReferenceNoise or None
        None where volumes are too few, or the mask is empty.
    """
    if n_replicates < 2:
        raise ConfigError(f"{n_replicates} bootstrap replicates", expected="two or more")
    chosen = list(reference)
    fitted = chosen if len(chosen) - 7 >= FEWEST_FREE else sorted({*chosen, *more})
    n_free = len(fitted) - 7
    if n_free < FEWEST_FREE or not mask.any():
        return None
    signal = np.maximum(dwi.data[mask].astype(np.float64), smallest_signal(dwi, mask))
    blocks = []
    for start in range(0, len(signal), _BLOCK):
        block = signal[start : start + _BLOCK]
        fit = _fit_chosen(block, dwi.gtab, chosen, fitted)
        if not has_b0_noise:
            fit = replace(fit, spread=np.where(dwi.gtab.is_b0[chosen], 0.0, fit.spread))
        blocks.append(_replicate(fit, n_free, rng=rng, n_replicates=n_replicates))
    return ReferenceNoise.join(blocks)


def model_noise(
    dwi: Dwi,
    *,
    mask: NDArray[np.bool_],
    sigma: ArrayLike,
    rng: np.random.Generator,
    n_replicates: int = 40,
) -> ReferenceNoise:
    """Estimate the noise of the tensor that is fitted to a series, from a model of the noise.

    Parameters
    ----------
    dwi
        One shell and b=0, such as seven volumes.
    mask
        Shape (X, Y, Z), not empty: voxels of the estimate.
    sigma
        Deviation of the noise in each of two channels, in the units of the series: a number, or
        shape (X, Y, Z).
    rng
        Source of randomness.
    n_replicates
        Fits to simulated signals, two or more.
    """
    least = smallest_signal(dwi, mask)
    signal = np.maximum(dwi.data[mask].astype(np.float64), least)
    spread = np.broadcast_to(np.asarray(sigma, dtype=np.float64), mask.shape)[mask]
    design = log_design(dwi.gtab)
    blocks = []
    for start in range(0, len(signal), _BLOCK):
        log_s = np.log(signal[start : start + _BLOCK])
        solve, _weight = weighted_inverse(design, log_s @ np.linalg.pinv(design).T @ design.T)
        beta = np.einsum("min,mn->mi", solve, log_s)
        clean, noise = np.exp(beta @ design.T), spread[start : start + _BLOCK, None]

        def refits(
            solve: NDArray[np.float64] = solve,
            clean: NDArray[np.float64] = clean,
            noise: NDArray[np.float64] = noise,
        ) -> Iterable[NDArray[np.float64]]:
            for _ in range(n_replicates):
                real, imaginary = rng.standard_normal((2, *clean.shape)) * noise
                drawn = np.maximum(np.hypot(clean + real, imaginary), least)
                yield np.einsum("min,mn->mi", solve[:, :6], np.log(drawn))

        blocks.append(_summarise(beta[:, :6], refits(), n_free=0))
    return ReferenceNoise.join(blocks)


@dataclass(frozen=True, eq=False)
class _Fit:
    """A weighted fit to (M, N) signals.

    `tensor` (M, 6), um^2/ms; `solve` (M, 6, N), from the logarithm of the signal to the tensor;
    `spread` (M, N), standard deviation or scaled residual of the logarithm; `is_exact` (M, N),
    whether that is a standard deviation for want of a residual.
    """

    tensor: NDArray[np.float64]
    solve: NDArray[np.float64]
    spread: NDArray[np.float64]
    is_exact: NDArray[np.bool_]


def _fit(signal: NDArray[np.float64], gtab: GradientTable) -> _Fit:
    design = log_design(gtab)
    log_s = np.log(signal)
    predicted = log_s @ np.linalg.pinv(design).T @ design.T
    solve, weight = weighted_inverse(design, predicted)
    beta = np.einsum("min,mn->mi", solve, log_s)
    leverage = np.einsum("ni,min->mn", design, solve).clip(0.0, 1.0)
    residual = log_s - beta @ design.T
    is_exact = leverage > HIGHEST_LEVERAGE
    scaled = residual / np.sqrt(np.where(is_exact, 1.0, 1.0 - leverage))
    n_free = max(len(gtab) - 7, 1)
    # Of weight one; the residuals of volumes that are fitted exactly are zero anyway.
    sigma = np.sqrt((weight * residual**2).sum(axis=1, keepdims=True) / n_free)
    spread = np.where(is_exact, sigma / np.sqrt(weight), scaled)
    return _Fit(beta[:, :6], solve[:, :6], spread, is_exact)


def _fit_chosen(
    signal: NDArray[np.float64], gtab: GradientTable, chosen: list[int], fitted: list[int]
) -> _Fit:
    """Fit the chosen volumes; their spread comes from the fit to all of `fitted`, a superset."""
    fit = _fit(signal[:, fitted], gtab.select(fitted))
    if fitted == chosen:
        return fit
    columns = [fitted.index(volume) for volume in chosen]
    own = _fit(signal[:, chosen], gtab.select(chosen))
    return replace(own, spread=fit.spread[:, columns], is_exact=fit.is_exact[:, columns])


def _replicate(
    fit: _Fit, n_free: int, *, rng: np.random.Generator, n_replicates: int
) -> ReferenceNoise:
    """Perturb the signals of a fit again and again, and return the noise of its tensor."""

    def moved() -> Iterable[NDArray[np.float64]]:
        for _ in range(n_replicates):
            draw = rng.choice([-1.0, 1.0], size=fit.spread.shape)
            draw = np.where(fit.is_exact, rng.standard_normal(fit.spread.shape), draw)
            yield fit.tensor + np.einsum("min,mn->mi", fit.solve, fit.spread * draw)

    return _summarise(fit.tensor, moved(), n_free)


def _summarise(
    tensor: NDArray[np.float64], replicates: Iterable[NDArray[np.float64]], n_free: int
) -> ReferenceNoise:
    """Return the noise of (M, 6) tensors, um^2/ms, from two replicates or more."""
    base, axis = _scalars(tensor)
    squares = {name: np.zeros_like(value) for name, value in base.items()}
    sums = {name: np.zeros_like(value) for name, value in base.items()}
    floor = {name: np.zeros(len(tensor)) for name in QUANTITIES}
    tensors = []
    for moved in replicates:
        scalars, turned = _scalars(moved)
        for name, value in scalars.items():
            change = value - base[name]
            sums[name] += change
            squares[name] += change**2
            floor[name] += np.abs(change) if change.ndim == 1 else np.abs(change).sum(axis=1)
        floor["v1"] += axis_angle_deg(turned, axis)
        tensors.append((moved * QUANTITIES["tensor"]).astype(np.float32))
    n = len(tensors)
    variance = {k: (squares[k] - sums[k] ** 2 / n) / (n - 1) for k in base}
    return ReferenceNoise(
        {k: v * QUANTITIES[k] ** 2 for k, v in variance.items()},
        {k: v / n * QUANTITIES[k] for k, v in floor.items()},
        sums["fa"] / n,
        n_free,
        np.stack(tensors),
    )


def _scalars(
    tensor: NDArray[np.float64],
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Return tensor, FA, MD, AD and RD, um^2/ms, and the main axis of (M, 6) tensors."""
    values, axis = decompose_tensors(tensor)
    values = values.clip(0.0)
    return {"tensor": tensor, **{name: SCALARS[name].compute(values) for name in _SCALARS}}, axis
