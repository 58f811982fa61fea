"""Networks of pretraining runs, and of weights, read back."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from dmri_fm.encoders.drope.mae import MaskedAutoencoder, restore_autoencoder
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError, WeightsError
from dmri_fm.participants import PARTICIPANTS, seen_participants
from dmri_fm.registry import find_model, load_weights
from dmri_fm_lab.train.drope import Start, build_autoencoder, find_drope
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
        If the model is not a D-RoPE encoder, or a run in the working folder has its name.
    WeightsError
        If there is no checkpoint, or it is that of another model.
    """
    find_drope(model)
    if _is_weights(source, model):
        return restore_autoencoder(load_weights(source, model=model))
    return _read_run(Path(source), model).network


def load_start(source: str | Path, *, model: str = "drope") -> Start:
    """Load the network that a run starts from, with its origin and those whose scans it has seen.

    Parameters and errors as of :func:`load_autoencoder`; WeightsError also for a run of an earlier
    version, which does not list its participants.
    """
    find_drope(model)
    if _is_weights(source, model):
        loaded = load_weights(source, model=model)
        known = ("steps", "scans", PARTICIPANTS)
        kept = {k: v for k, v in loaded.training.items() if k in known}
        origin = {"model": model, "version": loaded.version, "sha256": loaded.sha256, **kept}
        return Start(restore_autoencoder(loaded), origin)
    run = _read_run(Path(source), model)
    own, before = run.settings.get("scans", ()), run.settings.get("start") or {}
    seen = _participants(run.settings)
    if seen is None:
        raise WeightsError(
            "the run does not list its participants",
            path=Path(source),
            expected="a run of this version",
        )
    origin = {
        "run": str(source),
        "steps": run.step,
        "scans": sorted({*own, *before.get("scans", ())}),
        PARTICIPANTS: sorted(seen),
    }
    return Start(run.network, origin)


def list_seen(source: str | Path, *, model: str = "drope") -> frozenset[str] | None:
    """Return the hashes of the participants that weights or a run have seen; None: not listed.

    Parameters
    ----------
    source
        See :func:`load_autoencoder`; weights need no decoder.
    model
        The network that was trained: of weights any, of a run an encoder.

    Raises
    ------
    ConfigError, WeightsError
        If the model is unknown, or the source cannot be read.
    """
    find_model(model)
    if not _is_weights(source, model):
        return _participants(_read_checkpoint(Path(source), model).settings)
    weights = load_weights(source, model=model)
    return seen_participants(weights) if PARTICIPANTS in weights.training else None


def _participants(settings: Mapping[str, Any]) -> frozenset[str] | None:
    """Return the hashes of those whom a run and its start have seen."""
    if PARTICIPANTS not in settings:
        return None
    before = settings.get("start") or {}
    return frozenset([*settings[PARTICIPANTS], *before.get(PARTICIPANTS, ())])


def _is_weights(source: str | Path, model: str) -> bool:
    """Return whether a source is weights, a file or the packaged ones, or else a run.

    Raises ConfigError where a run's folder has the name of the packaged weights.
    """
    if str(source) == model and (Path(source) / CHECKPOINT).exists():
        raise ConfigError(
            f"{str(source)!r} names the packaged weights and a run in this folder",
            path=Path(source).absolute(),
            expected="one of them",
            advice="give the run's absolute path, or rename its folder",
        )
    return str(source) == model or Path(source).suffix == ".safetensors"


class _Checkpoint(NamedTuple):
    """Settings and step of a run, and the running average of its weights."""

    settings: dict[str, Any]
    step: int
    tensors: dict[str, torch.Tensor]


class _SavedRun(NamedTuple):
    """Network of a checkpoint, the running average; settings of its run, and its step."""

    network: MaskedAutoencoder
    settings: dict[str, Any]
    step: int


@contextmanager
def _reading(folder: Path, model: str) -> Iterator[None]:
    """Raise a WeightsError in place of what a damaged checkpoint raises."""
    try:
        yield
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
        raise _refusal(f"cannot be read ({why})", folder, model) from None


def _refusal(found: str, folder: Path, model: str) -> WeightsError:
    expected = f"the checkpoint of `dmri-fm pretrain {model} {folder}`"
    return WeightsError(found, path=folder / CHECKPOINT, expected=expected)


def _read_checkpoint(folder: Path, model: str) -> _Checkpoint:
    """Read the checkpoint of a run of any encoder, without its network."""
    with _reading(folder, model):
        state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
        settings, average, step = state["settings"], state["average"], int(state["step"])
        tensors = {k.removeprefix(_PREFIX): v for k, v in average.items() if k.startswith(_PREFIX)}
        trained = settings["recipe"]["model"]
    if trained != model:
        raise _refusal(f"a checkpoint of {trained}", folder, model)
    return _Checkpoint(settings, step, tensors)


def _read_run(folder: Path, model: str) -> _SavedRun:
    network = build_autoencoder(model)
    settings, step, tensors = _read_checkpoint(folder, model)
    with _reading(folder, model):
        network.load_state_dict(tensors, strict=True)
    return _SavedRun(network.eval().requires_grad_(False), settings, step)


def load_encoder(
    model: str = "drope", *, weights: str | Path | None = None, folder: str | Path | None = None
) -> tuple[Drope, dict[str, Any]]:
    """Load a D-RoPE encoder, and a description of its origin.

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
        If the model is no D-RoPE encoder, or its weights cannot be used.
    """
    if folder is not None:
        run = load_autoencoder(folder, model=model)
        return run.encoder, {"model": model, "run": str(folder)}
    find_drope(model)
    loaded = load_weights(model if weights is None else weights, model=model)
    network = cast(Drope, loaded.model)
    return network, {"model": model, "version": loaded.version, "sha256": loaded.sha256}
