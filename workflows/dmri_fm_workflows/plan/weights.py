"""Weights of the models of a request: checks, and the features that they give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from dmri_fm.errors import WeightsError
from dmri_fm.identity import FeatureType, identity
from dmri_fm.json_files import read_object

if TYPE_CHECKING:
    from dmri_fm_workflows.config import RunConfig

__all__ = ["check_weights", "scan_features"]


def scan_features(encoder: str, weights: Mapping[str, Path]) -> str:
    """Return the type of an encoder's features of a scan, which is in the names of their files.

    The JSON file beside the weights states it. Nothing else of the weights is read.

    Parameters
    ----------
    encoder
        Name of the encoder.
    weights
        Weights files by model; an encoder that is not in it has the packaged one.

    Returns
    -------
    str
        `pooled` or `cls`.

    Raises
    ------
    WeightsError
        If the JSON file cannot be read or states anything else.
    """
    default = identity(encoder).features
    assert default is not None
    if encoder not in weights:
        return default
    path = Path(weights[encoder]).with_suffix(".json")
    settings = read_object(path, error_class=WeightsError).get("config")
    # Files without the entry are older, of encoders with a class token.
    features = settings.get("features", "cls") if isinstance(settings, dict) else None
    if features not in get_args(FeatureType):
        raise WeightsError(
            f"features of a scan: {features!r}",
            path=path,
            expected="`features` in `config`: " + " or ".join(get_args(FeatureType)),
        )
    return str(features)


def check_weights(config: RunConfig) -> None:
    """Stop before any work if a network could not run at its end.

    Raises
    ------
    WeightsError
        If a weights file of the user's cannot be used, or gives less than the outputs of its
        model need.
    """
    from dmri_fm.registry import load_weights

    for name, path in config.weights.items():
        loaded = load_weights(path, model=name)
        model = identity(name)
        if model.has_intervals and not loaded.statistics:
            raise WeightsError(
                "weights without statistics of their training data",
                path=path,
                expected=f"the statistics that the standard deviations (desc-std) of {name} need",
                advice="train with `dmri-fm train`, which writes them",
            )
