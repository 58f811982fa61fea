"""Losses that training minimises, beside the error of reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from dmri_fm.tensor_networks.inputs import TensorEstimate, mean_diffusivity, tensor_fa

#: Rounds the tip of the norm, um^2/ms, so that its gradient is smooth at zero.
SMOOTHING = 0.02

#: Added to the errors of least squares by which a patch's errors are divided: of the tensor,
#: of FA, and of MD; tensor and MD in um^2/ms.
OFFSETS = {"tensor": 0.05, "fa": 0.01, "md": 0.01}

#: Weights of the errors. FA counts most: the other two alone ask for more smoothing than it.
SHARES = {"tensor": 1.0, "fa": 2.0, "md": 1.0}

#: Share of errors that an interval should hold.
COVERAGE = 0.9


def tensor_error(estimate: Tensor, truth: Tensor) -> Tensor:
    """Return the Frobenius norm of the difference of tensors.

    Parameters
    ----------
    estimate, truth
        Shape (B, 6, X, Y, Z), order xx, xy, xz, yy, yz, zz.

    Returns
    -------
    Tensor
        Shape (B, X, Y, Z), smoothed at zero by :data:`SMOOTHING`. The norm does not depend on
        the frame, as mixed elements stand for two each.
    """
    squared = (estimate - truth).square()
    weights = squared.new_tensor([1.0, 2.0, 2.0, 1.0, 2.0, 1.0])
    total = (squared * weights[:, None, None, None]).sum(dim=1)
    return (total + SMOOTHING**2).sqrt()


def squared_loss(estimate: Tensor, truth: Tensor, *, weight: Tensor) -> Tensor:
    """Return the mean squared error of the six elements; `weight` (B, X, Y, Z)."""
    squared = (estimate - truth).square().mean(dim=1)
    return (squared * weight).sum() / weight.sum().clamp(min=1.0)


def interval_loss(error: Tensor, width: Tensor) -> Tensor:
    """Return the pinball loss of half-widths that should exceed nine absolute errors in ten."""
    beyond = error - width
    return torch.maximum(COVERAGE * beyond, (COVERAGE - 1) * beyond)


def _errors(tensor: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Return errors of the tensor, of FA and of MD, each (B, X, Y, Z)."""
    return {
        "tensor": tensor_error(tensor, truth),
        "fa": (tensor_fa(tensor) - tensor_fa(truth)).abs(),
        "md": mean_diffusivity(tensor - truth)[:, 0].abs(),
    }


def refinement_losses(
    estimate: TensorEstimate, truth: Tensor, *, baseline: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Return each patch's errors over those of a baseline, so that noisy patches do not rule.

    Parameters
    ----------
    estimate
        Of the network, with intervals.
    truth, baseline
        Shape (B, 6, X, Y, Z), um^2/ms.
    weight
        Shape (B, X, Y, Z).

    Returns
    -------
    dict
        `loss`, the sum of the others; `tensor`, `fa` and `md`, means over patches of
        error / (error of the baseline + its offset), times :data:`SHARES`; `interval`,
        likewise, of the half-widths.
    """
    total = weight.sum(dim=(1, 2, 3)).clamp(min=1.0)

    def mean(image: Tensor) -> Tensor:
        return (image * weight).sum(dim=(1, 2, 3)) / total

    own, other = _errors(estimate.tensor, truth), _errors(baseline, truth)
    scale = {name: mean(error).detach() + OFFSETS[name] for name, error in other.items()}
    losses = {
        name: SHARES[name] * (mean(error) / scale[name]).mean() for name, error in own.items()
    }
    assert estimate.width is not None
    width = dict(zip(("fa", "md"), estimate.width.unbind(1), strict=True))
    losses["interval"] = sum(
        (
            (mean(interval_loss(own[name].detach(), w)) / scale[name]).mean()
            for name, w in width.items()
        ),
        start=torch.zeros((), device=truth.device),
    )
    return {"loss": sum(losses.values(), start=torch.zeros_like(losses["interval"])), **losses}
