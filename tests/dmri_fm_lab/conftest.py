"""A simulated cohort as the app's derivatives: small and coarse, made once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from dmri_fm.encoders.drope.config import SMALL
from dmri_fm.encoders.drope.network import Drope
from dmri_fm.registry import MODELS
from dmri_fm.weights import save_weights
from dmri_fm_lab.simulate.derivatives import Cost, Features, simulate_derivatives
from dmri_fm_lab.simulate.mni_cohort import CohortRequest

#: An encoder of a few thousand weights on a grid of 4 mm.
COARSE = replace(SMALL, grid_shape=(48, 56, 48), voxel_size_mm=4.0, dim=24, depth=1, heads=2)


@dataclass(frozen=True)
class SimulatedCohort:
    """Folder of a simulated cohort, and what it was made by."""

    folder: Path
    request: CohortRequest
    weights: Path
    cost: Cost


def save_coarse(path: Path, *, seed: int = 0) -> Path:
    """Save random weights of the coarse encoder."""
    torch.manual_seed(seed)
    return save_weights(path, Drope(COARSE), name="drope", version="0", training={})


def register_coarse(patch: pytest.MonkeyPatch) -> None:
    """Let `drope` be the coarse encoder."""
    patch.setitem(MODELS, "drope", MODELS["drope"]._replace(config=COARSE))


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> SimulatedCohort:
    """Twelve participants of two sites in six families, scanned by two protocols."""
    folder = tmp_path_factory.mktemp("cohort")
    weights = save_coarse(folder / "coarse.safetensors")
    request = CohortRequest(
        12, 2, protocols=("b1000", "random"), n_directions=6, family_size=2, n_fibres=1
    )
    out = folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        register_coarse(patch)
        cost = simulate_derivatives(out, request, Features(weights=weights), fibre_voxel_mm=6.0)
    return SimulatedCohort(out, request, weights, cost)
