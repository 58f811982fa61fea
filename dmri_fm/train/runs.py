"""Read back what a training run has learnt."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import torch

from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.models.drope import DropeConfig
from dmri_fm.models.mae import MaskedAutoencoder
from dmri_fm.models.registry import find_model
from dmri_fm.train.drope import MAE_CONFIGS
from dmri_fm.train.loop import CHECKPOINT

__all__ = ["build_autoencoder", "load_autoencoder"]

#: What the running average puts before the names of the weights.
_PREFIX = "module."


def build_autoencoder(model: str = "drope") -> MaskedAutoencoder:
    """Return the autoencoder that pretrains an encoder, its weights as they are drawn.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder.
    """
    architecture, _ = find_model(model)
    if not isinstance(architecture, DropeConfig):
        raise ConfigError(f"model {model!r} is no encoder", expected="drope or drope-paper")
    return MaskedAutoencoder(replace(MAE_CONFIGS[model], encoder=architecture))


def load_autoencoder(folder: str | Path, *, model: str = "drope") -> MaskedAutoencoder:
    """Load encoder and decoder of a pretraining run: the running average of their weights.

    The decoder does not ship with the package; a run's checkpoint holds it. The file is read as
    tensors and plain values: nothing in it can run code.

    Parameters
    ----------
    folder
        Of `dmri-fm pretrain`, finished or not.
    model
        The encoder that was pretrained.

    Returns
    -------
    MaskedAutoencoder
        In evaluation mode.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder.
    WeightsError
        If there is no checkpoint, or it is that of another model.
    """
    network = build_autoencoder(model)
    path = Path(folder) / CHECKPOINT
    expected = f"the checkpoint of `dmri-fm pretrain {model} {folder}`"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["average"]
        tensors = {k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}
        network.load_state_dict(tensors, strict=True)
    except (OSError, RuntimeError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"cannot be read ({str(error).splitlines()[0]})", path=path, expected=expected
        ) from None
    return network.eval().requires_grad_(False)
