"""What a sidecar says of the model behind a map or a feature, in the fields of BEP016."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from dmri_fm.derivatives.maps import Kind
from dmri_fm.derivatives.references import load_references

__all__ = ["nest_model", "orientation_encoding", "parameter_url"]

#: Terms of BEP016 for the fits that this project does.
FIT_METHODS: Mapping[str, str] = MappingProxyType({"weighted least squares": "wls"})

#: Entries of a model's own account that say what it is. All others say how it was fitted or run,
#: and become `Parameters`.
_IDENTITY = ("Name", "Version", "Weights", "SHA256", "License", "Status", "StatusReasons")

#: Entries of a sidecar that are not the model's.
_NOT_OF_MODEL = ("Model", "Warnings")


def parameter_url(kind: Kind) -> str | None:
    """Return the address of the work that defines a map's parameter, or None."""
    if kind.parameter is None:
        return None
    return f"https://doi.org/{load_references()[kind.parameter].doi}"


def orientation_encoding() -> dict[str, Any]:
    """Return how the volumes of a tensor image hold its elements.

    The reference is `xyz`: elements are along the RAS+ axes of the scanner frame of the file, so
    they do not change when the image is stored along other axes (`ijk` and `bvec` would be
    relative to the image's own axes, the latter with FSL's rule for the sign of the first).
    """
    return {
        "Type": "tensor",
        "Reference": "xyz",
        "EncodingAxis": 3,
        "TensorRank": 2,
        "AntipodalSymmetry": True,
    }


def nest_model(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put what a tensor model says of itself into `Model` and `Model.Parameters`.

    Parameters
    ----------
    facts
        `metadata` of the model's maps; a `Model` among them is kept and wins.

    Examples
    --------
    >>> nest_model({"Name": "x", "FitMethod": "weighted least squares", "Warnings": []})
    {'Warnings': [], 'Model': {'Name': 'x', 'Parameters': {'FitMethod': 'wls'}}}
    """
    kept = {key: facts[key] for key in _NOT_OF_MODEL if key in facts and key != "Model"}
    model = {key: facts[key] for key in _IDENTITY if key in facts}
    known = {*_IDENTITY, *_NOT_OF_MODEL, "Reference"}
    parameters = {key: value for key, value in facts.items() if key not in known}
    if "FitMethod" in parameters:
        named = parameters["FitMethod"]
        parameters["FitMethod"] = FIT_METHODS.get(named, named)
    given = dict(facts.get("Model", {}))
    parameters |= given.pop("Parameters", {})
    model |= given
    return kept | {"Model": model | ({"Parameters": parameters} if parameters else {})}
