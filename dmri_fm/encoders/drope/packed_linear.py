"""Linear layers for inference on a CPU, in full float32, with weights laid out once.

PyTorch sends float32 products to a BLAS that uses half of the vector width of some processors;
oneDNN, which it carries as well, uses all of it. The operator is the one that `torch.compile`
puts in place of a frozen linear layer. It is not documented, so it is tried out before use.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

logger = logging.getLogger(__name__)

#: Rows of an input for which weights are laid out; others work too.
_ROWS = 512


@lru_cache(maxsize=1)
def has_packed_linear() -> bool:
    """Say whether this build of PyTorch has the operator, and whether it is exact here."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 256, generator=generator) for n in (64, 48))
    bias = torch.randn(48, generator=generator)
    expected = functional.gelu(x.double() @ weight.double().T + bias.double())
    try:
        found = _run(x, _pack(weight), bias, "gelu").double()
        is_exact = bool((found - expected).norm() < 1e-6 * expected.norm())
    except (AttributeError, RuntimeError) as error:
        logger.debug("packed linear layers failed: %s", error)
        is_exact = False
    if not is_exact:
        logger.warning(
            "PyTorch %s has no packed float32 linear layers on this processor: "
            "the encoder uses its ordinary ones, which may take twice the time",
            torch.__version__,
        )
    return is_exact


def _pack(weight: Tensor) -> Tensor:
    ops: Any = torch.ops.mkldnn
    packed: Tensor = ops._reorder_linear_weight(weight, _ROWS)
    return packed


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
    ops: Any = torch.ops.mkldnn
    out: Tensor = ops._linear_pointwise(x, weight, bias, activation, [], "none")
    return out


class PackedLinear:
    """x W^T + b without gradients; with `is_gelu`, the GELU of it.

    Parameters
    ----------
    weight
        Shape (n_out, n_in), float32, on the CPU.
    bias
        Shape (n_out,).
    is_gelu
        Whether the exact GELU follows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, is_gelu: bool = False):
        weight = weight.detach().contiguous()
        self.is_packed = has_packed_linear()
        self.weight = _pack(weight) if self.is_packed else weight
        self.bias = None if bias is None else bias.detach()
        self.is_gelu = is_gelu

    def __call__(self, x: Tensor) -> Tensor:
        """Map (rows, n_in) to (rows, n_out)."""
        if self.is_packed:
            activation = "gelu" if self.is_gelu else "none"
            return _run(x.contiguous(), self.weight, self.bias, activation)
        out = functional.linear(x, self.weight, self.bias)
        return functional.gelu(out) if self.is_gelu else out
