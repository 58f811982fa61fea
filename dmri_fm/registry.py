"""Registry of the networks: configuration, class and adapter of each, by name.

Records of what they are, for texts and the command line, are in :mod:`dmri_fm.identity`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from torch import nn

from dmri_fm.encoders.artefact_unet import network as artefact_unet
from dmri_fm.encoders.artefact_unet.encoder import UnetEncoder
from dmri_fm.encoders.base import Encoder
from dmri_fm.encoders.drope import config as drope
from dmri_fm.encoders.drope.encoder import DropeEncoder
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.encoders.ssdiff import config as ssdiff
from dmri_fm.encoders.ssdiff.encoder import SsdiffEncoder
from dmri_fm.encoders.ssdiff.network import Ssdiff
from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.identity import Family, identity
from dmri_fm.normalise.grid import Grid
from dmri_fm.tensor_networks import qcg_dti, refiner
from dmri_fm.tensor_networks.base import TensorNetwork
from dmri_fm.tensor_networks.blocks import BlockwiseNetwork
from dmri_fm.weights import Weights, read_weights


class RegisteredModel(NamedTuple):
    """A model of the registry.

    Attributes
    ----------
    config
        Default configuration, that of packaged weights: a frozen dataclass; for encoders it has
        a `grid`.
    network
        Class of the network, which a configuration constructs.
    adapter
        Makes an :class:`~dmri_fm.encoders.base.Encoder`, or a
        :class:`~dmri_fm.tensor_networks.base.TensorNetwork`, of loaded weights.
    """

    config: Any
    network: type[nn.Module]
    adapter: Callable[[Weights], Encoder[Any] | TensorNetwork]


#: Every network, by name.
MODELS: dict[str, RegisteredModel] = {
    "tensor-refiner": RegisteredModel(refiner.DEFAULT, refiner.TensorRefiner, BlockwiseNetwork),
    "qcg-dti": RegisteredModel(qcg_dti.DEFAULT, qcg_dti.QcgDti, BlockwiseNetwork),
    "qcg-dti-paper": RegisteredModel(qcg_dti.PAPER, qcg_dti.QcgDti, BlockwiseNetwork),
    **{
        f"qcg-dti-ablation-{row}": RegisteredModel(config, qcg_dti.QcgDti, BlockwiseNetwork)
        for row, config in qcg_dti.ABLATIONS.items()
    },
    "drope": RegisteredModel(drope.SMALL, Drope, DropeEncoder),
    "drope-paper": RegisteredModel(drope.PAPER, Drope, DropeEncoder),
    "ssdiff": RegisteredModel(ssdiff.COMPACT, Ssdiff, SsdiffEncoder),
    "ssdiff-paper": RegisteredModel(ssdiff.PAPER, Ssdiff, SsdiffEncoder),
    "artefact-unet": RegisteredModel(artefact_unet.PAPER, artefact_unet.ArtefactUnet, UnetEncoder),
    "drope-ablation": RegisteredModel(drope.ABLATION, Drope, DropeEncoder),
    "drope-ablation-plain": RegisteredModel(
        replace(drope.ABLATION, rotary="none"), Drope, DropeEncoder
    ),
}


def find_model(name: str, *, family: Family | None = None) -> RegisteredModel:
    """Return a model of the registry.

    Raises
    ------
    ConfigError
        If there is no such model, or it is of another family.
    """
    if name not in MODELS:
        identity(name)
        raise ConfigError(f"unknown network {name!r}", expected=f"one of {', '.join(MODELS)}")
    if family is not None and identity(name).family != family:
        others = (n for n in MODELS if identity(n).family == family)
        raise ConfigError(f"model {name!r} is no {family}", expected=f"one of {', '.join(others)}")
    return MODELS[name]


def feature_grid(name: str = "drope") -> Grid:
    """Return the grid in MNI152NLin2009aSym that an encoder reads.

    Raises
    ------
    ConfigError
        If the model is unknown or no encoder.
    """
    grid: Grid = find_model(name, family="encoder").config.grid
    return grid


def load_weights(
    name_or_path: str | Path, *, model: str | None = None, device: str = "cpu"
) -> Weights:
    """Load a network and its weights, strictly.

    Parameters
    ----------
    name_or_path
        A registered name whose weights ship with the package, or the path of a `.safetensors`
        file with its `.json` beside it.
    model
        Refuse weights of any other model.
    device
        A torch device.

    Returns
    -------
    Weights
        In evaluation mode, float32.

    Raises
    ------
    ConfigError
        If the name stands for no model any more.
    WeightsError
        If there are no such weights, the format could run code, the checksum, configuration or
        a tensor's name or shape is wrong, or a weight is not finite.
    """
    return read_weights(name_or_path, MODELS, model=model, device=device)


def load_encoder(
    name: str, *, weights: str | Path | None = None, device: str = "cpu"
) -> Encoder[Any]:
    """Load an encoder, ready to run.

    Parameters
    ----------
    name
        Name in the registry.
    weights
        A `.safetensors` file in place of the weights that ship with the package.
    device
        A torch device.

    Raises
    ------
    ConfigError
        If the model is unknown or no encoder.
    WeightsError
        If its weights cannot be used, or are those of an encoder that reads another grid than
        the model's, :func:`feature_grid`.
    """
    registered = find_model(name, family="encoder")
    loaded = load_weights(name if weights is None else weights, model=name, device=device)
    encoder = cast("Encoder[Any]", registered.adapter(loaded))
    grid = feature_grid(name)
    if encoder.grid.shape != grid.shape or not np.allclose(encoder.grid.affine, grid.affine):
        raise WeightsError("weights for another grid", expected=f"{grid.shape}")
    return encoder


def load_tensor_network(
    name: str, *, weights: str | Path | None = None, device: str = "cpu"
) -> TensorNetwork:
    """Load a tensor network, ready to run; parameters and errors as of :func:`load_encoder`."""
    registered = find_model(name, family="tensor network")
    loaded = load_weights(name if weights is None else weights, model=name, device=device)
    return cast(TensorNetwork, registered.adapter(loaded))
