"""Weights of whole pretrainings, from which the study starts in place of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm.registry import load_weights
from dmri_fm.weights import Weights
from dmri_fm_lab.train.artefact_unet import OBJECTIVES
from dmri_fm_lab.train.scan_cache import CachedScan
from dmri_fm_lab.train.seen import find_seen_of_dataset

logger = logging.getLogger(__name__)

#: Name of the model in the registry.
MODEL = "artefact-unet"


def split_names(texts: Sequence[str]) -> dict[str, Path]:
    """Read OBJECTIVE=FILE.

    Raises
    ------
    ConfigError
        If one has another form or objective, or an objective lacks its file.

    Examples
    --------
    >>> split_names([])
    {}
    >>> split_names(["artefacts=a.safetensors"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    dmri_fm.errors.ConfigError: --weights without autoencoder=FILE...
    """
    found: dict[str, Path] = {}
    for text in texts:
        objective, equals, path = text.partition("=")
        if not equals or objective not in OBJECTIVES:
            raise ConfigError(
                f"--weights {text}",
                expected=" or ".join(f"{known}=FILE" for known in OBJECTIVES),
            )
        found[objective] = Path(path)
    if missing := [known for known in OBJECTIVES if found and known not in found]:
        raise ConfigError(
            f"--weights without {missing[0]}=FILE",
            expected="a file of each objective: one pretraining is compared with the other",
        )
    return found


def read_pretrained(paths: Mapping[str, Path]) -> dict[str, Weights]:
    """Load the weights of each objective.

    Raises
    ------
    ConfigError
        If weights are of another objective, or their trainings differ in more than the objective.
    WeightsError
        If weights cannot be used.
    """
    found = {objective: load_weights(path, model=MODEL) for objective, path in paths.items()}
    for objective, weights in found.items():
        trained = weights.training.get("settings", {}).get("objective")
        if trained != objective:
            raise ConfigError(
                f"weights of the objective {trained!r}", path=paths[objective], expected=objective
            )
    described = {objective: _describe(weights) for objective, weights in found.items()}
    for objective, own in described.items():
        first = described[OBJECTIVES[0]]
        if differ := sorted(k for k in first.keys() | own.keys() if first.get(k) != own.get(k)):
            raise ConfigError(
                f"trained with other {', '.join(differ)} than {paths[OBJECTIVES[0]].name}",
                path=paths[objective],
                expected="two trainings that differ in their objective alone",
                advice="pretrain both with the same settings and scans",
            )
    return found


def _describe(weights: Weights) -> dict[str, Any]:
    """Return what both trainings must share."""
    settings = dict(weights.training.get("settings", {}))
    del settings["objective"]
    return settings | {"scans": weights.training.get("scans")}


def drop_seen(
    scans: Sequence[CachedScan], bids: Path, paths: Mapping[str, Path]
) -> tuple[list[CachedScan], list[str]]:
    """Leave the scans of participants out whom the weights have seen; they are named in the log.

    Parameters
    ----------
    scans
        Of the dataset.
    bids
        The dataset.
    paths
        Weights by objective.

    Returns
    -------
    scans, names
        Those that are left, and the names of the others.

    Raises
    ------
    ConfigError
        If none is left.
    """
    seen: set[str] = set()
    for path in paths.values():
        participants, unknown = find_seen_of_dataset(bids, path, model=MODEL)
        seen |= {f"sub-{label}" for label in participants}
        if unknown:
            logger.warning("%s: %s", path, unknown)
    names = [scan.name for scan in scans if scan.participant in seen]
    for name in names:
        logger.warning("%s: left out, the pretraining has seen this participant", name)
    if scans and len(names) == len(scans):
        raise ConfigError(
            f"the weights have seen all participants of {len(scans)} scans",
            path=bids,
            expected="participants that the pretraining has not seen",
        )
    return [scan for scan in scans if scan.name not in names], names
