"""Volumes and gradients of a series, and the models that read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmri_fm.gradients import GradientTable
from dmri_fm.identity import identity
from dmri_fm.qspace import FEATURE_DIRECTIONS, SixDirections
from dmri_fm.shell_resampling import choose_shell
from dmri_fm_workflows.bids.ages import UNKNOWN_AGE, Age
from dmri_fm_workflows.plan.earlier import EarlierSteps
from dmri_fm_workflows.plan.engines import Engines
from dmri_fm_workflows.templates import TemplateFiles

#: Age below which maps of tensor networks are experimental, years.
YOUNGEST_YEARS = 2.0


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelPlan(EarlierSteps):
    """A series, and which models read what of it.

    Attributes
    ----------
    gtab
        Gradients of all runs, RAS+; volumes whose gradients cannot be used are not in it.
    engines
        Engine of each step; `hmc` is that of this series.
    tensor_volumes
        Positions, in `gtab`, of the volumes that the tensor is fitted to; empty: no tensor.
    models
        Requested networks.
    networks
        Tensor networks that run.
    maps
        Output types of the maps of each tensor network, as its weights give them.
    six
        Six directions for tensor networks, by the gradient files; None if no shell has six. The
        run chooses again in ACPC, where b-vectors are rotated with the image.
    encoders
        Encoders that run.
    weights
        Weights file by model, in place of the packaged one.
    region
        Part of the grid that encoders read; `auto`: each encoder's own.
    random_seed
        Seed of random sequences in models.
    age
        Age of the participant, as far as a table states it.
    """

    gtab: GradientTable
    engines: Engines
    tensor_volumes: tuple[int, ...]
    models: tuple[str, ...]
    networks: tuple[str, ...]
    six: SixDirections | None
    encoders: tuple[str, ...]
    maps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weights: Mapping[str, Path] = field(default_factory=dict)
    region: str = "auto"
    random_seed: int = 0
    age: Age = UNKNOWN_AGE

    @property
    def has_tensor(self) -> bool:
        """Whether a tensor is fitted."""
        return bool(self.tensor_volumes)

    @property
    def b0_threshold(self) -> float:
        """Threshold of b=0 volumes in every step, s/mm^2."""
        return self.gtab.b0_threshold

    @property
    def templates(self) -> tuple[TemplateFiles, ...]:
        """Templates of TemplateFlow in whose spaces maps are written."""
        return self.engines.templates

    @property
    def age_check(self) -> str:
        """Entry `ParticipantAge` of the sidecars of tensor networks."""
        if self.age.problem:
            return "unclear"
        if self.age.years is None:
            return "unknown"
        older, younger = (f"{w} {YOUNGEST_YEARS:g} years" for w in ("at least", "below"))
        return younger if self.age.years < YOUNGEST_YEARS else older

    @property
    def n_six_candidates(self) -> int:
        """Number of distinct directions of the shell of the six."""
        if self.six is None:
            return 0
        shell = next(s for s in self.gtab.shells if self.six.index[0] in s.index)
        return len(self.gtab.group_axes(shell.index))

    def network_inputs(self, model: str) -> dict[str, Any]:
        """Return the inputs, besides its name, of the interface of a network."""
        own = {"weights": str(self.weights[model])} if model in self.weights else {}
        return {"device": self.engines.device, **own}

    def region_of(self, encoder: str) -> str:
        """Return the part of the grid that an encoder reads."""
        return identity(encoder).extraction.region if self.region == "auto" else self.region

    def n_directions_of(self, encoder: str) -> int:
        """Return the number of diffusion-weighted volumes that an encoder reads."""
        n_weighted = int((~self.gtab.is_b0).sum())
        choice = identity(encoder).extraction.directions
        if choice == "shell":
            return len(choose_shell(self.gtab).index)
        return n_weighted if choice == "all" else min(FEATURE_DIRECTIONS, n_weighted)
