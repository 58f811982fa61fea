"""Published networks to compare with, small and retrained here: part of tables, not of the app.

:data:`BASELINE_NETWORKS` is the lab's registry: training (`dmri-fm train deepdti RUN`) and
`benchmarks/paper_tables.py` find them there. Their weights stay in the folder of the run.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from dmri_fm.registry import find_model
from dmri_fm_lab.baseline_networks.deepdti import DeepDti, DeepDtiConfig
from dmri_fm_lab.baseline_networks.flexdti import FlexDti, FlexDtiConfig

__all__ = ["BASELINE_NETWORKS", "TrainedModel", "find_tensor_network"]


class TrainedModel(NamedTuple):
    """Configuration, with a `stride`, and class of a network from tensor inputs to tensors."""

    config: Any
    network: type[nn.Module]


BASELINE_NETWORKS: dict[str, TrainedModel] = {
    "deepdti": TrainedModel(DeepDtiConfig(), DeepDti),
    "flexdti": TrainedModel(FlexDtiConfig(), FlexDti),
}


def find_tensor_network(name: str) -> TrainedModel:
    """Return a tensor network of the lab's registry, or of the package's.

    Raises
    ------
    ConfigError
        If there is no such network.
    """
    if name in BASELINE_NETWORKS:
        return BASELINE_NETWORKS[name]
    registered = find_model(name, family="tensor network")
    return TrainedModel(registered.config, registered.network)
