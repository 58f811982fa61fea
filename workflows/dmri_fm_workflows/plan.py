"""What a run will do with a participant, decided before anything runs.

A plan follows from names, headers, sidecars and gradient files alone. `--dry-run` prints it, and
the builders of the graph take every decision from it, so that the two cannot differ. What only
voxels can tell (volumes without signal, a doubtful mask, b-vectors that do not follow the fibres)
is found while the graph runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dmri_fm.distortion import fill_readouts
from dmri_fm.gradients import GradientTable
from dmri_fm.identity import ENCODERS, TENSOR_NETWORKS
from dmri_fm.normalise.registration import COREGISTRATION_METHOD, name_normalisation
from dmri_fm.preprocess.mask import is_slab, name_mask
from dmri_fm.qspace import (
    FEATURE_DIRECTIONS,
    SixDirections,
    find_six,
)
from dmri_fm.tensor_design import describe_widening, determines_tensor, select_shells
from dmri_fm.vector_lengths import share_length
from dmri_fm_workflows.bids import DwiSeries, EpiImage, Participant, Session
from dmri_fm_workflows.bids.names import session_of
from dmri_fm_workflows.config import RunConfig
from dmri_fm_workflows.engines import Engines
from dmri_fm_workflows.models import scan_features
from dmri_fm_workflows.stages import denoise as denoise_stage
from dmri_fm_workflows.stages import hmc as hmc_stage
from dmri_fm_workflows.stages import sdc as sdc_stage
from dmri_fm_workflows.stages.sdc.choice import SdcChoice, choose_sdc

__all__ = [
    "ParticipantPlan",
    "SeriesPlan",
    "SessionPlan",
    "plan_participant",
    "plan_series",
]

SLOPPY_WARNING = "Made with --sloppy: coarse and quick, for trying out; not for use."


@dataclass(frozen=True, eq=False, kw_only=True)
class SeriesPlan:
    """What is done with one series.

    Attributes
    ----------
    series
        Its runs, and the image that opposes them.
    gtab
        Gradients of all runs, RAS+; volumes whose gradients cannot be used are not in it.
    t1w
        The T1w image that the b=0 reference is registered to; None: it is aligned to the
        template itself.
    t1w_session
        Session that this image comes from; empty outside the sessions.
    engines
        What does each step.
    sdc
        Susceptibility correction, its reason, and images that are not used.
    unring
        Gibbs ringing is removed.
    b_scaling
        How b-vectors of another length than 1 are read: `auto`, `length` or `none`.
    normalisation
        `affine` or `syn`: the registration to the template.
    voxel_size_mm
        Voxel size in ACPC that was asked for; None: the series' own.
    output_spaces
        Spaces of series and maps.
    tensor_volumes
        Positions, in `gtab`, of the volumes that the tensor is fitted to; empty: no tensor.
    tensor_widening
        Why they hold higher b-values than a tensor should be fitted to; None if they do not.
    models
        Networks that were asked for.
    networks
        Of these, the tensor networks that run.
    six
        Directions for them by the gradient files; None if no shell has six. The run chooses
        again once b-vectors are turned with the head into ACPC.
    encoders
        Of these, those that give features.
    features
        Features of a scan by encoder, `pooled` or `cls`, as its weights give them.
    weights
        Weights file by model, in place of the packaged one.
    random_seed
        Seed of whatever a model draws.
    sloppy
        Coarse and quick, for tests.
    warnings
        What the reader of the results should know; they stand in the sidecars.
    """

    series: DwiSeries
    gtab: GradientTable
    t1w: Path | None
    t1w_session: str
    engines: Engines
    sdc: SdcChoice
    unring: bool
    b_scaling: str
    normalisation: str
    voxel_size_mm: float | None
    output_spaces: tuple[str, ...]
    tensor_volumes: tuple[int, ...]
    tensor_widening: str | None
    models: tuple[str, ...]
    networks: tuple[str, ...]
    six: SixDirections | None
    encoders: tuple[str, ...]
    features: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Path] = field(default_factory=dict)
    random_seed: int = 0
    sloppy: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Stem of the outputs."""
        return self.series.name

    @property
    def entities(self) -> dict[str, str]:
        """Entities of the outputs, long names."""
        return {key: str(value) for key, value in self.series.entities.items()}

    @property
    def has_t1w(self) -> bool:
        """There is a T1w image to register to."""
        return self.t1w is not None

    @property
    def has_tensor(self) -> bool:
        """A tensor is fitted."""
        return bool(self.tensor_volumes)

    @property
    def b0_threshold(self) -> float:
        """b-values below it count as b=0 in every step, s/mm^2."""
        return self.gtab.b0_threshold

    @property
    def sources(self) -> tuple[EpiImage, ...]:
        """Images that the outputs are made from: the runs, and what corrects them."""
        outside = self.series.outside_image if self.sdc.has_field else None
        return (*self.series.runs, *([outside] if outside else []))

    @property
    def readouts_s(self) -> tuple[float, ...]:
        """Total readout time of every image of `sources`, s; assumed where none is stated."""
        stated = [image.readout_time_s for image in self.sources]
        n_runs = len(self.series.runs)
        opposed = self.series.blip_pair[0].readout_time_s if self.series.blip_pair else None
        return fill_readouts(stated[:n_runs], stated[n_runs:], opposed=opposed)

    @property
    def assumed_readouts_s(self) -> dict[str, float]:
        """Readout times that no sidecar states, by name of the image, s."""
        return {
            image.path.name: readout_s
            for image, readout_s in zip(self.sources, self.readouts_s, strict=True)
            if not image.readout_time_s
        }

    @property
    def size_gb(self) -> float:
        """Size of all runs as float32, GB."""
        return sum(4 * prod(run.shape) / 1e9 for run in self.series.runs)

    @cached_property
    def run_sizes(self) -> tuple[int, ...]:
        """Volumes of each run whose gradients can be used."""
        return tuple(len(run.gtab) for run in self.series.runs)

    @property
    def denoising(self) -> str:
        """What the sidecar says under `Denoising`."""
        engine = denoise_stage.load(self.engines.denoise)
        return "; ".join(dict.fromkeys(engine.describe(n) for n in self.run_sizes))

    @property
    def unringing(self) -> str:
        """What the sidecar says under `GibbsCorrection`."""
        return str(denoise_stage.load(self.engines.denoise).name_unringing(unring=self.unring))

    @property
    def sdc_name(self) -> str:
        """What the sidecar says under `SDCMethod`."""
        return str(sdc_stage.load(self.sdc.method).describe())

    @property
    def hmc_name(self) -> str:
        """What the sidecar says under `HMCMethod`."""
        return str(hmc_stage.load(self.engines.hmc).describe(self.sloppy))

    @property
    def is_resampled_by_hmc(self) -> bool:
        """What corrects head motion interpolates the series, and corrects distortion with it."""
        return bool(hmc_stage.load(self.engines.hmc).resamples)

    @property
    def has_remaining_field(self) -> bool:
        """There is a distortion field that is still to be corrected after head motion."""
        return self.sdc.has_field and not self.is_resampled_by_hmc

    @property
    def is_slab(self) -> bool:
        """The field of view is too short along the body for a whole head."""
        first = self.series.runs[0]
        return is_slab(first.shape, first.affine)

    @property
    def mask_name(self) -> str:
        """What the sidecar says under `MaskMethod`, unless the voxels say otherwise."""
        return name_mask("b0", slab=self.is_slab)

    @property
    def coregistration_name(self) -> str | None:
        """What the sidecar says under `CoregistrationMethod`; None without a T1w image."""
        return COREGISTRATION_METHOD if self.has_t1w else None

    @property
    def normalisation_name(self) -> str:
        """What the sidecar says under `NormalisationMethod`."""
        return name_normalisation(self.normalisation)

    @property
    def methods(self) -> tuple[str, ...]:
        """What the sidecars say of every step that the plan decides, with versions."""
        names = (self.denoising, self.unringing, self.sdc_name, self.hmc_name, self.mask_name,
                 self.normalisation_name)  # fmt: skip
        return (*names, COREGISTRATION_METHOD, name_mask("t1w")) if self.has_t1w else names

    @property
    def length_scaling(self) -> tuple[str, float | None] | None:
        """How b-vectors of another length are read, and the length that all runs share, if any.

        None if all have unit length but for rounding: then MD of the ventricles need not be
        looked at.
        """
        found = [r.gradients.lengths for r in self.series.runs]
        read_as = [x.method for x in found if x is not None and not x.is_rounding]
        if not read_as:
            return None
        common = [1.0 if x is None else x.common for x in found]
        shared = [c for c in common if c is not None]
        return read_as[0], share_length(shared) if len(shared) == len(found) else None

    @property
    def n_six_candidates(self) -> int:
        """Distinct directions of the shell that the six come from."""
        if self.six is None:
            return 0
        shell = next(s for s in self.gtab.shells if self.six.index[0] in s.index)
        return len(self.gtab.group_axes(shell.index))

    def network_inputs(self, model: str) -> dict[str, Any]:
        """Return the inputs that the interface of every network has, but for its name."""
        own = {"weights": str(self.weights[model])} if model in self.weights else {}
        return {"device": self.engines.device, "seed": self.random_seed, **own}

    @property
    def n_feature_directions(self) -> int:
        """Diffusion-weighted volumes that an encoder sees."""
        return min(FEATURE_DIRECTIONS, int((~self.gtab.is_b0).sum())) if self.encoders else 0


