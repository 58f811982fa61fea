"""Plain estimates of hidden measurements, from which a network starts.

Hidden directions are predicted voxel by voxel from the visible ones; hidden places from what a
volume shows elsewhere, by regression on the template's tissue. Neither has trained weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dmri_fm.gradients import GradientTable
from dmri_fm.models.gaussian_process import fit_gaussian_process
from dmri_fm.models.layers import dyadic_code
from dmri_fm.models.rotary import qspace_directions
from dmri_fm.normalise.signal import CLIP

__all__ = ["fill_places", "predict_by_process", "predict_by_tensor"]

#: S/S0 below this is raised to it before its logarithm is taken.
LEAST_SIGNAL = 0.02

#: Penalty on a tensor's anisotropy, over the mean squared weight of its elements in a measurement.
STIFFNESS = 1.0

#: Reach of the local regression, mm, and the weight of the regression over the whole brain in
#: it, in voxels.
REACH_MM, PRIOR_VOXELS = 18.0, 300.0


def _table(qspace: Tensor) -> GradientTable:
    axes = qspace_directions(qspace.double().cpu()).numpy()
    return GradientTable(1000.0 * qspace[:, 0].double().cpu().numpy(), axes)


def predict_by_process(seen: Tensor, brain: Tensor, kept: Tensor, wanted: Tensor) -> Tensor:
    """Predict directions by a Gaussian process whose hyperparameters are fitted to the scan.

    See :mod:`dmri_fm.models.gaussian_process`.

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
    logs = seen.flatten(1).clamp(min=LEAST_SIGNAL).log()
    first, second = (
        -q[:, :1].double() * dyadic_code(qspace_directions(q).double()) for q in (kept, wanted)
    )
    isotropic = torch.tensor([1.0, 0, 0, 1.0, 0, 1.0]).to(first)
    deviator = torch.eye(6).to(first) - torch.outer(isotropic, isotropic) / 3
    normal = first.T @ first + STIFFNESS * first.square().mean() * deviator
    weights = second @ torch.linalg.solve(normal, first.T)
    found: Tensor = (weights.to(seen) @ logs).clamp(max=0.0).exp()
    return found.clamp(*CLIP).reshape(-1, *brain.shape) * brain


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
