"""Training runs as data: frozen settings, read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from dmri_fm.encoders.artefact_unet.network import ArtefactUnet
from dmri_fm.encoders.ssdiff.network import Ssdiff
from dmri_fm.errors import ConfigError
from dmri_fm.registry import find_model


@dataclass(frozen=True)
class Optimisation:
    """AdamW with a linear warm-up and a descent of the learning rate.

    Attributes
    ----------
    n_steps
        Optimiser steps of the whole run; the schedule ends there.
    warmup_steps
        Steps over which the learning rate rises.
    learning_rate, final_learning_rate
        Rates at the end of the warm-up and at the end of the run.
    schedule
        "cosine", or "halves": the first rate for half of the run, the final one for the rest.
    weight_decay, final_weight_decay
        Decay at the start and at the end of the run (cosine).
    beta2
        Decay of the second moment.
    clip_norm
        Largest norm of a gradient.
    average_decay
        Decay of the running average of the weights; the average is the result of the run.
    max_minutes
        Time after which the run stops cleanly; 0: never.
    max_steps
        Steps after which the run stops cleanly, to be continued; 0: none before its end.
    checkpoint_minutes
        Time between checkpoints.
    seed
        Seed of the initial weights and of every sample.
    matmul_precision
        As :func:`torch.set_float32_matmul_precision` takes it; "medium" is faster on
        processors with bfloat16 units.
    precision
        As Lightning Fabric takes it: "32-true", "bf16-mixed", "16-mixed".
    """

    n_steps: int
    warmup_steps: int
    learning_rate: float
    final_learning_rate: float
    schedule: str = "cosine"
    weight_decay: float = 0.01
    final_weight_decay: float = 0.01
    beta2: float = 0.999
    clip_norm: float = 1.0
    average_decay: float = 0.995
    max_minutes: float = 0.0
    max_steps: int = 0
    checkpoint_minutes: float = 3.0
    seed: int = 0
    matmul_precision: str = "medium"
    precision: str = "32-true"


@dataclass(frozen=True)
class TensorTraining:
    """Training of a tensor network: the tensor refiner, or the published QCG-DTI.

    Attributes
    ----------
    model
        Name in the registry.
    optimisation
        See :class:`Optimisation`.
    batch, patch_voxels
        Patches a step, and the side of a patch.
    csf_weight
        Weight of pure CSF in the loss; other tissue has weight one.
    spread_share
        Share of patches whose six directions are chosen from a larger set, as in the app; the
        others have a rotated, jittered Skare set.
    directions
        "flexible": sets differ from patch to patch; "fixed": all have Skare's set in the frame of
        the grid, as trainings for one gradient table see it, simulated patches alone.
    more_share
        Share of batches with seven to sixteen directions.
    scan_share
        Share of batches from real scans, where there are any.
    interpolated_share
        Share of patches that have been interpolated as the app does it; the others are on the
        voxels that were measured.
    loss
        "relative" (errors of tensor, FA and MD over those of least squares, and of the
        intervals) or "squared" (mean squared error of the elements, as published).
    validation_steps, n_validation
        Steps between two validations, and the batches of each, drawn once; the weights of the
        lowest mean loss are the result. 0: none, and the last weights are the result. As many
        training batches give the statistics of networks that standardise their target.
    validation_share
        Share of the brains whose scans serve validation alone.
    n_reference, n_held_out
        Further patches, drawn after training, for the statistics of the network's features and
        for the factors that calibrate its intervals.
    """

    model: str
    optimisation: Optimisation
    batch: int = 2
    patch_voxels: int = 24
    csf_weight: float = 0.3
    spread_share: float = 0.3
    directions: str = "flexible"
    more_share: float = 0.0
    scan_share: float = 0.25
    interpolated_share: float = 0.0
    loss: str = "relative"
    validation_steps: int = 0
    n_validation: int = 16
    validation_share: float = 0.0
    n_reference: int = 96
    n_held_out: int = 48


@dataclass(frozen=True)
class BrainTraining:
    """What pretrainings of encoders on whole brains share.

    Attributes
    ----------
    model
        Name in the registry.
    optimisation
        See :class:`Optimisation`.
    batch
        Samples of a step, on each device.
    scan_share
        Share of scans that are real, where there are any.
    n_brains, scan_directions
        Number of simulated brains, and directions of each.
    n_reuse
        Steps for which the number of simulated brains at hand stays the same, before another one
        is drawn.
    n_reference, n_held_out
        Scans, drawn after training, for the statistics of features and for the quantiles of
        out-of-distribution scores.
    held_out_share
        Share of held-out participants, from whose scans the quantiles come. Where that rounds to
        none, they come from other draws of the training scans.
    """

    model: str
    optimisation: Optimisation
    batch: int = 4
    scan_share: float = 0.25
    n_brains: int = 300
    scan_directions: int = 30
    n_reuse: int = 16
    n_reference: int = 64
    n_held_out: int = 32
    held_out_share: float = 0.1


@dataclass(frozen=True)
class DropePretraining(BrainTraining):
    """Masked pretraining of a D-RoPE encoder; samples are slabs of brains.

    Attributes
    ----------
    starts_near_identity
        Whether training starts near the identity, see
        :mod:`dmri_fm_lab.train.initial_weights`, and not from random weights.
    slab_slices
        Slices of a slab, a multiple of those of a patch.
    checkpoint_blocks
        Keep the input of each block alone for the backward pass, which computes the rest again:
        less memory, more time, the same result.
    min_directions, max_directions
        Range of the directions of a step, masked ones included.
    whole_from, whole_directions
        Part of the run after which steps see whole brains instead, one a step, with so many
        directions; 1: none does.
    masking
        "alternating": patches and directions are masked in turn, epoch by epoch; "spatial" or
        "diffusion": patches alone, or directions alone.
    steps_per_epoch
        Steps of such an epoch.
    shell_share
        Share of steps that mask all shells but one, of steps that mask directions of scans with
        several shells.
    """

    starts_near_identity: bool = False
    slab_slices: int = 4
    checkpoint_blocks: bool = False
    min_directions: int = 8
    max_directions: int = 12
    whole_from: float = 1.0
    whole_directions: int = 6
    masking: str = "alternating"
    steps_per_epoch: int = 100
    shell_share: float = 0.0


@dataclass(frozen=True)
class SsdiffPretraining(BrainTraining):
    """Pretraining of an SSDiff encoder by input dropout; samples are whole brains.

    Attributes
    ----------
    min_directions, max_directions
        Range of the directions of a step.
    """

    min_directions: int = 6
    max_directions: int = 30


@dataclass(frozen=True)
class UnetPretraining(BrainTraining):
    """Pretraining of the artefact-removal U-Net; samples are slabs of brains.

    Attributes
    ----------
    objective
        "artefacts": the input has artefacts, the target has not; "autoencoder": both have not.
    strength
        Of the artefacts, see :data:`dmri_fm_lab.train.artefacts.STRENGTHS`.
    slab_slices
        Slices of a slab, a multiple of the network's stride.
    validation_steps, n_validation
        Steps between two validations, and the slabs of each, always the same.
    """

    objective: str = "artefacts"
    strength: str = "light"
    batch: int = 1
    slab_slices: int = 24
    validation_steps: int = 100
    n_validation: int = 4
    n_brains: int = 60
    scan_directions: int = 64
    n_reference: int = 32
    n_held_out: int = 16


#: Settings of the pretraining of an encoder.
EncoderPretraining = DropePretraining | SsdiffPretraining | UnetPretraining

Training = TypeVar(
    "Training", TensorTraining, DropePretraining, SsdiffPretraining, UnetPretraining
)


def read_training(
    settings: type[Training],
    name_or_path: str | Path,
    *,
    model: str | None = None,
    optimisation: Mapping[str, Any] | None = None,
) -> Training:
    """Read the settings of a training run.

    Parameters
    ----------
    settings
        :class:`TensorTraining`, or a class of :data:`EncoderPretraining`.
    name_or_path
        Name of settings that ship with the package, or a TOML file: the fields of `settings`,
        and those of :class:`Optimisation` in a table of that name.
    model
        Network to train in place of the file's, such as another row of an ablation.
    optimisation
        Settings of the optimisation to put in place of those in the file.

    Raises
    ------
    ConfigError
        If there is no such file, the file is not TOML, or a field is
        unknown, missing or of the wrong type.
    """
    path, values = _read_toml(name_or_path)
    table = {**values.pop("optimisation", {}), **(optimisation or {})}
    values["optimisation"] = _build(Optimisation, table, path)
    return _build(settings, {**values, **({"model": model} if model else {})}, path)


def read_pretraining(
    name_or_path: str | Path,
    *,
    model: str | None = None,
    optimisation: Mapping[str, Any] | None = None,
) -> EncoderPretraining:
    """Read the settings of a pretraining run, of the class that its model has.

    Parameters and errors as of :func:`read_training`.
    """
    _, values = _read_toml(name_or_path)
    name = str(model or values.get("model", ""))
    network = find_model(name, family="encoder").network
    changes: dict[str, Any] = {"model": model, "optimisation": optimisation}
    if network is Ssdiff:
        return read_training(SsdiffPretraining, name_or_path, **changes)
    if network is ArtefactUnet:
        return read_training(UnetPretraining, name_or_path, **changes)
    return read_training(DropePretraining, name_or_path, **changes)


def _read_toml(name_or_path: str | Path) -> tuple[Path, dict[str, Any]]:
    shipped = files("dmri_fm_lab") / "configs" / f"{name_or_path}.toml"
    path = Path(str(shipped)) if shipped.is_file() else Path(name_or_path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror})",
            path=path,
            expected="a TOML file, or the name of shipped settings",
        ) from None
    except ValueError as error:
        raise ConfigError(f"not TOML ({error})", path=path) from None
    return path, values


_Settings = TypeVar(
    "_Settings",
    Optimisation,
    TensorTraining,
    DropePretraining,
    SsdiffPretraining,
    UnetPretraining,
)


def _build(settings: type[_Settings], values: Mapping[str, Any], path: Path) -> _Settings:
    known = {f.name: f for f in fields(settings)}
    required = {n for n, f in known.items() if f.default is MISSING}
    unknown, missing = set(values) - set(known), required - set(values)
    if unknown or missing:
        raise ConfigError(
            f"{settings.__name__}: unknown {sorted(unknown)}, missing {sorted(missing)}",
            path=path,
            expected=f"the fields {', '.join(known)}",
        )
    types: dict[str, Any] = {"int": int, "float": (int, float), "str": str, "bool": bool}
    types["Optimisation"] = Optimisation
    for name, value in values.items():
        wanted = str(known[name].type)
        is_flag = isinstance(value, bool)
        if is_flag != (wanted == "bool") or not isinstance(value, types[wanted]):
            raise ConfigError(
                f"{name} = {value!r}", path=path, expected=f"a value of type {wanted}"
            )
    return settings(**values)
