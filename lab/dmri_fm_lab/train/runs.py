"""Networks of pretraining runs, and of weights, read back."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from dmri_fm.encoders.drope.mae import MaskedAutoencoder, restore_autoencoder
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import WeightsError
from dmri_fm.registry import find_model, load_weights
from dmri_fm_lab.train.drope import Start, build_autoencoder
from dmri_fm_lab.train.loop import CHECKPOINT

#: Prefix of the weights' names in the running average.
_PREFIX = "module."


def load_autoencoder(source: str | Path, *, model: str = "drope") -> MaskedAutoencoder:
    """Load encoder and decoder, shipped or of a pretraining run, in evaluation mode.

    Of a run, the running average of the weights is loaded. Its checkpoint is read as tensors and
    plain values: nothing in it can run code.

    Parameters
    ----------
    source
        Folder of `dmri-fm pretrain`, finished or not; a `.safetensors` file; or the model's name
        for the weights that ship with the package.
    model
        The encoder that was pretrained.

    Raises
    ------
    ConfigError
        If the model is not a D-RoPE encoder.
    WeightsError
        If there is no checkpoint, or it is that of another model.
    """
    return load_start(source, model=model).network


def load_start(source: str | Path, *, model: str = "drope") -> Start:
    """Load the network that a run starts from, with its origin and the real scans it has seen.

    Parameters and errors as of :func:`load_autoencoder`.
    """
    find_model(model, family="encoder")
    if str(source) == model or Path(source).suffix == ".safetensors":
        loaded = load_weights(source, model=model)
        kept = {k: v for k, v in loaded.training.items() if k in ("steps", "scans")}
        origin = {"model": model, "version": loaded.version, "sha256": loaded.sha256, **kept}
        return Start(restore_autoencoder(loaded), origin)
    network = build_autoencoder(model)
    path = Path(source) / CHECKPOINT
    expected = f"the checkpoint of `dmri-fm pretrain {model} {source}`"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        settings, average, step = state["settings"], state["average"], int(state["step"])
        tensors = {k.removeprefix(_PREFIX): v for k, v in average.items() if k.startswith(_PREFIX)}
        trained = settings["recipe"]["model"]
        if trained != model:
            raise WeightsError(f"a checkpoint of {trained}", path=path, expected=expected)
        network.load_state_dict(tensors, strict=True)
    except (
        OSError,
        EOFError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"cannot be read ({why})", path=path, expected=expected) from None
    before = (settings.get("start") or {}).get("scans", ())
    scans = sorted({*settings.get("scans", ()), *before})
    origin = {"run": str(source), "steps": step, "scans": scans}
    return Start(network.eval().requires_grad_(False), origin)


def load_encoder(
    model: str = "drope", *, weights: str | Path | None = None, folder: str | Path | None = None
) -> tuple[Drope, dict[str, Any]]:
    """Load an encoder, and a description of its origin.

    Parameters
    ----------
    model
        Name in the registry.
    weights
        A `.safetensors` file in place of the weights that ship with the package.
    folder
        Of a pretraining run, in place of both.

    Raises
    ------
    ConfigError, WeightsError
        If the model is no encoder, or its weights cannot be used.
    """
    if folder is not None:
        network = load_autoencoder(folder, model=model)
        return network.encoder, {"model": model, "run": str(folder)}
    find_model(model, family="encoder")
    loaded = load_weights(model if weights is None else weights, model=model)
    assert isinstance(loaded.model, Drope)
    return loaded.model, {"model": model, "version": loaded.version, "sha256": loaded.sha256}
