"""What `dmri-fm compare-encoders` is asked for, carried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm.registry import feature_grid
from dmri_fm_lab.encoder_comparison.cohort import ComparisonRequest
from dmri_fm_lab.encoder_comparison.encoders import (
    ENCODERS,
    encoder_methods,
    has_packaged_weights,
)
from dmri_fm_lab.encoder_comparison.real_scans import compare_on_scans, list_scans
from dmri_fm_lab.encoder_comparison.report import (
    format_cohort_comparison,
    format_scan_comparison,
)
from dmri_fm_lab.encoder_comparison.study import BASELINES, compare_encoders
from dmri_fm_lab.evaluate.cohorts import CohortRequest
from dmri_fm_lab.prediction.pretrained_on import describe_seen
from dmri_fm_lab.train.seen import find_seen_of_dataset


@dataclass(frozen=True)
class RunRequest:
    """Encoders, and the data that they are compared on.

    Attributes
    ----------
    models, weights
        Names in the registry, and files in place of packaged weights by name.
    baselines
        Of :data:`.study.BASELINES`.
    n_participants, n_heads, n_sites, n_directions, seed
        Of the simulated cohort, see :class:`.cohort.ComparisonRequest`.
    device
        Of the networks.
    scans, participant_labels
        Dataset of real scans, raw or the app's output, and participants of it; None: none, all.
    """

    models: tuple[str, ...] = ENCODERS
    weights: Mapping[str, Path] = field(default_factory=dict)
    baselines: tuple[str, ...] = BASELINES
    n_participants: int = 60
    n_heads: int = 12
    n_sites: int = 3
    n_directions: int = 20
    seed: int = 0
    device: str = "cpu"
    scans: Path | None = None
    participant_labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.weights) - set(self.models)):
            raise ConfigError(
                f"weights of {', '.join(unknown)}", expected=f"some of {', '.join(self.models)}"
            )


def run_comparison(request: RunRequest, folder: Path) -> tuple[dict[str, Any], str]:
    """Compare on the simulated cohort, and on real scans where they are asked for.

    Parameters
    ----------
    request
        Encoders and data.
    folder
        Keeps heads and vectors.

    Returns
    -------
    record, text
        JSON-ready: `cohort`, see :func:`.study.compare_encoders`, and `scans`, see
        :func:`.real_scans.compare_on_scans`; the tables as markdown.
    """
    # D-RoPE and SSDiff share the 2 mm grid; the U-Net's input is resampled from it.
    grid = feature_grid("drope")
    cohort = ComparisonRequest(
        CohortRequest(
            request.n_participants,
            request.n_heads,
            n_directions=request.n_directions,
            seed=request.seed,
        ),
        n_sites=request.n_sites,
    )
    encoders, absent = encoder_methods(
        request.models, weights=request.weights, seed=request.seed, device=request.device
    )
    found = compare_encoders(
        encoders, absent, cohort, grid=grid, folder=folder, baselines=request.baselines
    )
    record = {"cohort": found}
    parts = [format_cohort_comparison(record["cohort"])]
    if request.scans is not None:
        labels = request.participant_labels
        scans = list_scans(request.scans, grid, participant_labels=labels)
        record["scans"] = compare_on_scans(
            encoders,
            absent,
            scans,
            folder=folder,
            baselines=request.baselines,
            seen=_describe_pretraining(request, request.scans),
        )
        parts.append(format_scan_comparison(record["scans"]))
    return record, "\n\n".join(parts)


def _describe_pretraining(request: RunRequest, root: Path) -> dict[str, str]:
    """Return for each encoder with weights whom of the scans' participants it has seen."""
    found = {}
    for name in request.models:
        if name in request.weights or has_packaged_weights(name):
            seen = find_seen_of_dataset(
                root,
                request.weights.get(name, name),
                model=name,
                participant_labels=request.participant_labels,
            )
            found[name] = describe_seen(name, seen)
    return found
