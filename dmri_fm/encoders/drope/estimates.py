"""Plain estimates of masked measurements, without trained weights.

Hidden directions are predicted voxel by voxel from the visible ones; hidden places from what a
volume shows elsewhere, by regression on the template's tissue. Neither has trained weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmri_fm.encoders.drope.direction_models import harmonic_weights
from dmri_fm.encoders.drope.gaussian_process import GaussianProcess, fit_gaussian_process
from dmri_fm.encoders.drope.rotary import qspace_directions
from dmri_fm.errors import GradientError
from dmri_fm.gradients import GradientTable
from dmri_fm.layers import dyadic_code
from dmri_fm.normalise.signal import CLIP

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

#: Reach of the local regression, mm, and the weight of the regression over the whole brain in
#: it, in voxels.
REACH_MM, PRIOR_VOXELS = 18.0, 300.0


def _table(qspace: Tensor) -> GradientTable:
    axes = qspace_directions(qspace.double().cpu()).numpy()
    bvals = 1000.0 * qspace[:, 0].double().cpu().numpy()
    # There is no b=0 among them, however low the b-values are.
    return GradientTable(bvals, axes, b0_threshold=0.5)


def predict_by_process(seen: Tensor, brain: Tensor, kept: Tensor, wanted: Tensor) -> Tensor:
    """Predict directions by a Gaussian process whose hyperparameters are fitted to the scan.

    See :mod:`dmri_fm.encoders.drope.gaussian_process`.

    Parameters
    ----------
    seen
        Shape (K, S, P): S/S0 of visible directions, zero outside the brain.
    brain
        Shape (S, P): 1 in the brain, 0 outside.
    kept, wanted
        Shapes (K, 3) and (H, 3): rho, theta, phi.

    Returns
    -------
    Tensor
        Shape (H, S, P), S/S0, clipped as input is, zero outside the brain.
    """
    flat = seen.flatten(1)
    products = (flat @ flat.T / brain.sum().clamp(min=1.0)).double().cpu().numpy()
    visible = _table(kept)
    weights = fit_gaussian_process(products, visible).weights(visible, _table(wanted))
    found = torch.from_numpy(weights.T).to(seen) @ flat
    return found.clamp(*CLIP).reshape(-1, *brain.shape) * brain


def predict_by_tensor(seen: Tensor, brain: Tensor, kept: Tensor, wanted: Tensor) -> Tensor:
    """Predict directions by tensors, fitted to the logarithms of all visible measurements.

    A small penalty on their anisotropy settles what the visible directions leave open. Parameters
    and result as for :func:`predict_by_process`.
    """
    weights = _tensor_weights(kept, wanted).to(seen)
    found = _decay(weights, seen.flatten(1))
    return found.clamp(*CLIP).reshape(-1, *brain.shape) * brain


def _tensor_weights(kept: Tensor, wanted: Tensor) -> Tensor:
    """Return weights (H, K) of visible logarithms in those of hidden measurements."""
    first, second = (
        -q[:, :1].double() * dyadic_code(qspace_directions(q).double()) for q in (kept, wanted)
    )
    isotropic = torch.tensor([1.0, 0, 0, 1.0, 0, 1.0]).to(first)
    deviator = torch.eye(6).to(first) - torch.outer(isotropic, isotropic) / 3
    normal = first.T @ first + STIFFNESS * first.square().mean() * deviator
    weights: Tensor = second @ torch.linalg.solve(normal, first.T)
    return weights


def _decay(weights: Tensor, signal: Tensor) -> Tensor:
    """Predict (H, V) from (K, V) by weights of logarithms."""
    logs = signal.clamp(min=LEAST_SIGNAL).log()
    return (weights @ logs).clamp(max=0.0).exp()


def predict_directions(
    images: Sequence[Tensor], brain: Tensor, kept: Tensor, wanted: Tensor
) -> Tensor:
    """Predict directions as well as the visible ones allow.

    By stacked predictions; by the Gaussian process where fewer than :data:`FEWEST_TO_STACK`
    directions are visible in all; by the tensor where too few of the same shell are. Parameters
    and result as for :func:`predict_by_stacking`.
    """
    args = (images[0], brain, kept, wanted)
    n_of_shell = _same_shell(wanted, kept).sum(dim=1)
    if len(kept) < FEWEST_TO_STACK:
        found, fewest = predict_by_process(*args), 1
    else:
        found, fewest = predict_by_stacking(images, *args[1:]), FEWEST_OF_SHELL
    is_told = n_of_shell >= fewest
    if is_told.all():
        return found
    return torch.where(is_told[:, None, None], found, predict_by_tensor(*args))


def _same_shell(a: Tensor, b: Tensor) -> Tensor:
    """Return whether measurements (A, 3) and (B, 3) are of one shell, (A, B)."""
    return (a[:, None, 0] / b[:, 0]).log().abs() < SAME_SHELL


def predict_by_stacking(
    images: Sequence[Tensor], brain: Tensor, kept: Tensor, wanted: Tensor
) -> Tensor:
    """Predict directions by several methods, weighed by how well they predict visible ones.

    A Gaussian process, a tensor and spherical harmonics, each from images that were smoothed more
    or less. Every visible direction is predicted from the others, and the weights, one for each
    prediction, sum to one and minimise the squared error there (stacked regression, Breiman 1996,
    doi:10.1007/BF00117832).

    Parameters
    ----------
    images
        Shape (K, S, P) each: S/S0 of the visible directions, as measured and then smoothed, zero
        outside the brain.
    brain, kept, wanted
        As for :func:`predict_by_process`; the result, too.

    Raises
    ------
    GradientError
        If fewer than two directions are visible.
    """
    if len(kept) < 2:
        raise GradientError(f"{len(kept)} visible directions", expected="two or more")
    inside = brain.flatten() > 0
    flat = [image.flatten(1)[:, inside] for image in images]
    measured = flat[0]
    size = max(1, measured.shape[1])
    products = (measured @ measured.T / size).double().cpu().numpy()
    some = [image[:, :: -(-size // STACKING_VOXELS)] for image in flat]
    process = fit_gaussian_process(products, _table(kept))
    misses = []
    for number in range(len(kept)):
        others = np.delete(np.arange(len(kept)), number)
        which = torch.from_numpy(others)
        found = _predictions(
            [image[which] for image in some],
            products[np.ix_(others, others)],
            process,
            kept[which],
            kept[number, None],
        )
        misses.append(found[:, 0] - some[0][number])
    missed = torch.cat(misses, dim=1).double()
    gram = missed @ missed.T / missed.shape[1]
    gram = gram + (STACKING_RIDGE * gram.diagonal().mean() + 1e-12) * torch.eye(len(gram)).to(gram)
    weights = torch.linalg.solve(gram, torch.ones(len(gram)).to(gram))
    # Harmonics of the order that the weights were learnt for, with one direction less.
    parts = _predictions(flat, products, process, kept, wanted, spare=1)
    stacked = torch.einsum("e,ehv->hv", (weights / weights.sum()).to(parts), parts)
    out = measured.new_zeros(len(wanted), len(inside))
    out[:, inside] = stacked.clamp(*CLIP)
    return out.reshape(-1, *brain.shape)


def _predictions(
    images: Sequence[Tensor],
    products: NDArray[np.float64],
    process: GaussianProcess,
    kept: Tensor,
    wanted: Tensor,
    *,
    spare: int = 0,
) -> Tensor:
    """Return predictions (E, H, V) by three methods from images (K, V)."""
    tables = _table(kept), _table(wanted)
    linear = (process.weights(*tables), harmonic_weights(products, *tables, spare=spare))
    by_logarithm = _tensor_weights(kept, wanted)
    found = []
    for image in images:
        found += [torch.from_numpy(w.T).to(image) @ image for w in linear]
        found.append(_decay(by_logarithm.to(image), image))
    return torch.stack(found)


def fill_places(seen: Tensor, regressors: Tensor, positions_mm: Tensor, kept: Tensor) -> Tensor:
    """Estimate all places by regression of each volume on what is known of every voxel.

    The coefficients are those of the whole visible brain, corrected by what is seen near by; what
    a place itself shows is not used for it.

    Parameters
    ----------
    seen
        Shape (T, K, P): S/S0 of visible places.
    regressors
        Shape (S, P, C): zero outside the brain.
    positions_mm
        Shape (S, 3): centres of all places.
    kept
        Shape (K,): indices of visible places.

    Returns
    -------
    Tensor
        Shape (T, S, P), S/S0, clipped as input is, zero outside the brain.
    """
    known = regressors[kept]
    squares = torch.einsum("kpc,kpd->kcd", known, known)
    moments = torch.einsum("kpc,tkp->ktc", known, seen)
    whole = squares.sum(dim=0)
    size = (known.square().sum(dim=2) > 0).sum().clamp(min=1)
    ridge = 1e-4 * torch.diag(whole.diagonal()) + 1e-6 * torch.eye(len(whole)).to(whole)
    coefficients = torch.linalg.solve(whole + ridge, moments.sum(dim=0).T)  # (C, T)
    missing = moments - (squares @ coefficients).transpose(1, 2)
    apart = torch.cdist(positions_mm, positions_mm[kept])
    near = torch.exp(-0.5 * (apart / REACH_MM).square())
    near[kept, torch.arange(len(kept), device=kept.device)] = 0.0
    local = torch.einsum("sk,kcd->scd", near, squares)
    prior = torch.diag(whole.diagonal() / size * PRIOR_VOXELS) + ridge / size
    change = torch.linalg.solve(local + prior, torch.einsum("sk,ktc->sct", near, missing))
    values = torch.einsum("spc,sct->tsp", regressors, coefficients + change)
    inside = regressors.square().sum(dim=2) > 0
    return values.clamp(*CLIP) * inside
