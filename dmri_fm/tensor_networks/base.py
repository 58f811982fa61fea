"""The protocol of tensor networks: networks that estimate diffusion tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dmri_fm.tensor_networks.inputs import TensorInputs
from dmri_fm.weights import Weights


@dataclass(frozen=True, eq=False)
class TensorPrediction:
    """Tensors of a scan, and the network's estimate of their errors; on the CPU.

    Attributes
    ----------
    tensor
        Shape (6, X, Y, Z), um^2/ms, order xx, xy, xz, yy, yz, zz, in the frame of the voxel
        axes; zero outside the mask.
    half_width
        Shape (2, X, Y, Z): half-widths of the intervals that hold nine in ten errors of FA and of
        MD (um^2/ms), calibrated. None without intervals.
    ood_percentile
        Shape (X, Y, Z): percentile of a voxel's surroundings among held-out training data, see
        :mod:`dmri_fm.out_of_distribution`. None without a reference.
    """

    tensor: Tensor
    half_width: Tensor | None = None
    ood_percentile: Tensor | None = None


class TensorNetwork(Protocol):
    """A network with weights that estimates tensors from the mean b=0 image and six directions.

    A new network is a class with these members, or one whose forward pass
    :class:`~dmri_fm.tensor_networks.blocks.BlockwiseNetwork` can run, a record in
    :mod:`dmri_fm.identities.tensors` and a line in :mod:`dmri_fm.registry`.
    """

    @property
    def name(self) -> str:
        """Name in the registry."""

    @property
    def weights(self) -> Weights:
        """The weights that run."""

    @property
    def has_intervals(self) -> bool:
        """Whether predictions have half-widths: its weights hold their calibration."""

    @property
    def has_ood(self) -> bool:
        """Whether predictions have OOD percentiles: its weights hold statistics of features."""

    def predict(self, inputs: TensorInputs) -> TensorPrediction:
        """Estimate the tensors of a scan, a batch of one."""
