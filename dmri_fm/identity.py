"""Record of every model by name: family, outputs, method and citations of each.

The command line, file names, sidecars, methods text and report read a model's record here, so
that they agree. A record is added in :mod:`dmri_fm.identities`. Importing this module does not
import torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from dmri_fm.errors import ConfigError
from dmri_fm.identities import encoders, tensors
from dmri_fm.identities.base import (
    DIRECTION_CHOICES,
    REGIONS,
    RESEARCH_ONLY,
    Family,
    ModelIdentity,
    label_of,
)
from dmri_fm.project import source_url

__all__ = [
    "DEFAULT_MODELS",
    "DIRECTION_CHOICES",
    "ENCODERS",
    "IDENTITIES",
    "REGIONS",
    "RESEARCH_ONLY",
    "TENSOR_NETWORKS",
    "UNLABELLED",
    "Family",
    "ModelIdentity",
    "about_model",
    "describe_models",
    "identity",
    "label_of",
]

#: Record of every model that outputs may come from, by name: the tensor fit and the registry.
IDENTITIES: Mapping[str, ModelIdentity] = MappingProxyType(
    {model.name: model for model in (*tensors.RECORDS, *encoders.RECORDS)}
)

_CHOICES = tuple(model for model in IDENTITIES.values() if not model.ablation_of)

#: Networks that users choose from, in the order of texts. Ablations, which reproduce tables of
#: publications, are not among them; Python and the lab run them by name.
TENSOR_NETWORKS = tuple(m.name for m in _CHOICES if m.family == "tensor network")
ENCODERS = tuple(m.name for m in _CHOICES if m.family == "encoder")

#: Networks that run unless others are asked for.
DEFAULT_MODELS = ("qcg-dti", "drope")

#: Models whose figure and columns of image quality have no label: the encoder that was the only
#: one before others could run beside it.
UNLABELLED = frozenset({"drope"})


def identity(name_or_label: str) -> ModelIdentity:
    """Return the record of a model of the registry, by name or `model` entity.

    Raises
    ------
    ConfigError
        If there is no such model.

    Examples
    --------
    >>> identity("tensorrefiner").name
    'tensor-refiner'
    """
    label = label_of(name_or_label)
    for model in IDENTITIES.values():
        if model.label == label:
            return model
    raise ConfigError(
        f"unknown model {name_or_label!r}",
        expected=", ".join(IDENTITIES),
        advice="a new model has its record in dmri_fm/identities/",
    )


def about_model(name_or_label: str) -> dict[str, Any]:
    """Return the entries of `Model` in metadata that come from a model's record.

    `Name` (its title), `Label`, `Description`; if there is an address, `URL`: of the publication,
    or of the model card where the project has a public address; for models that fit something,
    `Parameters` with `FitMethod`; for experimental models, `Use`.
    """
    model = identity(name_or_label)
    found: dict[str, Any] = {
        "Name": model.title,
        "Label": model.label,
        "Description": model.description,
    }
    source = source_url()
    if model.url:
        found["URL"] = model.url
    elif model.card and source is not None:
        found["URL"] = f"{source.rstrip('/')}/blob/HEAD/{model.card}"
    if model.fit_method:
        found["Parameters"] = {"FitMethod": model.fit_method}
    if model.is_experimental:
        found["Use"] = RESEARCH_ONLY
    return found


def describe_models(names: Collection[str]) -> str:
    """Return the paragraph of the methods text on the models of these names or labels."""
    chosen = {identity(name).name for name in names}
    return " ".join(model.methods for name, model in IDENTITIES.items() if name in chosen)
