"""Masked directions predicted by several methods together, weighed by how well they predict.

Stacked regression (Breiman 1996, doi:10.1007/BF00117832) of a Gaussian process, a tensor and
spherical harmonics, voxel by voxel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dmri_fm.errors import GradientError
from dmri_fm.gaussian_process import GaussianProcess, fit_gaussian_process
from dmri_fm.gradients import GradientTable
from dmri_fm.layers import dyadic_code
from dmri_fm_lab.evaluate.direction_models import harmonic_weights

#: S/S0 below this is raised to it before its logarithm is taken.
LEAST_SIGNAL = 0.02

#: Penalty on a tensor's anisotropy, over the mean squared weight of its elements in a measurement.
STIFFNESS = 1.0

#: Visible directions, in all and of a shell, below which predictions are not stacked: so few do
#: not tell how to weigh them.
FEWEST_TO_STACK, FEWEST_OF_SHELL = 6, 3

#: Difference of the logarithms of two b-values below which they are taken as one shell.
SAME_SHELL = 0.15

#: Voxels from which the weights of stacked predictions are learnt, and the ridge on the weights,
#: over the mean squared error.
STACKING_VOXELS, STACKING_RIDGE = 20_000, 1e-3

_Array = NDArray[np.float64]


def predict_directions(
    images: Sequence[_Array], kept: GradientTable, wanted: GradientTable
) -> _Array:
    """Predict directions as well as the visible ones allow.

    By stacked predictions; by the Gaussian process where fewer than :data:`FEWEST_TO_STACK`
    directions are visible in all; by the tensor where too few of the same shell are. Parameters
    and result as for :func:`predict_by_stacking`.
    """
    measured = images[0]
    if len(kept) < FEWEST_TO_STACK:
        process = fit_gaussian_process(_products(measured), kept)
        found, fewest = process.predict(measured, kept, wanted), 1
    else:
        found, fewest = predict_by_stacking(images, kept, wanted), FEWEST_OF_SHELL
    is_same = np.abs(np.log(wanted.bvals[:, None] / kept.bvals)) < SAME_SHELL
    is_told = is_same.sum(axis=1) >= fewest
    return np.where(is_told, found, predict_by_penalised_tensor(measured, kept, wanted))


def predict_by_penalised_tensor(
    signal: _Array, kept: GradientTable, wanted: GradientTable
) -> _Array:
    """Predict directions by tensors, fitted to the logarithms of all visible measurements.

    A small penalty on their anisotropy settles what the visible directions leave open.

    Parameters
    ----------
    signal
        Shape (V, K): S/S0.
    kept, wanted
        Tables of K and H weighted measurements.

    Returns
    -------
    ndarray
        Shape (V, H).
    """
    return _decay(signal, _tensor_weights(kept, wanted))


def predict_by_stacking(
    images: Sequence[_Array], kept: GradientTable, wanted: GradientTable
) -> _Array:
    """Predict directions by several methods, weighed by how well they predict visible ones.

    A Gaussian process, a tensor and spherical harmonics, each from images that were smoothed more
    or less. Every visible direction is predicted from the others, and the weights, one for each
    prediction, sum to one and minimise the squared error there.

    Parameters
    ----------
    images
        Shape (V, K) each: S/S0 of the visible directions, as measured and then smoothed.
    kept, wanted
        Tables of K and H weighted measurements.

    Returns
    -------
    ndarray
        Shape (V, H).

    Raises
    ------
    GradientError
        If fewer than two directions are visible.
    """
    if len(kept) < 2:
        raise GradientError(f"{len(kept)} visible directions", expected="two or more")
    products = _products(images[0])
    process = fit_gaussian_process(products, kept)
    some = [image[:: -(-len(image) // STACKING_VOXELS)] for image in images]
    misses = []
    for number in range(len(kept)):
        others = np.delete(np.arange(len(kept)), number)
        predicted = _predictions(
            [image[:, others] for image in some],
            products[np.ix_(others, others)],
            process,
            kept.select(others),
            kept.select([number]),
        )
        misses.append(predicted[:, :, 0] - some[0][:, number])
    missed = np.concatenate(misses, axis=1)
    gram = missed @ missed.T / missed.shape[1]
    gram += (STACKING_RIDGE * gram.diagonal().mean() + 1e-12) * np.eye(len(gram))
    weights = np.linalg.solve(gram, np.ones(len(gram)))
    # Harmonics of the order that the weights were learnt for, with one direction less.
    parts = _predictions(images, products, process, kept, wanted, spare=1)
    stacked: _Array = np.einsum("e,evh->vh", weights / weights.sum(), parts)
    return stacked


def _products(signal: _Array) -> _Array:
    found: _Array = signal.T @ signal / max(len(signal), 1)
    return found


def _predictions(
    images: Sequence[_Array],
    products: _Array,
    process: GaussianProcess,
    kept: GradientTable,
    wanted: GradientTable,
    *,
    spare: int = 0,
) -> _Array:
    """Return predictions (E, V, H) by three methods from images (V, K)."""
    linear = (
        process.weights(kept, wanted),
        harmonic_weights(products, kept, wanted, spare=spare),
    )
    of_logarithm = _tensor_weights(kept, wanted)
    found = []
    for image in images:
        found += [image @ weights for weights in linear]
        found.append(_decay(image, of_logarithm))
    return np.stack(found)


def _tensor_weights(kept: GradientTable, wanted: GradientTable) -> _Array:
    """Return weights (K, H) of visible logarithms in those of masked measurements."""
    first, second = (
        -1e-3 * t.bvals[:, None] * dyadic_code(torch.tensor(t.bvecs_ras)).numpy()
        for t in (kept, wanted)
    )
    isotropic = np.array([1.0, 0, 0, 1.0, 0, 1.0])
    deviator = np.eye(6) - np.outer(isotropic, isotropic) / 3
    normal = first.T @ first + STIFFNESS * np.square(first).mean() * deviator
    weights: _Array = (second @ np.linalg.solve(normal, first.T)).T
    return weights


def _decay(signal: _Array, weights: _Array) -> _Array:
    """Predict (V, H) from (V, K) by weights of logarithms."""
    logs = np.log(np.maximum(signal, LEAST_SIGNAL))
    return np.asarray(np.exp(np.minimum(logs @ weights, 0.0)))
