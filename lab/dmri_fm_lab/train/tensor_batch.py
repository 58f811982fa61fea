"""Training batches of the tensor networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmri_fm.tensor_networks.inputs import TensorInputs


@dataclass(frozen=True, eq=False)
class TensorBatch:
    """Inputs of a network and the truth.

    Attributes
    ----------
    inputs
        See :class:`~dmri_fm.tensor_networks.inputs.TensorInputs`.
    truth
        Shape (B, 6, X, Y, Z), um^2/ms, in the frame of the inputs.
    csf
        Shape (B, X, Y, Z): volume fraction of CSF, estimated from MD in real scans.
    """

    inputs: TensorInputs
    truth: Tensor
    csf: Tensor

    @classmethod
    def join(cls, parts: Sequence[TensorBatch]) -> TensorBatch:
        """Return one batch of several."""
        return cls(
            TensorInputs.join([p.inputs for p in parts]),
            torch.cat([p.truth for p in parts]),
            torch.cat([p.csf for p in parts]),
        )

    def to(self, device: torch.device) -> TensorBatch:
        """Return the batch on a device."""
        return TensorBatch(self.inputs.to(device), self.truth.to(device), self.csf.to(device))
