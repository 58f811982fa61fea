"""The networks this package knows, by name."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from dmri_fm.encoders.drope import network as drope
from dmri_fm.encoders.drope.network import Drope, DropeConfig
from dmri_fm.errors import ConfigError
from dmri_fm.identity import explain_retired
from dmri_fm.tensor_networks import qcg_dti
from dmri_fm.tensor_networks import refiner as tensor_refiner
from dmri_fm.tensor_networks.qcg_dti import QcgDti, QcgDtiConfig
from dmri_fm.tensor_networks.refiner import RefinerConfig, TensorRefiner

__all__ = ["MODELS", "Config", "find_encoder", "find_model"]

Config = QcgDtiConfig | RefinerConfig | DropeConfig

#: Name to default configuration and class. Weights ship for `tensor-refiner` and `drope`. What
#: each is, and whose method, stands in :mod:`~dmri_fm.identity`.
MODELS: dict[str, tuple[Config, type[nn.Module]]] = {
    "tensor-refiner": (tensor_refiner.DEFAULT, TensorRefiner),
    "qcg-dti-paper": (qcg_dti.PAPER, QcgDti),
    **{f"qcg-dti-ablation-{n}": (c, QcgDti) for n, c in qcg_dti.ABLATIONS.items()},
    "drope": (drope.SMALL, Drope),
    "drope-paper": (drope.PAPER, Drope),
    "drope-ablation": (drope.ABLATION, Drope),
    "drope-ablation-plain": (replace(drope.ABLATION, rotary="none"), Drope),
}


def find_model(name: str) -> tuple[Config, type[nn.Module]]:
    """Return the default configuration and the class of a model.

    Raises
    ------
    ConfigError
        If there is no such model.
    """
    if retired := explain_retired(name):
        raise retired
    if name not in MODELS:
        raise ConfigError(f"unknown model {name!r}", expected=f"one of {', '.join(MODELS)}")
    return MODELS[name]


def find_encoder(name: str) -> DropeConfig:
    """Return the default configuration of a D-RoPE encoder.

    Raises
    ------
    ConfigError
        If there is no such model, or it is no encoder.
    """
    config, _ = find_model(name)
    if not isinstance(config, DropeConfig):
        raise ConfigError(f"model {name!r} is no encoder", expected="drope or drope-paper")
    return config
