"""Metadata of the model behind a map or a feature, in the fields of BEP016."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Entries that identify a model. All others say how it was fitted or run, and become `Parameters`.
_IDENTITY = ("Version", "Weights", "SHA256", "License", "Use", "Status", "StatusReasons")

#: Entry of a model's metadata with the entries that differ between its maps, by `param` label.
STATUS_BY_MAP = "StatusByMap"

#: Maps whose status is that of another one: the main axis is the tensor's.
_STATUS_OF = {"v1": "diffusivity"}

#: Entries of a sidecar that are not the model's.
_NOT_OF_MODEL = ("Model", "Warnings")


def orientation_encoding() -> dict[str, Any]:
    """Return the layout of a tensor image: how its volumes hold the elements.

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


def metadata_of_map(metadata: Mapping[str, Any], param: str) -> dict[str, Any]:
    """Return the metadata of one map of a model: a status of its own comes before that of all.

    Parameters
    ----------
    metadata
        Of all maps of the model.
    param
        Label of the map in names; a map that has no status of its own gets that of all.

    Examples
    --------
    >>> of_all = {"Status": "primary for fa alone", "StatusByMap": {"fa": {"Status": "primary"}}}
    >>> metadata_of_map(of_all, "fa"), metadata_of_map(of_all, "ood")
    ({'Status': 'primary'}, {'Status': 'primary for fa alone'})
    """
    own = metadata.get(STATUS_BY_MAP, {}).get(_STATUS_OF.get(param, param), {})
    return {**{k: v for k, v in metadata.items() if k != STATUS_BY_MAP}, **own}


def nest_model(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Sort the metadata of a model's maps into `Model` and `Model.Parameters`.

    Name, description and fit method come from :func:`dmri_fm.identity.about_model`. A `Model`
    among the metadata is kept and wins.

    Examples
    --------
    >>> nest_model({"Version": "0.3.0", "Seed": 0, "Warnings": []})
    {'Warnings': [], 'Model': {'Version': '0.3.0', 'Parameters': {'Seed': 0}}}
    """
    kept = {key: metadata[key] for key in _NOT_OF_MODEL if key in metadata and key != "Model"}
    model = {key: metadata[key] for key in _IDENTITY if key in metadata}
    known = {*_IDENTITY, *_NOT_OF_MODEL}
    parameters = {key: value for key, value in metadata.items() if key not in known}
    own: dict[str, Any] = {**model, **({"Parameters": parameters} if parameters else {})}
    return kept | {"Model": join_models(own, metadata.get("Model", {}))}
