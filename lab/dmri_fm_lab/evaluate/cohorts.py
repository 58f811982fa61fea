"""Two simulated cohorts: is an outcome predicted from features as well as from FA and MD?

Brains are those of the generator that no network is trained on. In one cohort the outcome changes
FA and MD; in the other it changes crossing fibres and restricted diffusion, while FA and MD of
every voxel stay, see :mod:`dmri_fm_lab.simulate.voxel_effects`. Head, size of CSF spaces, tissue,
noise and directions vary between participants and have nothing to do with the outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmri_fm.encoders.drope.network import Drope
from dmri_fm.errors import ConfigError
from dmri_fm.gradients import GradientTable
from dmri_fm.normalise.grid import Grid
from dmri_fm.qspace import FEATURE_DIRECTIONS, choose_spread
from dmri_fm_lab.evaluate.cohort_regions import brain_sizes, choose_parcels, regional_means
from dmri_fm_lab.evaluate.cohort_scores import format_cohort, score_cohort
from dmri_fm_lab.evaluate.galleries import brain_geometry, noisy_scan
from dmri_fm_lab.evaluate.records import json_ready, versions
from dmri_fm_lab.evaluate.representations import (
    baseline_features,
    compared_features,
    with_untrained,
)
from dmri_fm_lab.feature_cache import FeatureCache, Vectors
from dmri_fm_lab.grid_scans import EVALUATION, GridScan
from dmri_fm_lab.simulate.anatomy import Shape
from dmri_fm_lab.simulate.protocol import N_B0, draw_protocol
from dmri_fm_lab.simulate.subject import Tissue
from dmri_fm_lab.simulate.voxel_effects import CONSTANTS, EFFECTS, CohortTissue
from dmri_fm_lab.simulate.voxel_tissue import FACTORS, Geometry, tissue_signal

logger = logging.getLogger(__name__)

#: Deviations between participants: logarithm of each of :data:`FACTORS`, logit of the
#: share of CSF in a voxel, walls of the ventricles (mm, between heads).
TISSUE_DEVIATION, CSF_DEVIATION, VENTRICLES_MM = 0.05, 0.3, 1.5

#: Largest effect, in standard deviations.
LARGEST_EFFECT = 2.0

#: First seed of heads: that of the gallery's brain is lower.
_FIRST_HEAD = 100

_NOTES = {
    "outcome": "correlates with the effect on the tissue by `correlation`, whose square bounds "
    "R^2; the rest is noise that no measurement shows",
    "fa-md": "the effect changes the stick fraction of all white matter, and with it FA and MD",
    "compensated": "the effect changes the stick fraction and the share of crossing fibres; "
    "parallel and radial diffusivity of each voxel keep the FA and MD that are fitted to its "
    "noise-free signal",
    "nuisances": "head (shape, ventricles), CSF share, five factors of the tissue, SNR, "
    "directions",
    "folds": "heads are held out, one after the other: no participant of a test fold shares the "
    "head of a participant that a regression or its penalty was fitted to",
    "directions": "the encoder reads 12 directions of both shells, as the app chooses them; "
    "FA, MD and mean images are of all volumes, FA and MD of the shells below 1550 s/mm^2",
    "regions": "means in white and grey matter of cubes of the template's space, by the true "
    "tissue",
}


@dataclass(frozen=True)
class CohortRequest:
    """Size and protocol of both cohorts.

    Attributes
    ----------
    n_participants
        Of each cohort; the same people but for the effect.
    n_heads
        Number of different heads, four or more; participants of one head are in one fold.
    bvals
        Shells, s/mm^2.
    n_directions
        Of each shell.
    snr
        Range of the b=0 signal of white matter over the noise.
    correlation
        Correlation of outcome and effect.
    seed
        Seed of everything.
    """

    n_participants: int = 120
    n_heads: int = 12
    bvals: tuple[float, ...] = (1000.0, 2000.0)
    n_directions: int = 12
    snr: tuple[float, float] = (15.0, 35.0)
    correlation: float = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_participants < 20 or self.n_heads < 4 or self.n_directions < 7:
            raise ConfigError(
                f"{self.n_participants} participants, {self.n_heads} heads, "
                f"{self.n_directions} directions",
                expected="20 participants, four heads, 7 directions or more",
            )


@dataclass(frozen=True)
class Participant:
    """What differs between participants, except for noise and directions.

    Attributes
    ----------
    number
        From zero.
    head
        Number of the head.
    csf
        Added to the logit of the share of CSF.
    tissue
        Without the effect.
    snr
        See :class:`CohortRequest`.
    effect, outcome
        Of variance one; the outcome is what is predicted.
    """

    number: int
    head: int
    csf: float
    tissue: Tissue
    snr: float
    effect: float
    outcome: float


def draw_participants(request: CohortRequest) -> list[Participant]:
    """Draw the participants of both cohorts."""
    people = []
    for number in range(request.n_participants):
        rng = np.random.default_rng([EVALUATION, 6, request.seed, number])
        factors = np.exp(TISSUE_DEVIATION * rng.standard_normal(len(FACTORS)))
        usual = Tissue()
        values = {k: getattr(usual, k) * f for k, f in zip(FACTORS, factors.tolist(), strict=True)}
        effect = float(np.clip(rng.standard_normal(), -LARGEST_EFFECT, LARGEST_EFFECT))
        noise = np.sqrt(1 - request.correlation**2) * rng.standard_normal()
        people.append(
            Participant(
                number,
                head=number % request.n_heads,
                csf=CSF_DEVIATION * float(rng.standard_normal()),
                tissue=replace(usual, **values),
                snr=float(np.exp(rng.uniform(*np.log(request.snr)))),
                effect=effect,
                outcome=float(request.correlation * effect + noise),
            )
        )
    return people


def draw_heads(grid: Grid, request: CohortRequest, *, cache: Path | None = None) -> list[Geometry]:
    """Draw the heads, of different shapes and ventricles; those of an earlier call are read."""
    heads = []
    for number in range(request.n_heads):
        seed = _FIRST_HEAD + request.n_heads * request.seed + number
        rng = np.random.default_rng([EVALUATION, 7, seed])
        shape = Shape(ventricles_mm=VENTRICLES_MM * float(rng.standard_normal()))

        def draw(seed: int = seed, shape: Shape = shape) -> Vectors:
            logger.info("head %d", seed)
            return vars(brain_geometry(grid, seed=seed, shape=shape))

        stored = FeatureCache.of(cache, grid.shape, grid.affine, shape, seed)
        heads.append(Geometry(**stored.get("head", draw)))
    return heads


def with_more_csf(geometry: Geometry, change: float) -> Geometry:
    """Return a brain with the logit of the share of CSF changed in every voxel."""
    tissue, csf = geometry.fractions[:, :2], geometry.fractions[:, 2:] * np.float32(np.exp(change))
    total = tissue.sum(axis=1, keepdims=True) + csf
    return replace(geometry, fractions=np.concatenate([tissue, csf], axis=1) / total)


def acquire_participant(
    person: Participant, head: Geometry, effect: str, request: CohortRequest
) -> tuple[GridScan, GridScan, GridScan, CohortTissue]:
    """Scan a participant: with noise, without it, and without noise and effect.

    Noise and directions are those of the participant, whatever the effect.
    """
    rng = np.random.default_rng([EVALUATION, 8, request.seed, person.number])
    gtab = draw_protocol(
        rng,
        scheme="multishell",
        n_directions=[request.n_directions] * len(request.bvals),
        bvals=list(request.bvals),
        n_b0=N_B0,
    )
    geometry = with_more_csf(head, person.csf)
    changed = EFFECTS[effect](geometry, person.tissue, gtab, person.effect)
    clean = tissue_signal(changed.geometry, changed.tissue, gtab, fibres=changed.fibres)
    plain = tissue_signal(geometry, person.tissue, gtab)
    noise = np.random.default_rng([EVALUATION, 9, request.seed, person.number])
    scans = (
        noisy_scan(geometry, signal, gtab, snr=snr, rng=noise)
        for signal, snr in ((clean, person.snr), (clean, np.inf), (plain, np.inf))
    )
    measured, noiseless, unaffected = scans
    return measured, noiseless, unaffected, changed


def evaluate_cohorts(
    encoder: Drope,
    request: CohortRequest,
    *,
    cache: Path | None = None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Predict the outcome of both cohorts from features and from baselines.

    Parameters
    ----------
    encoder
        Trained encoder.
    request
        Size of the cohorts.
    cache
        Folder of heads and features, from which an interrupted evaluation goes on.
    report
        Function that receives the tables of each cohort when that is complete.

    Returns
    -------
    dict
        JSON-ready: `cohorts`, by key of :data:`~dmri_fm_lab.simulate.voxel_effects.EFFECTS`, see
        :func:`~.cohort_scores.score_cohort`.
    """
    people = draw_participants(request)
    heads = draw_heads(encoder.config.grid, request, cache=cache)
    stored = FeatureCache.of(cache, encoder, request, people, heads, CONSTANTS)
    encoders = with_untrained(encoder, seed=request.seed)
    where = np.logical_or.reduce([head.mask for head in heads])
    parcels = choose_parcels(heads)
    outcome = np.array([person.outcome for person in people])
    groups = np.array([person.head for person in people])
    cohorts = {}
    for effect in EFFECTS:
        rows: dict[str, list[NDArray[np.float64]]] = {}
        for person in people:

            def describe(person: Participant = person, effect: str = effect) -> Vectors:
                logger.info("%s: participant %d of %d", effect, person.number + 1, len(people))
                scans = acquire_participant(person, heads[person.head], effect, request)
                return _describe(encoders, *scans, where=where, parcels=parcels)

            for name, row in stored.get(f"{effect}-{person.number:04d}", describe).items():
                rows.setdefault(name, []).append(row)
        cohorts[effect] = score_cohort(rows, outcome, groups, seed=request.seed)
        report(format_cohort(effect, cohorts[effect]))
    return json_ready(
        {
            "request": asdict(request),
            "versions": versions(),
            "notes": _NOTES,
            "outcome": outcome.tolist(),
            "cohorts": cohorts,
        }
    )


def _describe(
    encoders: Mapping[str, Drope],
    measured: GridScan,
    noiseless: GridScan,
    unaffected: GridScan,
    changed: CohortTissue,
    *,
    where: NDArray[np.bool_],
    parcels: NDArray[np.int_],
) -> Vectors:
    """Return features and baselines of a participant, and what the effect has changed."""
    read = measured.select(_as_the_app(measured.gtab, encoders[""]))
    return {
        **compared_features(encoders, read),
        **baseline_features(measured, where=where),
        "regions": regional_means(measured, changed.geometry, parcels),
        "size": brain_sizes(changed.geometry),
        "regions_noiseless": regional_means(noiseless, changed.geometry, parcels),
        "regions_unaffected": regional_means(unaffected, changed.geometry, parcels),
        "affected": np.array([changed.affected]),
    }


def _as_the_app(gtab: GradientTable, encoder: Drope) -> NDArray[np.int_]:
    return choose_spread(gtab, FEATURE_DIRECTIONS, gamma=encoder.config.gamma)