@dataclass(frozen=True, eq=False, kw_only=True)
class SessionPlan:
    """What is done with one session that has a series.

    Attributes
    ----------
    label
        Without `ses-`; None where the dataset has no sessions.
    t1w
        T1w image that is processed, or None.
    unused_t1w
        Further T1w images.
    normalisation
        `affine` or `syn`: the registration to the template.
    sloppy
        Coarse and quick, for tests.
    series
        One plan each.
    """

    label: str | None
    t1w: Path | None
    unused_t1w: tuple[Path, ...]
    normalisation: str
    sloppy: bool
    series: tuple[SeriesPlan, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class ParticipantPlan:
    """What is done with one participant.

    Attributes
    ----------
    label
        Without `sub-`.
    sessions
        Those with a series.
    """

    label: str
    sessions: tuple[SessionPlan, ...]

    @property
    def series(self) -> tuple[SeriesPlan, ...]:
        """Every series of every session."""
        return tuple(plan for session in self.sessions for plan in session.series)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, with versions, of every series."""
        return tuple(name for plan in self.series for name in plan.methods)


def plan_participant(
    config: RunConfig, participant: Participant, engines: Engines
) -> ParticipantPlan:
    """Decide everything that can be decided before a participant's scans are read.

    Parameters
    ----------
    config
        The request.
    participant
        Sessions and series, as :func:`dmri_fm_workflows.bids.read_dataset` finds them.
    engines
        What `auto` means on this machine.
    """
    return ParticipantPlan(
        label=participant.label,
        sessions=tuple(
            SessionPlan(
                label=session.label,
                t1w=session.t1w[0] if session.t1w else None,
                unused_t1w=session.t1w[1:],
                normalisation=config.normalisation,
                sloppy=config.sloppy,
                series=tuple(plan_series(config, s, session, engines) for s in session.series),
            )
            for session in participant.sessions
            if session.series
        ),
    )


def plan_series(
    config: RunConfig, series: DwiSeries, session: Session, engines: Engines
) -> SeriesPlan:
    """Decide what is done with one series of a session."""
    gtab = GradientTable.concatenate([run.gtab for run in series.runs])
    volumes = select_shells(gtab) if determines_tensor(gtab) else np.array([], dtype=int)
    wanted = tuple(m for m in config.models if m in TENSOR_NETWORKS)
    encoders = tuple(m for m in config.models if m in ENCODERS)
    six = find_six(gtab, seed=config.random_seed) if len(volumes) and wanted else None
    networks = wanted if six is not None else ()
    sdc = choose_sdc(series, engines.pair_sdc)
    warnings = [SLOPPY_WARNING] if config.sloppy else []
    warnings += [*session.warnings, *series.warnings]
    if sdc.warning is not None:
        warnings.append(sdc.warning)
    if len(volumes) and wanted and not networks:
        warnings.append(
            f"{series.name}: no shell has six directions that determine a tensor: the tensor "
            "network is left out."
        )
    if six is not None and six.problem is not None:
        warnings.append(f"{series.name}: {six.problem} for a tensor network.")
    return SeriesPlan(
        series=series,
        gtab=gtab,
        t1w=session.t1w[0] if session.t1w else None,
        t1w_session=session_of(session.t1w[0]) if session.t1w else "",
        engines=engines,
        sdc=sdc,
        unring=config.unring,
        b_scaling=config.b_scaling,
        normalisation=config.normalisation,
        voxel_size_mm=config.output_resolution,
        output_spaces=tuple(dict.fromkeys(("ACPC", *config.output_spaces))),
        tensor_volumes=tuple(int(i) for i in volumes),
        tensor_widening=describe_widening(gtab, volumes) if len(volumes) else None,
        models=config.models,
        networks=networks,
        six=six,
        encoders=encoders,
        features={e: scan_features(e, config.weights) for e in encoders},
        weights=config.weights,
        random_seed=config.random_seed,
        sloppy=config.sloppy,
        warnings=tuple(dict.fromkeys(warnings)),
    )
