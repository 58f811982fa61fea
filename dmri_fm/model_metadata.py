"""What metadata say of the model behind a map or a feature, in the fields of BEP016."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["join_models", "nest_model", "orientation_encoding"]

#: Entries of a model's own account that say what it is. All others say how it was fitted or run,
#: and become `Parameters`.
_IDENTITY = ("Version", "Weights", "SHA256", "License", "Status", "StatusReasons")

#: Entries of a sidecar that are not the model's.
_NOT_OF_MODEL = ("Model", "Warnings")


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


def join_models(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Join `Model` objects: their `Parameters` together, of other entries the last wins.

    Examples
    --------
    >>> join_models({"Name": "x", "Parameters": {"FitMethod": "wls"}}, {"Parameters": {"Seed": 0}})
    {'Name': 'x', 'Parameters': {'FitMethod': 'wls', 'Seed': 0}}
    """
    joined: dict[str, Any] = {}
    for part in parts:
        both = {**joined.get("Parameters", {}), **part.get("Parameters", {})}
        joined |= {**part, **({"Parameters": both} if both else {})}
    return joined


def nest_model(record: Mapping[str, Any]) -> dict[str, Any]:
    """Put what a tensor model says of its run into `Model` and `Model.Parameters`.

    Name, description and fit method are not among it: they are the record's, see
    :func:`dmri_fm.identity.about_model`.

    Parameters
    ----------
    record
        `metadata` of the model's maps; a `Model` among them is kept and wins.

    Examples
    --------
    >>> nest_model({"Version": "0.3.0", "Seed": 0, "Warnings": []})
    {'Warnings': [], 'Model': {'Version': '0.3.0', 'Parameters': {'Seed': 0}}}
    """
    kept = {key: record[key] for key in _NOT_OF_MODEL if key in record and key != "Model"}
    model = {key: record[key] for key in _IDENTITY if key in record}
    known = {*_IDENTITY, *_NOT_OF_MODEL}
    parameters = {key: value for key, value in record.items() if key not in known}
    own: dict[str, Any] = {**model, **({"Parameters": parameters} if parameters else {})}
    return kept | {"Model": join_models(own, record.get("Model", {}))}
