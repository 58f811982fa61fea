"""Weights of the models of a request: checks, and the outputs that they give."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dmri_fm.identity import ENCODERS, identity
from dmri_fm_workflows.outputs.maps import load_catalogue

if TYPE_CHECKING:
    from dmri_fm_workflows.config import RunConfig

#: Maps that some networks do not give, by the flag of a network that they need.
_OPTIONAL_MAPS = {
    "has_intervals": "standard deviations of FA and MD (desc-std)",
    "has_ood": "out-of-distribution map (param-ood)",
}


def network_maps(network: str, weights: Mapping[str, Path]) -> tuple[str, ...]:
    """Return the output types of the maps that a tensor network gives with its weights.

    Raises
    ------
    WeightsError
        If a weights file cannot be used.
    """
    if network not in weights:  # the packaged weights give what the record says
        return _select_maps(network, identity(network))
    path = Path(weights[network])
    return _read_maps(network, path, path.stat().st_mtime_ns if path.is_file() else 0)


def _select_maps(network: str, has: object) -> tuple[str, ...]:
    """Return the output types of a network's maps whose flag a record or a network has."""
    return tuple(
        of.name
        for of in load_catalogue().maps_of(network)
        if of.needs is None or getattr(has, of.needs)
    )


@cache
def _read_maps(network: str, path: Path, changed_ns: int) -> tuple[str, ...]:
    """Return the maps of a network with the user's weights, which are loaded once for all series.

    `changed_ns` is the time of the file's last change: a changed file is loaded again.
    """
    from dmri_fm.registry import load_tensor_network

    return _select_maps(network, load_tensor_network(network, weights=path))


def explain_lacking(network: str, maps: Collection[str]) -> Iterator[str]:
    """Yield a warning for each sort of map that a tensor network does not give."""
    types = load_catalogue().types
    given = {types[name].needs for name in maps}
    for flag, title in _OPTIONAL_MAPS.items():
        if flag not in given:
            reason = (
                ": its weights hold no statistics for it"
                if getattr(identity(network), flag)
                else ""
            )
            yield f"{network} gives no {title}{reason}."


def check_weights(config: RunConfig) -> None:
    """Stop before any work if a weights file of the user's cannot be used.

    Raises
    ------
    WeightsError
        If it is damaged, or of another model, or of an encoder on another grid.
    """
    from dmri_fm.registry import load_encoder

    for name, path in config.weights.items():
        if name in ENCODERS:
            load_encoder(name, weights=path)
        else:
            network_maps(name, config.weights)
