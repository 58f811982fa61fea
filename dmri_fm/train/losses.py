"""Losses of the tensor network."""

from __future__ import annotations

from torch import Tensor

__all__ = ["relative_tensor_loss", "tensor_error"]

#: Rounds the tip of the norm, um^2/ms, so that its gradient is smooth at zero.
SMOOTHING = 0.02

#: Added to the error that a patch's loss is divided by, um^2/ms.
OFFSET = 0.05


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


def relative_tensor_loss(
    estimate: Tensor, truth: Tensor, *, rival: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Average the error of each patch over that of a rival, so that noisy patches do not rule.

    Parameters
    ----------
    estimate, truth, rival
        Shape (B, 6, X, Y, Z), um^2/ms.
    weight
        Shape (B, X, Y, Z).

    Returns
    -------
    loss : Tensor
        Scalar: mean over patches of error / (error of the rival + :data:`OFFSET`).
    error : Tensor
        Scalar: mean error, um^2/ms.
    """
    total = weight.sum(dim=(1, 2, 3)).clamp(min=1.0)
    own, other = (
        (tensor_error(t, truth) * weight).sum(dim=(1, 2, 3)) / total for t in (estimate, rival)
    )
    return (own / (other.detach() + OFFSET)).mean(), own.mean()
