"""Scores that were saved: which weights they are of, and reading them for a gate.

Numbers are of one file of weights, which its sha256 names; those of other weights are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm.json_files import read_object
from dmri_fm.registry import load_weights
from dmri_fm_lab.evaluate.conditions import BASE
from dmri_fm_lab.evaluate.verdicts import TO_BEAT

Networks = Mapping[str, Mapping[str, Any]]


def describe_networks(models: Sequence[str], weights: Mapping[str, Path]) -> dict[str, Any]:
    """Return version, sha256, file and training scans of the weights of networks, by name.

    Called before anything is computed, so that weights that cannot be used end it at once.

    Parameters
    ----------
    models
        Names in the registry.
    weights
        Files in place of the weights that ship with the package, by model.
    """
    described = {}
    for model in models:
        path = weights.get(model)
        loaded = load_weights(path or model, model=model)
        described[model] = {
            "version": loaded.version,
            "sha256": loaded.sha256,
            "weights": "packaged" if path is None else path.name,
            "training_scans": loaded.training.get("scans", []),
        }
    return described


def check_networks(saved: Mapping[str, Any], networks: Networks, *, path: Path) -> None:
    """Refuse saved numbers that are not of the weights in use.

    Parameters
    ----------
    saved
        Content of the file; its entry `networks` has the sha256 of the weights of each.
    networks
        See :func:`describe_networks`.
    path
        The file.

    Raises
    ------
    ConfigError
        If the sha256 of a network is missing or another one.
    """
    for model, network in networks.items():
        recorded = saved.get("networks") or {}
        found = recorded.get(model, {}).get("sha256") if isinstance(recorded, Mapping) else None
        ours = network["sha256"]
        if found is None:
            raise ConfigError(
                f"the weights of {model} that the numbers are of are not named",
                path=path,
                expected=f'"networks": {{"{model}": {{"sha256": "..."}}}} in the file',
                advice=f"compute the numbers again, or, if you know that they are of these "
                f"weights, write their sha256, {ours}, into the file",
            )
        if found != ours:
            raise ConfigError(
                f"numbers of other weights of {model}, sha256 {found}",
                path=path,
                expected=f"numbers of the weights in use, sha256 {ours}",
                advice=f"name the weights by --weights {model}=FILE, or compute the numbers again",
            )


def read_conditions(path: Path, networks: Networks) -> list[dict[str, Any]]:
    """Read the simulated conditions of a file, as :func:`.conditions.compare_conditions` gives.

    Parameters
    ----------
    path
        Output of `benchmarks/tensor_on_simulation.py --json`.
    networks
        See :func:`describe_networks`.

    Raises
    ------
    ConfigError
        If they are of other weights, or the first condition, a network or a baseline is missing.
    """
    saved = read_object(path, expected="numbers of tensor_on_simulation.py")
    records: list[dict[str, Any]] = saved.get("conditions") or []
    if not any(record["name"] == BASE.name for record in records):
        raise ConfigError(
            "no numbers of the first condition", path=path, expected=f"{BASE.name!r}"
        )
    check_networks(saved, networks, path=path)
    check_rows(records, list(networks), path=path)
    return records


def check_rows(
    records: Sequence[Mapping[str, Any]], models: Sequence[str], *, path: Path | None = None
) -> None:
    """Refuse records that lack a network, a baseline that it has to beat, or its uncertainty."""
    for record in records:
        where = record.get("scanner", record.get("name"))
        for row in (*models, *TO_BEAT):
            if row not in record["methods"]:
                raise ConfigError(
                    f"no numbers of {row}: {where}",
                    path=path,
                    expected=f"the methods {', '.join(TO_BEAT)} and every network",
                )
        for model in models:
            for region, doubts in record["uncertainties"].get(model, {}).items():
                if lacking := [name for name in TO_BEAT if name not in doubts]:
                    raise ConfigError(
                        f"no uncertainty of {', '.join(lacking)}: {where}, {region}",
                        path=path,
                        expected=f"that of {', '.join(TO_BEAT)}",
                        advice="the numbers are of an earlier version: compute them again",
                    )


def read_scores(paths: Sequence[Path], networks: Networks) -> list[dict[str, Any]]:
    """Read the records of series that `dmri-fm evaluate tensor --json` has saved.

    Parameters
    ----------
    paths
        Files of complete evaluations, or of ones that were stopped.
    networks
        See :func:`describe_networks`.

    Returns
    -------
    list of dict
        See :func:`~dmri_fm_lab.evaluate.comparison.compare_scan`.

    Raises
    ------
    ConfigError
        If numbers are of other weights, or of one series twice.
    """
    found: dict[tuple[str, str, str], tuple[dict[str, Any], Path]] = {}
    for path in paths:
        saved = read_object(path, expected="numbers of dmri-fm evaluate tensor --json")
        check_networks(saved, networks, path=path)
        for record in saved.get("series") or []:
            key = record["scanner"], record["name"], record["origin"]
            if key in found:
                raise ConfigError(
                    f"the series {record['name']} of {record['scanner']} twice",
                    path=path,
                    expected=f"series that are not in {found[key][1]}",
                )
            found[key] = record, path
    if not found:
        raise ConfigError(
            "no series", path=paths[0], expected="numbers of dmri-fm evaluate tensor --json"
        )
    return [record for record, _ in found.values()]
