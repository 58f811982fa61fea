"""Encoders of the registry as methods, with their weights and with random ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dmri_fm.encoders.base import Encoder
from dmri_fm.errors import WeightsError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid
from dmri_fm.normalise.series import resample_series
from dmri_fm.registry import find_model, load_encoder
from dmri_fm.series import Dwi
from dmri_fm.shell_resampling import FEWEST_DIRECTIONS, find_shell
from dmri_fm.weights import Weights
from dmri_fm_lab.encoder_comparison.method import Absent, Method, Sample
from dmri_fm_lab.feature_cache import Vectors

#: Encoders that are compared unless others are named.
ENCODERS = ("drope", "ssdiff", "artefact-unet")

#: Difference between two affines of the same grid, at most, mm.
_TOLERANCE_MM = 1e-3


def encoder_methods(
    names: Sequence[str], *, weights: Mapping[str, Path], seed: int = 0, device: str = "cpu"
) -> tuple[list[Method], list[Absent]]:
    """Return encoders, each with its weights and with random ones; and those without weights.

    Parameters
    ----------
    names
        Of the registry.
    weights
        Files in place of the packaged weights, by name.
    seed
        Of random weights, and of the choice of directions.
    device
        Of the networks.

    Raises
    ------
    ConfigError
        If there is no such encoder.
    WeightsError
        If weights that are there cannot be used.
    """
    methods: list[Method] = []
    absent: list[Absent] = []
    for name in names:
        find_model(name, family="encoder")
        try:
            trained = load_encoder(name, weights=weights.get(name), device=device)
        except WeightsError as error:
            if name in weights or has_packaged_weights(name):
                raise
            absent.append(Absent(name, f"no weights ({error.found})"))
        else:
            methods.append(as_method(name, trained, trained.weights.sha256, seed))
        random = untrained_encoder(name, seed=seed, device=device)
        methods.append(as_method(f"untrained {name}", random, f"untrained {name} {seed}", seed))
    return methods, absent


def has_packaged_weights(name: str) -> bool:
    """Return whether weights of a model ship with the package."""
    from importlib.resources import files

    return (files("dmri_fm") / "data" / "weights" / f"{name}.safetensors").is_file()


def untrained_encoder(name: str, *, seed: int = 0, device: str = "cpu") -> Encoder[Any]:
    """Return an encoder of the registry with random initial weights."""
    model = find_model(name, family="encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = model.network(model.config).to(device).eval().requires_grad_(False)
    weights = Weights(name, "untrained", "", model.config, network, {}, {}, {})
    encoder: Any = model.adapter(weights)
    made: Encoder[Any] = encoder
    return made


def as_method(title: str, encoder: Encoder[Any], state: str, seed: int) -> Method:
    """Return an encoder as a method, which reads scans as the app does, the OOD score included.

    A scan on another grid than the encoder's is resampled once; its b-vectors stay, both grids
    lying in MNI152NLin2009aSym.
    """

    def compute(sample: Sample) -> Vectors:
        dwi = on_grid(sample.dwi, encoder.grid)
        features = encoder.encode(encoder.prepare(dwi, n_directions=None, seed=seed))
        return {key: value.astype(np.float64) for key, value in features.vectors.items()}

    def obstacle(gtab: GradientTable) -> str | None:
        if encoder.name.startswith("artefact-unet") and find_shell(gtab) is None:
            return f"no shell of {FEWEST_DIRECTIONS} spread directions"
        return None

    return Method(title, compute, (state, seed), obstacle)


def on_grid(dwi: Dwi, grid: Grid) -> Dwi:
    """Return a series in the template's space on another grid of it."""
    is_there = dwi.shape[:3] == grid.shape and np.allclose(
        dwi.affine, grid.affine, atol=_TOLERANCE_MM
    )
    return dwi if is_there else resample_series(dwi, grid)
