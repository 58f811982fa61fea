"""Losses of networks that give maps or tensors of a voxel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dmri_fm.gradients import GradientTable
from dmri_fm_lab.review.estimates import true_maps
from dmri_fm_lab.review.networks import Loss, Step
from dmri_fm_lab.review.patches import TruePatches, signal_of

#: Its softplus is 1.
_SOFTPLUS_OF_ONE = float(np.log(np.expm1(1.0)))

#: Largest element of a tensor whose signal is predicted, um^2/ms.
_LARGEST_ELEMENT = 5.0


def masked_mean(error: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of errors (P, K, ...) within masks (P, ...)."""
    return (error * mask[:, None]).sum() / (mask.sum() * error.shape[1])


def maps_loss(patches: TruePatches) -> Loss:
    """Return the squared errors of FA, MD and v v^T of the main axis, the last times the true FA.

    `patches` are those that steps choose from.
    """
    truth = true_maps(patches)
    weights = torch.ones_like(truth)
    weights[:, 2:] = truth[:, :1]

    def error(found: Tensor, step: Step) -> Tensor:
        squared = weights[step.numbers] * (found - truth[step.numbers]) ** 2
        return masked_mean(squared, step.truth.mask)

    return Loss("FA, MD and v v^T", error)


def tensor_loss() -> Loss:
    """Return the squared errors of the six elements of the tensor, um^2/ms."""

    def error(found: Tensor, step: Step) -> Tensor:
        return masked_mean((found[:, :6] - step.truth.tensor) ** 2, step.truth.mask)

    return Loss("parameters", error)


def signal_loss(gtab: GradientTable) -> Loss:
    """Return half the squared error of the predicted images over the variance of their noise.

    It is the negative logarithm of a Gaussian likelihood, up to a constant: no truth is needed,
    and patches are weighted by their noise as by :func:`rician_loss`. The seventh output is the
    factor from the measured b=0 to S0, see :func:`predict_images`.
    """

    def error(found: Tensor, step: Step) -> Tensor:
        residual = predict_images(found, gtab, step.images) - step.images
        return masked_mean(residual**2 / (2 * _variance(step)), step.truth.mask)

    return Loss("signal over noise", error)


def rician_loss(gtab: GradientTable) -> Loss:
    """Return the negative Rician log-likelihood of the images, whose noise is known."""

    def error(found: Tensor, step: Step) -> Tensor:
        s, m = predict_images(found, gtab, step.images), step.images
        variance = _variance(step)
        # log I0(x) = log i0e(x) + x, which stays finite.
        log_bessel = torch.special.i0e(m * s / variance).log()
        return masked_mean((m - s) ** 2 / (2 * variance) - log_bessel, step.truth.mask)

    return Loss("Rician likelihood", error)


def _variance(step: Step) -> Tensor:
    return (step.sigma**2)[:, None, None, None, None]


def predict_images(found: Tensor, gtab: GradientTable, images: Tensor) -> Tensor:
    """Return images (P, N, ...) of tensors and factors of S0 (P, 7, ...), scanner units.

    S0 is the measured b=0, the first of the images, times the softplus of the seventh output,
    which is 1 where that is 0.
    """
    s0 = images[:, :1] * functional.softplus(found[:, 6:7] + _SOFTPLUS_OF_ONE)
    tensor = found[:, :6].clamp(-_LARGEST_ELEMENT, _LARGEST_ELEMENT)
    return s0 * signal_of(tensor, gtab)
