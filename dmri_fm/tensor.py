"""The diffusion tensor by weighted least squares, fast.

The estimate is that of Chung, Lu & Henry 2006 (doi:10.1016/j.neuroimage.2006.07.001): ordinary
least squares on the logarithm of the signal, then one weighted pass whose weights are the
squares of the signal that the first pass predicts. Clipping follows dipy's
`TensorModel(fit_method="WLS")`, with another floor of the signal (:func:`smallest_signal`), and
eigenvalues below 1e-6 over the largest element of the b-matrix are raised to that.

Voxels are worked on in blocks that stay in the processor's cache, each operation over a whole
block at a time: matrix products go to BLAS, the compiler turns the rest into vector instructions.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from dmri_fm.errors import ConfigError, ImageError
from dmri_fm.gradient_deviation import DEVIATION_KEY, VOXELWISE, undo_deviation
from dmri_fm.series import Dwi
from dmri_fm.tensor_design import (
    check_design,
    describe_widening,
    design_matrix,
    design_scale,
    select_shells,
)
from dmri_fm.tensor_maps import TensorMaps

logger = logging.getLogger(__name__)

#: Smallest signal that counts as measured, as a share of the brain's median b=0 signal: no scan
#: has an SNR of 500.
SMALLEST_SIGNAL_SHARE = 0.002

#: The smallest signal is no smaller than this, scanner units, as in dipy.
MIN_SIGNAL = 1e-4

#: Eigenvalues are raised to this over the largest element of the b-matrix, as dipy does.
EIGENVALUE_TOLERANCE = 1e-6

#: Numbers multiplied in one matrix product of a block: it fits the processor's second cache,
#: and stays below the size from which OpenBLAS starts threads of its own.
_PRODUCT_SIZE = 200_000


@njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz", "arcp"}, error_model="numpy")
def _fit_range(signal, design, pseudo, squares, min_signal, block, out, voxels):  # type: ignore
    """Fit voxels (from, to) of an (N, M) signal; (M, 7) coefficients into `out`.

    `design` (N, 7), `pseudo` (7, N) its pseudo-inverse, `squares` (28, N) the products of its
    columns, lower triangle row by row. One long function, because its steps share a block that
    stays in the cache, and calls between them cost the vector instructions.
    """
    start, stop = voxels
    n_volumes = design.shape[0]
    transposed = np.ascontiguousarray(design.T)
    ratio = np.empty(n_volumes * block, dtype=np.float32)
    bits = ratio.view(np.int32)
    power = np.empty(n_volumes * block, dtype=np.int32)
    two_to = power.view(np.float32)
    log_s = np.empty((n_volumes, block))
    weight = np.empty((n_volumes, block))
    flat_log, flat_weight = log_s.reshape(-1), weight.reshape(-1)
    predicted = np.empty((n_volumes, block))
    flat_predicted = predicted.reshape(-1)
    beta, right = np.empty((7, block)), np.empty((7, block))
    normal = np.empty((28, block))
    top = np.empty(block)
    floor = np.float32(min_signal)
    one, half, ln2 = np.float32(1.0), np.float32(0.5), np.float32(0.6931471805599453)
    third, fifth, seventh = np.float32(1 / 3), np.float32(1 / 5), np.float32(1 / 7)
    quarter, sixth, ninth = np.float32(1 / 4), np.float32(1 / 6), np.float32(1 / 9)
    log2e = np.float32(1.4426950408889634)

    for first in range(start, stop, block):
        count = min(block, stop - first)
        for n in range(n_volumes):
            for v in range(count):
                value = np.float32(signal[n, first + v])
                ratio[n * block + v] = value if value > floor else floor
            for v in range(count, block):
                ratio[n * block + v] = one

        # ln x = e ln 2 + 2 artanh((m - 1) / (m + 1)), where x = m 2^e and m is near one.
        for i in range(ratio.size):
            exponent = (bits[i] - np.int32(0x3F3504F3)) >> np.int32(23)
            power[i] = exponent
            bits[i] -= exponent << np.int32(23)
        for i in range(ratio.size):
            s = (ratio[i] - one) / (ratio[i] + one)
            z = s * s
            series = one + z * (third + z * (fifth + z * (seventh + z * ninth)))
            flat_log[i] = np.float32(power[i]) * ln2 + (s + s) * series

        np.dot(pseudo, log_s, beta)
        np.dot(design, beta, predicted)
        top[:] = predicted[0]
        for n in range(1, n_volumes):
            for v in range(block):
                top[v] = predicted[n, v] if predicted[n, v] > top[v] else top[v]

        # The weights, exp(2 (predicted - top)): a power of two times a short Taylor series.
        for n in range(n_volumes):
            for v in range(block):
                x = np.float32(2.0 * (predicted[n, v] - top[v]))
                ratio[n * block + v] = (x if x > np.float32(-80.0) else np.float32(-80.0)) * log2e
        for i in range(ratio.size):
            whole = np.floor(ratio[i] + half)
            power[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
            ratio[i] = (ratio[i] - whole) * ln2
        for i in range(ratio.size):
            f = ratio[i]
            series = one + f * quarter * (one + f * fifth * (one + f * sixth))
            series = one + f * (one + f * half * (one + f * third * series))
            flat_weight[i] = series * two_to[i]
            flat_log[i] = flat_weight[i] * (flat_log[i] - flat_predicted[i])

        np.dot(squares, weight, normal)
        np.dot(transposed, log_s, right)
        # Cholesky factor in place, then the two triangular solutions, for the whole block.
        for i in range(7):
            ii = i * (i + 1) // 2
            for j in range(i + 1):
                jj = j * (j + 1) // 2
                for k in range(j):
                    for v in range(block):
                        normal[ii + j, v] -= normal[ii + k, v] * normal[jj + k, v]
                if i == j:
                    for v in range(block):
                        pivot = normal[ii + i, v]
                        normal[ii + i, v] = 1.0 / np.sqrt(pivot if pivot > 1e-30 else 1e-30)
                else:
                    for v in range(block):
                        normal[ii + j, v] *= normal[jj + j, v]
        for i in range(7):
            ii = i * (i + 1) // 2
            for k in range(i):
                for v in range(block):
                    right[i, v] -= normal[ii + k, v] * right[k, v]
            for v in range(block):
                right[i, v] *= normal[ii + i, v]
        for i in range(6, -1, -1):
            for k in range(i + 1, 7):
                for v in range(block):
                    right[i, v] -= normal[k * (k + 1) // 2 + i, v] * right[k, v]
            for v in range(block):
                right[i, v] *= normal[i * (i + 1) // 2 + i, v]
        for v in range(count):
            for i in range(7):
                out[first + v, i] = beta[i, v] + right[i, v]


def _fit_grid(
    data: NDArray[Any],
    mask: NDArray[np.bool_],
    design: NDArray[np.float64],
    *,
    min_signal: float,
    n_threads: int | None,
) -> NDArray[np.float64]:
    """Fit the voxels of a mask, read in the order they lie in memory: (X, Y, Z, 7)."""
    out = np.zeros((*mask.shape, 7))
    if data.flags.f_contiguous and not data.flags.c_contiguous:
        # Volume after volume, x fastest, as nibabel reads a series: transpose both ends.
        volumes, order, grid = data.T, mask.T, out.transpose(2, 1, 0, 3)
        signal = volumes.reshape(len(volumes), -1) if mask.all() else volumes[:, order]
    else:
        order, grid = mask, out
        signal = data.reshape(-1, data.shape[3]).T if mask.all() else data[mask].T
    grid[order] = _fit(signal, design, min_signal=min_signal, n_threads=n_threads)
    return out


def fit_tensor(
    dwi: Dwi,
    *,
    mask: ArrayLike | None = None,
    shell: Literal["auto", "all"] | float = "auto",
    min_signal: float | None = None,
    gradient_deviation: ArrayLike | None = None,
    n_threads: int | None = None,
) -> TensorMaps:
    """Fit a diffusion tensor to every voxel by weighted least squares.

    Parameters
    ----------
    dwi
        The series.
    mask
        Shape (X, Y, Z): voxels to fit. The series' own mask if None, or every voxel.
    shell
        Choice of volumes, see :func:`~dmri_fm.tensor_design.select_shells`.
    min_signal
        Signals below this are raised to it, scanner units; see :func:`smallest_signal` if None.
    gradient_deviation
        Shape (X, Y, Z, 3, 3), RAS+: deviation of the gradient coils, which makes a b-matrix for
        each voxel (:mod:`dmri_fm.gradient_deviation`). None: the b-matrix is that of the files.
    n_threads
        Threads to use; every processor that the process may run on if None.

    Returns
    -------
    TensorMaps
        Maps in mm^2/s and RAS+; `metadata` holds the volumes used and the condition number of
        the design.

    Raises
    ------
    GradientError
        If the volumes hold fewer than six distinct directions, or do not determine a tensor.
    ConfigError
        If the shell asked for does not exist.
    ImageError
        If mask or deviation are on another grid.

    Examples
    --------
    A stick-like tensor along the body's left-right axis:

    >>> from dmri_fm.gradients import GradientTable
    >>> from dmri_fm.qspace import SKARE_DIRECTIONS
    >>> gtab = GradientTable([0] + [1000] * 6, np.vstack([np.zeros(3), SKARE_DIRECTIONS]))
    >>> adc = gtab.bvecs_ras**2 @ [1.7e-3, 0.2e-3, 0.2e-3]
    >>> signal = 500 * np.exp(-gtab.bvals * adc)
    >>> maps = fit_tensor(Dwi.from_arrays(signal.reshape(1, 1, 1, 7), np.eye(4), gtab))
    >>> [round(float(x), 6) for x in (maps.ad[0, 0, 0], maps.rd[0, 0, 0])]
    [0.0017, 0.0002]
    >>> fit_tensor(dwi=Dwi.from_arrays(np.ones((1, 1, 1, 4)), np.eye(4), gtab.select(range(4))))
    Traceback (most recent call last):
    ...
    dmri_fm.errors.GradientError: 3 distinct directions
      expected: 6 or more, as a tensor has six unknowns
      what to do: leave the tensor out for this series, or give one with more directions
    """
    if min_signal is not None and not min_signal > 0:
        raise ConfigError(f"smallest signal {min_signal:g}", expected="a number above zero")
    if n_threads is not None and n_threads < 1:
        raise ConfigError(f"{n_threads} threads", expected="one or more")
    index = select_shells(dwi.gtab, shell=shell)
    gtab = dwi.gtab.select(index)
    design, scale = design_matrix(gtab), design_scale(gtab)
    scaled = design / np.array([scale] * 6 + [1.0])
    condition = check_design(gtab)
    inside = _choose_mask(dwi, mask)
    if min_signal is None:
        min_signal = smallest_signal(dwi, inside)
    widening = describe_widening(dwi.gtab, index) if shell == "auto" else None

    data = dwi.data if index.size == dwi.shape[3] else dwi.data[..., index]
    coefficients = _fit_grid(data, inside, scaled, min_signal=min_signal, n_threads=n_threads)
    coefficients[..., :6] /= scale
    if gradient_deviation is not None:
        deviation = np.asarray(gradient_deviation)
        if deviation.shape != (*inside.shape, 3, 3):
            raise ImageError(
                f"deviation of the gradient coils of shape {deviation.shape}",
                expected=f"{(*inside.shape, 3, 3)}, the grid of the series",
            )
        coefficients[inside, :6] = undo_deviation(coefficients[inside, :6], deviation[inside])
    logger.debug("fitted %d tensors to %d volumes", inside.sum(), index.size)
    return TensorMaps.from_tensor(
        coefficients[..., :6],
        inside,
        affine=dwi.affine,
        model="tensor",
        s0=np.exp(np.clip(coefficients[..., 6], -80.0, 80.0)),
        min_diffusivity=EIGENVALUE_TOLERANCE / max(-float(design.min()), 1.0),
        metadata={
            "Volumes": [int(i) for i in index],
            "BValues": [round(s.bval) for s in gtab.shells],
            "Directions": gtab.count_directions(),
            "ConditionNumber": round(condition, 3),
            "MinimalSignal": round(min_signal, 6),
        }
        | ({"ShellSelection": widening} if widening else {})
        | ({} if gradient_deviation is None else {DEVIATION_KEY: VOXELWISE}),
    )


def smallest_signal(dwi: Dwi, mask: ArrayLike) -> float:
    """Return the signal below which nothing was measured, scanner units.

    Interpolation and clipping leave zeros beside bright tissue; the logarithm of next to nothing
    would make a diffusivity a thousand times that of water.

    Parameters
    ----------
    dwi
        The series.
    mask
        Shape (X, Y, Z): voxels to fit.

    Returns
    -------
    float
        :data:`SMALLEST_SIGNAL_SHARE` of the median over the mask of the mean b=0 image, or of
        the mean of the volumes of lowest b-value where there is none of b=0;
        :data:`MIN_SIGNAL` at least.

    Examples
    --------
    >>> from dmri_fm.gradients import GradientTable
    >>> gtab = GradientTable([0, 1000], [[0, 0, 0], [1, 0, 0]])
    >>> dwi = Dwi.from_arrays(np.full((2, 2, 2, 2), 400.0), np.eye(4), gtab)
    >>> round(smallest_signal(dwi, np.ones((2, 2, 2))), 6)
    0.8
    """
    inside = np.asarray(mask) > 0
    if not inside.any():
        return MIN_SIGNAL
    bvals = dwi.gtab.bvals
    lowest = dwi.gtab.is_b0 if dwi.gtab.is_b0.any() else bvals == bvals.min()
    images = [dwi.data[..., int(n)][inside] for n in np.flatnonzero(lowest)]
    level = float(np.median(np.mean(images, axis=0, dtype=np.float64)))
    return max(MIN_SIGNAL, SMALLEST_SIGNAL_SHARE * level)


def _choose_mask(dwi: Dwi, mask: ArrayLike | None) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(dwi.shape[:3], dtype=bool) if dwi.mask is None else dwi.mask
    inside = np.asarray(mask) > 0
    if inside.shape != dwi.shape[:3]:
        raise ImageError(
            f"mask of shape {inside.shape} for a series of shape {dwi.shape}",
            expected="the same grid",
        )
    return inside


def _fit(
    signal: NDArray[np.float32],
    design: NDArray[np.float64],
    *,
    min_signal: float,
    n_threads: int | None,
) -> NDArray[np.float64]:
    """Fit (N, M) signals, voxels shared out among threads; return (M, 7) coefficients."""
    n_voxels = signal.shape[1]
    out = np.zeros((n_voxels, 7))
    pseudo = np.ascontiguousarray(np.linalg.pinv(design))
    rows, columns = np.tril_indices(7)
    squares = np.ascontiguousarray((design[:, rows] * design[:, columns]).T)
    if n_threads is None:
        n_threads = _available_processors()
    block = int(np.clip(_PRODUCT_SIZE // (28 * len(signal)), 8, 128))
    n_parts = max(1, min(n_threads, n_voxels // (8 * block)))
    edges = np.linspace(0, n_voxels, n_parts + 1).astype(int)

    def work(part: int) -> None:
        voxels = (edges[part], edges[part + 1])
        _fit_range(signal, design, pseudo, squares, min_signal, block, out, voxels)

    # The compiled loop lets go of the interpreter's lock, so plain threads do.
    with ThreadPoolExecutor(n_parts) as pool:
        list(pool.map(work, range(n_parts)))
    return out


def _available_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
