"""A tiny D-RoPE autoencoder on a small grid in the middle of the brain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dmri_fm.encoders.drope.config import SMALL, DropeConfig
from dmri_fm.encoders.drope.mae import MaeConfig
from dmri_fm.normalise.grid import Grid
from dmri_fm.registry import MODELS
from dmri_fm_lab.train import drope as drope_training

SIDE = 16
TINY = replace(SMALL, grid_shape=(SIDE,) * 3, dim=24, depth=1, heads=2)
TINY_MAE = MaeConfig(TINY, decoder_dim=24, decoder_depth=1, decoder_heads=2)


def middle_of_the_brain() -> Grid:
    """Return a grid of 2 mm where all tissues are."""
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [4, -30, 0]
    return Grid((SIDE,) * 3, affine)


def register_tiny(patch: pytest.MonkeyPatch) -> None:
    """Put the tiny autoencoder in the place of `drope`."""
    patch.setitem(MODELS, "drope", MODELS["drope"]._replace(config=TINY))
    patch.setitem(drope_training.MAE_CONFIGS, "drope", TINY_MAE)
    patch.setattr(DropeConfig, "grid", middle_of_the_brain())
